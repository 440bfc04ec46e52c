"""Which MLflow server, and which experiment of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ledger.errors import InvalidSettings
from ledger.hooks.uris import without_credentials, without_password

if TYPE_CHECKING:
    from ledger import Settings

_DEFAULT: Final = "http://127.0.0.1:5000"
"""Where ``mlflow server`` listens unless it is told otherwise."""
_KEYS: Final = ("tracking_uri", "experiment")
_MEND: Final = 'write [plugin.mlflow], tracking_uri = "https://mlflow.example.org", experiment = "a name"'


@dataclass(frozen=True)
class Place:
    """An experiment on a server."""

    uri: str = field(repr=False)
    """Of the server; may hold a password."""
    experiment: str

    @property
    def address(self) -> str:
        """The server without credentials: fit to be told."""
        return _fit_to_be_told(self.uri)


def find_place(settings: Settings) -> Place:
    """From ``[plugin.mlflow]``, else from MLflow's own variables.

    Raises ``InvalidSettings`` for a key that there is not, and for an address that is none of a server.
    """
    table = settings.plugin_settings.get("mlflow", {})
    for key, value in table.items():
        if key not in _KEYS or not isinstance(value, str) or not value:
            raise InvalidSettings(f"ledger.toml: plugin.mlflow.{key} = {value!r} is not understood", mend=_MEND)
    uri = table.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI") or _DEFAULT
    if not _is_address(uri):
        raise InvalidSettings(f"{_fit_to_be_told(uri)} is not the address of an MLflow server", mend=_MEND)
    experiment = table.get("experiment") or os.environ.get("MLFLOW_EXPERIMENT_NAME") or settings.project or "ledger"
    return Place(uri.rstrip("/"), experiment)


def _is_address(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        # The port raises where it is none: that of a password with a slash in it, read as the end of the host.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _fit_to_be_told(uri: str) -> str:
    return without_credentials(without_password(uri))  # a password with a slash in it is one, too
