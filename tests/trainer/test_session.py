"""Setting out together: what must hold of all ranks before the first step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import ledger
from ledger.errors import UsageError
from ledger_trainer.session import require_one_attempt
from tests.trainer.engine_ranks import Training, in_processes

if TYPE_CHECKING:
    from pathlib import Path


def set_out(training: Training, rank: int, attempts: list[int]) -> str:
    """What is said where these ranks are of these attempts."""
    engine, _ = training.start(rank)
    run = cast(ledger.Run, SimpleNamespace(name="run-1", attempt=attempts[rank]))
    try:
        require_one_attempt(run)
    except UsageError as error:
        return str(error)
    finally:
        engine.close()
    return ""


def test_a_rank_that_has_joined_what_was_left_behind_is_named_by_all(text: Path) -> None:
    tables: dict[str, Any] = {"engine": {"name": "ddp"}, "parallel": {"data": 2}}
    for said in in_processes(set_out, Training(text, tables), [2, 1]):
        assert said.startswith("rank 0 trains attempt 2 of run-1, rank 1 attempt 1 of run-1")
    assert in_processes(set_out, Training(text, tables), [2, 2]) == ["", ""]
