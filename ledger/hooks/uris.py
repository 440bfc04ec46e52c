"""How Ledger reads the URI of a place: which ones are local paths, and what of a URI may be written down.

A local place is a ``file:`` URI or a plain path. Percent-encoding in ``file:`` URIs is decoded (``%20``,
``%23``, ``%3F``, ``%25``); a ``%`` that starts no valid escape stands for itself, and so does ``#``: these
URIs have no fragments. Plain paths are taken as they are. Relative ones start at the working directory.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from ledger.errors import UsageError

_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_USER: Final = re.compile(r"(?<=://)[^/@]*@")
_CONTAINER: Final = re.compile(r"abfss?://[^/@:?]+@", re.IGNORECASE)
"""Azure's own way to write a container and its account: ``abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/``."""
# As SQLAlchemy reads it: a password may hold a slash.
_LOGIN: Final = re.compile(r"(?<=://)([^:/@]*):[^@]*@")


def scheme(uri: str) -> str | None:
    """The scheme of ``uri`` in lower case, None for a plain path."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else None


def local_path(uri: str) -> Path | None:
    """The absolute path that a ``file:`` URI or a plain path stands for; None for a URI of another scheme.

    Raises ``UsageError`` for a ``file:`` URI of another host and for a path that no file can have.
    """
    kind = scheme(uri)
    if kind is None:
        return _absolute(uri, uri)
    if kind != "file":
        return None
    path = uri.partition(":")[2]
    if path.startswith("//"):
        host, slash, path = path[2:].partition("/")
        if host not in ("", "localhost"):
            raise UsageError(
                f"{uri} names the host {host!r}: only files of this machine can be read",
                mend="write file:relative/path, or file:///absolute/path with three slashes",
            )
        path = slash + path
    try:
        return _absolute(unquote(path, errors="strict"), uri)
    except UnicodeDecodeError as error:
        raise UsageError(f"{uri} is not UTF-8 when decoded: {error.reason}") from error


def without_credentials(uri: str) -> str:
    """``uri`` without a user, password or query: fit to be recorded and printed."""
    return (uri if _CONTAINER.match(uri) else _USER.sub("", uri)).partition("?")[0]


def without_password(url: str) -> str:
    """A database's URL without the passwords in it: fit to be written where others read it."""
    bare, mark, query = _LOGIN.sub(r"\1@", url).partition("?")
    kept = "&".join(option for option in query.split("&") if not option.startswith(("password=", "sslpassword=")))
    return bare + (mark + kept if kept else "")


def _absolute(path: str, uri: str) -> Path:
    if not path or "\0" in path:
        raise UsageError(f"{uri!r} names no path", mend="write file:relative/path or file:///absolute/path")
    return Path(os.path.abspath(path))
