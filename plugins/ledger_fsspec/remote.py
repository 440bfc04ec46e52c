"""A shelf on any file system behind fsspec: S3, Google Cloud Storage, Azure, and whatever else there is.

Retries are the libraries' own: s3fs, gcsfs and adlfs each know which answers of their service pass. What a
library does not take up again comes here, and is tried anew.
"""

from __future__ import annotations

import errno
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from ledger.errors import PluginUnavailable
from ledger.hooks.uris import scheme, without_credentials
from ledger_fsspec.shelves import temporary_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

_OBJECT_STORES: Final = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""Schemes of which it is known that a file is there whole or not at all, and made only once where asked."""
_EXTRAS: Final = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
_FINAL: Final = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Failures that trying again does not mend."""
_REFUSED: Final = re.compile(
    r"forbidden|access ?denied|not authorized|unauthorized|credential|InvalidAccessKey|SignatureDoesNotMatch"
    r"|AuthenticationFailed|AuthorizationFailure|invalid_grant|\b40[13]\b",
    re.IGNORECASE,
)
_AZURE_MISSING: Final = "ResourceNotFoundError"
"""What adlfs lets through where there is no container; of a file that is missing it says so in Python's way."""
_TRIES: Final = 4
_SECRET: Final = re.compile(
    r"\?[^\s'\"]*|(?<=://)[^/@\s]*@|(AccountKey|AccessKey|sig|token|secret)=[^\s;&]*", re.IGNORECASE
)


class RemoteShelf:
    """What the service has taken counts as durable."""

    threads = 8
    """Such places answer late, and many at a time."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        kind = scheme(url) or ""
        self._fs: Any
        try:
            self._fs, root = url_to_fs(url if "://" in url else url.replace(":", "://", 1), use_listings_cache=False)
        except ImportError as error:
            extra = _EXTRAS.get(kind)
            raise PluginUnavailable(
                f"checkpoints cannot go to {without_credentials(url)}: {error}",
                mend=f"pip install 'training-ledger[{extra}]'" if extra else "install that library",
            ) from error
        self.uri = without_credentials(url).rstrip("/")
        self._root = root.rstrip("/")
        self._whole = kind in _OBJECT_STORES

    def read(self, path: str) -> bytes:
        """See ``Shelf``."""
        content: bytes = self._try(self._fs.cat_file, self._at(path))
        return content

    def write(self, path: str, parts: Sequence[Any]) -> None:
        """See ``Shelf``."""
        content = b"".join(parts)
        if self._whole:
            self._try(self._fs.pipe_file, self._at(path), content)
        else:
            self._by_way(path, content)

    def create(self, path: str, parts: Sequence[Any]) -> bool:
        """See ``Shelf``; on file systems that cannot create exclusively it looks first, which is not the same."""
        content = b"".join(parts)
        if not self._whole:
            if self.size(path) is not None:
                return False
            self._by_way(path, content)
            return True
        try:
            self._try(self._fs.pipe_file, self._at(path), content, mode="create")
        except OSError:
            # Services say this in many ways. And the first of two tries may have got through, its answer lost.
            try:
                return self.read(path) == content
            except FileNotFoundError:
                pass
            raise
        return True

    def settle(self, paths: Iterable[str]) -> None:
        """See ``Shelf``."""

    def size(self, path: str) -> int | None:
        """See ``Shelf``."""
        try:
            about = self._try(self._fs.info, self._at(path))
        except FileNotFoundError:
            return None
        return int(about["size"]) if about["type"] == "file" else None

    def sizes(self, path: str, *, without: Collection[str] = ()) -> dict[str, int]:
        """See ``Shelf``."""
        try:
            listed = self._try(self._fs.ls, self._at(path), detail=True) if without else []
            tops = [about for about in listed if self._relative(about) not in without]
            folders = [about["name"] for about in tops if about["type"] == "directory"] if without else [self._at(path)]
            found = [about for about in tops if about["type"] == "file"]
            for folder in folders:
                found += self._try(self._fs.find, folder, detail=True).values()
        except FileNotFoundError:
            return {}
        sizes = {self._relative(about): int(about["size"]) for about in found if about["type"] == "file"}
        # An empty folder is sometimes listed as a file of its own name.
        return {name: size for name, size in sizes.items() if not path or name.startswith(f"{path}/")}

    def remove(self, paths: Sequence[str]) -> None:
        """See ``Shelf``."""
        for path in paths:
            with suppress(FileNotFoundError):
                self._try(self._fs.rm_file, self._at(path))

    def _by_way(self, path: str, content: bytes) -> None:
        """Where half a file could be seen: under another name first."""
        temporary = self._at(temporary_name())
        try:
            self._try(self._fs.makedirs, self._fs._parent(temporary), exist_ok=True)
            self._try(self._fs.pipe_file, temporary, content)
            self._try(self._fs.makedirs, self._fs._parent(self._at(path)), exist_ok=True)
            self._try(self._fs.mv, temporary, self._at(path))
        except BaseException:
            with suppress(OSError):
                self._fs.rm_file(temporary)
            raise

    def _try(self, call: Callable[..., Any], *given: Any, **options: Any) -> Any:
        """What ``call`` gives, tried again after failures that may pass; any last failure as ``OSError``."""
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

        tries = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(_TRIES),
            wait=wait_random_exponential(multiplier=0.5, max=20),
            reraise=True,
        )
        try:
            return tries(call, *given, **options)
        except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError):
            raise
        except Exception as error:
            raise _failure(error) from error

    def _relative(self, about: dict[str, Any]) -> str:
        name: str = about["name"].strip("/")
        root = self._root.strip("/")
        return name.removeprefix(root).strip("/")

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root or self._fs.root_marker


def _failure(error: Exception) -> OSError:
    """``error`` as one of the system's, without what must not be said."""
    lines = str(error).strip().splitlines()
    text = _SECRET.sub("…", lines[0][:300] if lines else type(error).__name__)
    if isinstance(error, PermissionError) or _refused(error):
        return PermissionError(errno.EACCES, text)
    if type(error).__name__ == _AZURE_MISSING:
        return FileNotFoundError(errno.ENOENT, text)
    return OSError(getattr(error, "errno", None) or errno.EIO, text)


def _refused(error: Exception) -> bool:
    return bool(_REFUSED.search(f"{type(error).__name__} {error}"))


def _may_pass(error: BaseException) -> bool:
    final = isinstance(error, (*_FINAL, ValueError, TypeError)) or type(error).__name__ == _AZURE_MISSING
    return isinstance(error, Exception) and not final and not _refused(error)
