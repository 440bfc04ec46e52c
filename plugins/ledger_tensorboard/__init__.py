"""Runs shown by TensorBoard. See ``ledger_tensorboard.mirror``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.errors import InvalidSettings
from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ledger import Settings
    from ledger.hooks.ports import Mirror

_DIRECTORY: Final = "directory"


@hookimpl
def open_mirrors(settings: Settings) -> Sequence[Mirror]:
    """The one mirror: a directory to give to ``tensorboard --logdir``."""
    from ledger_tensorboard.mirror import TensorBoardMirror

    return [TensorBoardMirror(_directory(settings))]


def _directory(settings: Settings) -> Path:
    table = settings.plugin_settings.get("tensorboard", {})
    for key, value in table.items():
        if key != _DIRECTORY or not isinstance(value, str) or not value:
            raise InvalidSettings(
                f"ledger.toml: plugin.tensorboard.{key} = {value!r} is not understood",
                mend='the one setting of [plugin.tensorboard] is directory = "DIR", where the event files go',
            )
    # By default not in the working tree: what grows there would be captured as code of the next run.
    return settings.base / table[_DIRECTORY] if _DIRECTORY in table else settings.scratch / "tensorboard"
