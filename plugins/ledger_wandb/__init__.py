"""Runs in Weights & Biases: as offline files that ``wandb sync`` uploads, or uploaded at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ledger.errors import InvalidSettings
from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger import Settings
    from ledger.hooks.ports import Mirror

_MODES: Final = ("offline", "online")
_KEYS: Final = ("mode", "project", "entity", "directory", "base_url")
_MEND: Final = (
    f"the settings of [plugin.wandb] are {', '.join(_KEYS)}, all of them text; mode is {' or '.join(_MODES)}; "
    "the key comes from WANDB_API_KEY or `wandb login`"
)


@hookimpl
def open_mirrors(settings: Settings) -> Sequence[Mirror]:
    """The one mirror of this plugin, ``wandb``."""
    from ledger_wandb.mirror import OfflineMirror, OnlineMirror

    table = settings.plugin_settings.get("wandb", {})
    for key, value in table.items():
        _check(key, value)
    directory = settings.base / table["directory"] if "directory" in table else settings.scratch / "wandb"
    entity, project = table.get("entity", ""), table.get("project", "")
    if table.get("mode", "offline") == "offline":
        return [OfflineMirror(directory, entity, project)]
    return [OnlineMirror(directory, entity, project, table.get("base_url", "https://api.wandb.ai"))]


def _check(key: str, value: object) -> None:
    good = key in _KEYS and isinstance(value, str) and value != ""
    if key == "mode":
        good = value in _MODES
    if good and key == "base_url":
        _check_url(str(value))
    if not good:
        raise InvalidSettings(f"ledger.toml: plugin.wandb.{key} = {value!r} is not understood", mend=_MEND)


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise InvalidSettings("ledger.toml: plugin.wandb.base_url has a user or password in it", mend=_MEND)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidSettings(f"ledger.toml: plugin.wandb.base_url = {url!r} is no http(s) URL", mend=_MEND)
