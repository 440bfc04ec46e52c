"""Which Neptune server, and which project of it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ledger.errors import InvalidSettings
from ledger.hooks.folders import DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY: Final = "NEPTUNE_API_TOKEN"
"""Where Neptune's client looks for a key."""
_KEYS: Final = (DIRECTORY, "endpoint", "project")
_MEND: Final = (
    f"the settings of [plugin.neptune] are {', '.join(_KEYS)}, all of them text: the folder of Neptune's offline "
    f"runs, and to bring them to a server its address and WORKSPACE/PROJECT there; its key is in {KEY}"
)
_ADDRESS: Final = "write it as https://neptune.example.com, without user, path, ? and #; the key is in " + KEY
_INSECURE: Final = "OAUTHLIB_INSECURE_TRANSPORT"
"""The client's own leave to send a key over http://."""
_PROJECT: Final = re.compile(r"[^/\s][^/]*/[^/]*[^/\s]")
_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True)
class Place:
    """A project on a server."""

    endpoint: str
    """As ``origin`` writes it."""
    project: str
    """``WORKSPACE/PROJECT``."""


def place_in(table: Mapping[str, Any]) -> Place | None:
    """From the table ``[plugin.neptune]``; None where it names no server.

    Raises ``InvalidSettings``, which shows no value of what may be a secret: of a key that is not known, or of a URL.
    """
    for key, value in table.items():
        _check(key, value)
    if "endpoint" not in table and "project" not in table:
        return None
    if "endpoint" not in table or "project" not in table:
        raise InvalidSettings("ledger.toml: plugin.neptune has endpoint or project, but not both", mend=_MEND)
    return Place(_endpoint(table["endpoint"]), table["project"])


def origin(url: str) -> str | None:
    """Scheme, host and port of a URL, written the same for every way to write them; None if it has none."""
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")  # as Neptune's client reads it
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, _PORTS[parts.scheme]) else "")


def _check(key: str, value: object) -> None:
    where = f"ledger.toml: plugin.neptune.{key}"
    if key not in _KEYS:
        raise InvalidSettings(f"{where} is no setting", mend=_MEND)
    if not isinstance(value, str) or not value:
        raise InvalidSettings(f"{where} = {value!r} is not understood", mend=_MEND)
    if key == "project" and not _PROJECT.fullmatch(value):
        raise InvalidSettings(f"{where} = {value!r} is not WORKSPACE/PROJECT", mend=_MEND)


def _endpoint(url: str) -> str:
    where = "ledger.toml: plugin.neptune.endpoint"
    server = origin(url)
    if server is None or url.rstrip("/").lower() not in (server, _with_port(server)):
        raise InvalidSettings(f"{where} is no http(s) address of a server, or more than one", mend=_ADDRESS)
    if server.startswith("http://") and not os.environ.get(_INSECURE):
        raise InvalidSettings(
            f"{where} begins with http://, over which everybody on the way could read the key",
            mend=f"write https://; where you trust the network, set {_INSECURE}=1, as Neptune's client asks for",
        )
    return server


def _with_port(server: str) -> str:
    return f"{server}:{_PORTS[server.partition(':')[0]]}"
