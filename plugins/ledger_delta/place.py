"""The files of a table, wherever it lies: listed, read, and shown as a file system of one version."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ledger.errors import DataUnavailable, PluginUnavailable
from ledger.hooks.uris import local_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

MEND: Final = "pip install 'training-ledger[delta]'"
_PIECE: Final = 8 << 20


class Place:
    """The directory of a table. Everything raises ``DataUnavailable``; no message holds a key."""

    def __init__(self, root: str) -> None:
        self._root = root
        path = local_path(root)
        self._base = str(path) if path else root.removeprefix("s3://")
        self._fs = _local() if path else _s3()

    def sizes(self, folder: str = "") -> dict[str, int]:
        """The length of every file that is there, or in a folder of it, by its path in the table."""
        with self._failures(self._root):
            found = self._fs.find(f"{self._base}/{folder}".rstrip("/"), detail=True)
        start = len(self._base) + 1
        return {name[start:]: info["size"] for name, info in found.items()}

    def read(self, name: str) -> bytes:
        """The content of a small file."""
        return b"".join(self.pieces(name))

    def written(self, name: str) -> datetime:
        """When a file was written."""
        with self._failures(name):
            found: datetime = self._fs.modified(f"{self._base}/{name}")
        return found

    def pieces(self, name: str) -> Iterator[bytes]:
        """The bytes of a file."""
        with self._failures(name), self._fs.open(f"{self._base}/{name}", "rb") as stream:
            while piece := stream.read(_PIECE):
                yield piece

    def showing(self, folder: str, files: Mapping[str, int], more: Mapping[str, bytes]) -> Any:
        """A read-only file system: in ``folder`` these files, of these lengths, and ``more``, which lies nowhere."""
        from fsspec.implementations.reference import ReferenceFileSystem

        shown: dict[str, Any] = {name: [f"{self._base}/{name}", 0, size] for name, size in files.items()}
        return ReferenceFileSystem(
            {f"{folder}/{name}": each for name, each in (shown | dict(more)).items()}, fs=self._fs
        )

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        where = "" if what == self._root else f" of the table {self._root}"
        try:
            yield
        except FileNotFoundError:
            raise DataUnavailable(f"missing {what}{where}", mend="restore it, or pin another version") from None
        except PermissionError:
            raise DataUnavailable(f"{what}{where} may not be read", mend="check the permissions and keys") from None
        except Exception as error:
            if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("botocore", "aiohttp"):
                raise DataUnavailable(
                    f"{what}{where} cannot be read ({type(error).__name__})", mend="check that its server answers"
                ) from None
            raise


def _local() -> Any:
    from fsspec.implementations.local import LocalFileSystem

    return LocalFileSystem()


def _s3() -> Any:
    import fsspec

    try:
        # Keys may have changed since another part of the process looked, and so may what lies there.
        return fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    except ImportError as error:
        raise PluginUnavailable("S3 cannot be read: s3fs is not installed", mend=MEND) from error
