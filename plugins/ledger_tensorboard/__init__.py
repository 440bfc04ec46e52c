"""Runs shown by TensorBoard. See ``ledger_tensorboard.mirror``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.hooks.folders import only_folder_of
from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger import Settings
    from ledger.hooks.ports import Mirror

_MEND: Final = 'the one setting of [plugin.tensorboard] is directory = "DIR", where the event files go'


@hookimpl
def open_mirrors(settings: Settings) -> Sequence[Mirror]:
    """The one mirror: a directory to give to ``tensorboard --logdir``."""
    from ledger_tensorboard.mirror import TensorBoardMirror

    return [TensorBoardMirror(only_folder_of(settings, "tensorboard", _MEND))]
