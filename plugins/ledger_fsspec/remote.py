"""A shelf on any file system behind fsspec: S3, Google Cloud Storage, Azure, and whatever else there is.

Retries are the libraries' own: s3fs, gcsfs and adlfs each know which answers of their service pass. What a
library does not take up again comes here, and is tried anew.
"""

from __future__ import annotations

import errno
import re
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from ledger.errors import PluginUnavailable, Unavailable
from ledger.hooks.uris import scheme, without_credentials
from ledger_fsspec.shelves import temporary_name, unless_gone

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

_OBJECT_STORES: Final = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""Schemes of which it is known that a file is there whole or not at all, and made only once where asked."""
_EXTRAS: Final = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
_FINAL: Final = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Failures that trying again does not mend."""
_REFUSED: Final = re.compile(
    r"forbidden|access ?denied|not authorized|unauthorized|credential|InvalidAccessKey|SignatureDoesNotMatch"
    r"|AuthenticationFailed|AuthorizationFailure|invalid_grant",
    re.IGNORECASE,
)
_FULL: Final = re.compile(
    r"quota ?(is |was |has been )?exceeded|over ?quota|storage ?full|insufficient ?storage|no space left", re.IGNORECASE
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
    lag = 120.0

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs
        from fsspec.registry import available_protocols

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
        except Exception as error:
            if kind not in available_protocols():
                raise  # a ``ValueError``: nobody knows that scheme
            raise Unavailable(
                f"checkpoints cannot go to {without_credentials(url)}: {_failure(error).strerror}",
                mend="check the URL, and the variables or files that hold the credentials for it",
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
        except FileNotFoundError:
            return {}
        for folder in folders:
            with suppress(FileNotFoundError):  # this one, and not the others
                found += self._try(self._below, folder)
        sizes = {self._relative(about): int(about["size"]) for about in found if about["type"] == "file"}
        # An empty folder is sometimes listed as a file of its own name.
        return {name: size for name, size in sizes.items() if not path or name.startswith(f"{path}/")}

    def remove(self, paths: Sequence[str]) -> None:
        """See ``Shelf``."""
        for path in paths:
            with suppress(FileNotFoundError):
                self._try(self._fs.rm_file, self._at(path))

    def _below(self, folder: str) -> list[dict[str, Any]]:
        if self._whole:
            return [*self._fs.find(folder, detail=True).values()]
        # fsspec's own ``find`` takes a folder that it cannot list for an empty one.
        walked = self._fs.walk(folder, detail=True, on_error=unless_gone)
        return [about for _, _, files in walked for about in files.values()]

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
    if _full(error):
        return OSError(errno.ENOSPC, text)
    if isinstance(error, PermissionError) or _refused(error):
        return PermissionError(errno.EACCES, text)
    if type(error).__name__ == _AZURE_MISSING:
        return FileNotFoundError(errno.ENOENT, text)
    return OSError(getattr(error, "errno", None) or errno.EIO, text)


def _full(error: Exception) -> bool:
    status = _status(error)
    if status == HTTPStatus.TOO_MANY_REQUESTS:  # a quota, too, but one of a minute
        return False
    return status == HTTPStatus.INSUFFICIENT_STORAGE or bool(_FULL.search(_told(error)))


def _refused(error: Exception) -> bool:
    return _status(error) in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) or bool(_REFUSED.search(_told(error)))


def _status(error: Exception) -> int | None:
    """The answer's status: aiohttp, gcsfs and Azure's library each call it otherwise."""
    found = (getattr(error, name, None) for name in ("status", "code", "status_code"))
    return next((status for status in found if isinstance(status, int)), None)


def _told(error: Exception) -> str:
    """In the library's words and, where it hides those, in the service's."""
    return " ".join(f"{type(each).__name__} {each}" for each in (error, error.__cause__) if each is not None)


def _may_pass(error: BaseException) -> bool:
    final = isinstance(error, (*_FINAL, ValueError, TypeError)) or type(error).__name__ == _AZURE_MISSING
    return isinstance(error, Exception) and not final and not _refused(error) and not _full(error)
