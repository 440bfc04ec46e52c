"""Runs shown by MLflow. See ``ledger_mlflow.mirror``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger import Settings
    from ledger.hooks.ports import Mirror


@hookimpl
def open_mirrors(settings: Settings) -> Sequence[Mirror]:
    """The one mirror: an experiment on an MLflow server."""
    from ledger_mlflow.mirror import MlflowMirror
    from ledger_mlflow.place import find_place

    return [MlflowMirror(find_place(settings))]
