"""The files at a URL as its service tells of them, and their bytes, of one version where the service has any."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal

from ledger.errors import DataUnavailable
from ledger.hooks.listing import SINGLE, File, Listing
from ledger.hooks.uris import scheme
from ledger_fsspec.services import OBJECT_STORES, connect, files_below, tried

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_CHECKSUMS: Final = ("ETag", "md5Hash", "etag", "Last-Modified", "mtime", "LastModified", "last_modified", "modified")
"""What file systems of fsspec tell that changes with the content, the surest first."""
_GONE: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)

_CANNOT: Final = "data cannot be read from"
_MISSING: Final = "check the bucket or container and the path, and that the key in use may see them"
_FORBIDDEN: Final = "check the credentials: they must allow to list and read there, older versions too"
_UNREACHABLE: Final = "check the endpoint and the network, then try again"

_NOT_ALLOWED: Final = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOSYS)

Keeping = Literal["kept", "not kept", "unknown"]


class Gone(DataUnavailable):
    """The service answers, and has no such thing, or no longer."""


@dataclass(frozen=True)
class _Service:
    """How a library names versions."""

    field: str
    """Of what is told of a file."""
    argument: str
    """Of a read; empty where the version is a part of the path."""
    options: Mapping[str, Any]
    """With which the library tells of versions at all."""


_S3: Final = _Service("VersionId", "version_id", {"version_aware": True})
_GCS: Final = _Service("generation", "generation", {})
_AZURE: Final = _Service("version_id", "", {"version_aware": True})
_SERVICES: Final = {"s3": _S3, "s3a": _S3, "gs": _GCS, "gcs": _GCS, "az": _AZURE, "abfs": _AZURE, "abfss": _AZURE}
_NO_VERSION: Final = (None, "", "null")
"""S3 calls the one state of an object ``null`` that was written without versions: the next write replaces it."""


class Files(Listing):
    """What lies at a URL. Every failure is ``DataUnavailable``; ``Gone`` where there is no such thing."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.endpoint = scheme(path) or ""
        self._service = _SERVICES.get(self.endpoint)
        self._fs, root = connect(path, _CANNOT, **(self._service.options if self._service else {}))
        self._root = root if self._is_http else root.rstrip("/")
        self._hides_versions = False

    def files(self) -> list[File]:
        """All files now, by name; none where there is nothing."""
        with self._failures():
            about = self._told(self._root) if self._is_http or not self.path.endswith("/") else None
            if about is not None and about["type"] == "file":
                return [self._file(SINGLE, about)]
            if self._is_http:
                return []
            found = [(self._name(about), about) for about in self._below() if about["type"] == "file"]
        # An empty folder is sometimes listed as a file of its own name.
        named = [(name, about) for name, about in found if name and not name.endswith("/")]
        return [self._file(name, about) for name, about in sorted(named, key=lambda each: each[0])]

    def details(self, files: Sequence[File]) -> dict[str, Any]:
        """Whether versions are kept, and what is told of a single file."""
        single = {"checksum": files[0].checksum, "version": files[0].version} if files[0].name == SINGLE else {}
        return {"versions": self.keeping(files)} | single

    def keeping(self, files: Sequence[File]) -> Keeping:
        """Whether the service goes on giving these versions after others have taken their place."""
        if not all(file.version for file in files):
            return "unknown" if self._hides_versions else "not kept"
        if self._service is not _GCS:
            return "kept"
        # Every object has a generation, but only a bucket with versioning keeps those that are not the last.
        bucket = self._root.partition("/")[0]
        with self._failures():
            told = tried(self._fs.info, bucket)
        if "versioning" not in told:  # who may read objects may not always ask about the bucket
            return "not kept" if "kind" in told else "unknown"
        return "kept" if told["versioning"].get("enabled") else "not kept"

    def has(self, file: File) -> bool:
        """Whether the service still gives this version."""
        if not file.version:
            return False
        try:
            self.read(file, 0, min(1, file.bytes))
        except Gone:
            return False
        return True

    def unchanged(self, file: File) -> bool:
        """Whether the file at this place is still the one that was listed."""
        with self._failures():
            about = self._told(self._place(file))
        return about is not None and file.same(self._file(file.name, about))

    def contents(self, files: Iterable[File]) -> Iterator[tuple[File, Iterator[bytes]]]:
        """Whole, from a web server that gives no parts."""
        given = [*files]
        if given and self._is_http and not self._takes_ranges(given[0]):
            yield given[0], self._streamed(given[0])
        else:
            yield from super().contents(given)

    def read(self, file: File, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` of a file."""
        if start >= end:
            return b""
        path, version = self._at(file)
        with self._failures(file.name):
            piece: bytes = tried(self._cat, path, file.bytes, start, end, version)
        return piece

    def nothing(self) -> DataUnavailable:
        """See ``Listing``."""
        return DataUnavailable(
            f"there are no files at {self.path}",
            mend="check the bucket or container and the path; what lies below a path is named with a final slash",
        )

    @property
    def _is_http(self) -> bool:
        return self.endpoint in ("http", "https")

    # --- what is there ----------------------------------------------------------------------------------------

    def _told(self, path: str) -> dict[str, Any] | None:
        try:
            told: dict[str, Any] = tried(self._asked_http if self._is_http else self._fs.info, path)
        except FileNotFoundError:
            return None
        return told

    def _asked_http(self, path: str) -> dict[str, Any]:
        """fsspec calls it a missing file, whatever the server or the network says."""
        try:
            told: dict[str, Any] = self._fs.info(path)
        except FileNotFoundError as error:
            if isinstance(error.__cause__, Exception) and getattr(error.__cause__, "status", None) not in _GONE:
                raise error.__cause__ from None
            raise
        return told

    def _below(self) -> list[dict[str, Any]]:
        flat = self.endpoint in OBJECT_STORES
        try:
            return self._found(flat=flat)
        except OSError as error:
            if self._service is not _S3 or error.errno not in _NOT_ALLOWED:
                raise
            # To list versions takes a permission of its own, and not every S3 can: then content is all there is.
            self._fs, _ = connect(self.path, _CANNOT)
            self._hides_versions = True
            return self._found(flat=flat)

    def _found(self, *, flat: bool) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = tried(files_below, self._fs, self._root, flat=flat)
        return found

    def _name(self, about: Mapping[str, Any]) -> str:
        name: str = about["name"].lstrip("/")
        return name.removeprefix(self._root.lstrip("/")).removeprefix("/")

    def _file(self, name: str, about: Mapping[str, Any]) -> File:
        if about["size"] is None:
            raise DataUnavailable(
                f"{self._shown(name)} cannot be pinned: the server does not say how long it is",
                mend="download it, and name the copy with file:",
            )
        told = next((about[field] for field in _CHECKSUMS if about.get(field)), "")
        version = about.get(self._service.field) if self._service else None
        return File(name, int(about["size"]), str(told).strip('"'), "" if version in _NO_VERSION else str(version))

    # --- bytes ------------------------------------------------------------------------------------------------

    def _place(self, file: File) -> str:
        return self._root if file.name == SINGLE else f"{self._root}/{file.name}"

    def _at(self, file: File) -> tuple[str, dict[str, str]]:
        """Path and arguments of a read."""
        path = self._place(file)
        if not file.version or not self._service:
            return path, {}
        if not self._service.argument:
            return f"{path}?versionid={file.version}", {}
        return path, {self._service.argument: file.version}

    def _cat(self, path: str, size: int, start: int, end: int, version: Mapping[str, str]) -> Any:
        if not self._is_http:
            return self._fs.cat_file(path, start=start, end=end, **version)
        with self._fs.open(path, size=size, block_size=self.piece, cache_type="none") as stream:
            stream.seek(start)
            return stream.read(end - start)

    def _takes_ranges(self, file: File) -> bool:
        if file.bytes <= 1:
            return True
        try:
            self._cat(self._place(file), file.bytes, 1, 2, {})
        except ValueError:  # what fsspec says of a server that answers with the whole
            return False
        except Exception:  # noqa: BLE001 - the read itself will say it, after trying again
            return True
        return True

    def _streamed(self, file: File) -> Iterator[bytes]:
        length = 0
        with self._failures(file.name), tried(self._fs.open, self._place(file), block_size=0) as stream:
            while piece := tried(stream.read, self.piece):
                length += len(piece)
                yield piece
        if length != file.bytes:
            raise self.cut_short(file)

    def _shown(self, name: str = SINGLE) -> str:
        return self.path if name == SINGLE else f"{name} in {self.path}"

    @contextmanager
    def _failures(self, name: str = SINGLE) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise Gone(f"there is nothing at {self._shown(name)}", mend=_MISSING) from error
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise DataUnavailable(
                f"{self._shown(name)} cannot be read: {reason}",
                mend=_FORBIDDEN if isinstance(error, PermissionError) else _UNREACHABLE,
            ) from error
