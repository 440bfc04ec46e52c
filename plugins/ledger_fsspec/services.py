"""The services behind fsspec: how one is reached, what is worth trying again, and a failure in the system's words.

Retries are the libraries' own: s3fs, gcsfs and adlfs each know which answers of their service pass. What a
library does not take up again comes here, and is tried anew.
"""

from __future__ import annotations

import errno
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from ledger.errors import PluginUnavailable, Unavailable
from ledger.hooks.uris import scheme, without_credentials
from ledger_fsspec import chance
from ledger_fsspec.shelves import unless_gone

if TYPE_CHECKING:
    from collections.abc import Callable

OBJECT_STORES: Final = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
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


def connect(url: str, cannot: str, **options: Any) -> tuple[Any, str]:
    """The file system behind ``url``, and the path in it; ``cannot`` begins the message where there is none.

    Raises ``PluginUnavailable`` where its library is missing, ``Unavailable`` where that cannot be set up, and
    ``ValueError`` for a scheme that nobody knows.
    """
    from fsspec.core import url_to_fs
    from fsspec.registry import available_protocols, get_filesystem_class

    kind = scheme(url) or ""
    try:
        with chance.apart():
            get_filesystem_class(kind)
        fs, root = url_to_fs(url if "://" in url else url.replace(":", "://", 1), use_listings_cache=False, **options)
    except ImportError as error:
        extra = _EXTRAS.get(kind)
        raise PluginUnavailable(
            f"{cannot} {without_credentials(url)}: {error}",
            mend=f"pip install 'training-ledger[{extra}]'" if extra else "install that library",
        ) from error
    except Exception as error:
        if kind not in available_protocols():
            raise  # a ``ValueError``: nobody knows that scheme
        raise Unavailable(
            f"{cannot} {without_credentials(url)}: {failure(error).strerror}",
            mend="check the URL, and the variables or files that hold the credentials for it",
        ) from error
    return fs, root


def tried(call: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """What ``call`` gives, tried again after failures that may pass; any last failure as ``OSError``."""
    from tenacity import Retrying, retry_if_exception, stop_after_attempt

    tries = Retrying(
        retry=retry_if_exception(may_pass),
        stop=stop_after_attempt(_TRIES),
        wait=lambda state: chance.own().uniform(0, min(20, 0.5 * 2**state.attempt_number)),
        reraise=True,
    )
    try:
        return tries(call, *given, **options)
    except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError):
        raise
    except Exception as error:
        raise failure(error) from error


def files_below(fs: Any, folder: str, *, flat: bool) -> list[dict[str, Any]]:
    """What ``fs`` tells of every file below a folder; ``flat`` where one listing gives all of them."""
    if flat:
        return [*fs.find(folder, detail=True).values()]
    # fsspec's own ``find`` takes a folder that it cannot list for an empty one.
    walked = fs.walk(folder, detail=True, on_error=unless_gone)
    return [about for _, _, files in walked for about in files.values()]


def failure(error: Exception) -> OSError:
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


def may_pass(error: BaseException) -> bool:
    """Whether trying again may mend it."""
    final = isinstance(error, (*_FINAL, ValueError, TypeError)) or type(error).__name__ == _AZURE_MISSING
    return isinstance(error, Exception) and not final and not _refused(error) and not _full(error)
