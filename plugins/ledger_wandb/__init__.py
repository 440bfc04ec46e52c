"""Runs in Weights & Biases: as offline files that ``wandb sync`` uploads, or uploaded at once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ledger.errors import InvalidSettings
from ledger.hooks.folders import DIRECTORY, folder_of
from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger import Settings
    from ledger.hooks.ports import Mirror

_MODES: Final = ("offline", "online")
_KEYS: Final = ("mode", "project", "entity", DIRECTORY, "base_url")
_MEND: Final = (
    f"the settings of [plugin.wandb] are {', '.join(_KEYS)}, all of them text; mode is {' or '.join(_MODES)}; "
    "the key comes from WANDB_API_KEY or `wandb login`"
)
_URL_MEND: Final = "write it as https://wandb.example.org, without user, password, ? and #; the key is in WANDB_API_KEY"
_BASE_URL: Final = "WANDB_BASE_URL"
"""Where W&B's own client looks for a server, and so where the key of WANDB_API_KEY is good for."""


@hookimpl
def open_mirrors(settings: Settings) -> Sequence[Mirror]:
    """The one mirror of this plugin, ``wandb``."""
    from ledger_wandb.mirror import OfflineMirror, OnlineMirror

    table = settings.plugin_settings.get("wandb", {})
    for key, value in table.items():
        _check(key, value)
    directory = folder_of(settings, "wandb")
    entity, project = table.get("entity", ""), table.get("project", "")
    if table.get("mode", "offline") == "offline":
        return [OfflineMirror(directory, entity, project)]
    base_url = table.get("base_url") or os.environ.get(_BASE_URL) or "https://api.wandb.ai"
    if not _is_base_url(base_url):
        raise InvalidSettings(f"{_BASE_URL} is no http(s) URL, or more than one", mend=_URL_MEND)
    return [OnlineMirror(directory, entity, project, base_url)]


def _check(key: str, value: object) -> None:
    """No message shows the value of what may be a secret: of a key that is not known, or of a URL."""
    where = f"ledger.toml: plugin.wandb.{key}"
    if key not in _KEYS:
        raise InvalidSettings(f"{where} is no setting", mend=_MEND)
    if not isinstance(value, str) or not value or (key == "mode" and value not in _MODES):
        raise InvalidSettings(f"{where} = {value!r} is not understood", mend=_MEND)
    if key == "base_url" and not _is_base_url(value):
        raise InvalidSettings(f"{where} is no http(s) URL, or more than one", mend=_URL_MEND)


def _is_base_url(url: str) -> bool:
    """Whether it is the address of a server and nothing else: no credentials, no query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    extra = "@" in parts.netloc or parts.query or parts.fragment
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not extra
