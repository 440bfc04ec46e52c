"""Trackers that are folders of files: where such a folder is, and what to say when it cannot be had."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ledger.errors import Conflict, InvalidSettings, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.settings import Settings

DIRECTORY: Final = "directory"
"""The setting of a plugin that names its folder."""


def folder_of(settings: Settings, plugin: str) -> Path:
    """The folder that ``[plugin.NAME] directory`` names, relative to ledger.toml.

    By default one of the ledger's own: what grows in the working tree would be captured as code of the next run.
    """
    table = settings.plugin_settings.get(plugin, {})
    return settings.base / str(table[DIRECTORY]) if DIRECTORY in table else settings.mirrored / plugin


def only_folder_of(settings: Settings, plugin: str, mend: str) -> Path:
    """The same for a plugin without other settings. Raises ``InvalidSettings`` with this ``mend``."""
    for key, value in settings.plugin_settings.get(plugin, {}).items():
        where = f"ledger.toml: plugin.{plugin}.{key}"
        if key != DIRECTORY:  # its value is not shown: somebody may have put a token there
            raise InvalidSettings(f"{where} is no setting", mend=mend)
        if not isinstance(value, str) or not value:
            raise InvalidSettings(f"{where} = {value!r} is not understood", mend=mend)
    return folder_of(settings, plugin)


@contextmanager
def reachable(path: Path, plugin: str) -> Iterator[None]:
    """Files that cannot be read or written are a tracker that cannot be had now: ``Unavailable``."""
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be read or written: {error.strerror or error}",
            mend=f"check permissions and space there, or name another place: [plugin.{plugin}] {DIRECTORY}",
        ) from error


def not_ours(path: Path, plugin: str) -> Conflict:
    """Something is in the run's place that is not what the mirror wrote there."""
    return Conflict(
        f"{path} is not what this mirror wrote for that run",
        mend=f"move it away, then `ledger mirror RUN --to {plugin} --again`",
    )
