"""Every engine keeps the promises of the port, by the real command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ledger.testing.engines import BaseEngineTests
from tests.engine_table import ENGINES, RECIPE, STILL, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.read.state import RunState

pytestmark = pytest.mark.timeout(900)
SLOW = ("torch", "fsdp", "zero-3")
"""The reference, and what is most unlike it and ddp, with which most other tests train. The rest: `make faults`."""

LAUNCH = dict.fromkeys(("zero-3", "deepspeed-pipeline"), ("--launcher", "deepspeed"))
"""Where it is not torchrun that starts several processes."""


class OnRealText(BaseEngineTests):
    recipe = RECIPE
    still = STILL

    @classmethod
    def prepare(cls, home: Path) -> None:
        write_text(home)

    def test_by_whom_it_was_started_is_on_record(self, resumed_run: RunState) -> None:
        expected = self.launch[1] if self.launch else "torchrun" if self.processes > 1 else ""
        assert [attempt.world.launcher for attempt in resumed_run.attempts] == [expected, expected]


def _tests(name: str) -> type[OnRealText]:
    laid = ENGINES[name]
    attributes = {
        "engine": laid.engine,
        "sizes": dict(laid.sizes),
        "processes": laid.processes,
        "options": laid.options,
        "elsewhere": laid.elsewhere,
        "launch": LAUNCH.get(name, ()),
    }
    tests: type[OnRealText] = type(f"Test{name.title().replace('-', '')}", (OnRealText,), attributes)
    return (pytest.mark.slow if name in SLOW else pytest.mark.thorough)(tests)


for _name in ENGINES:
    _found = _tests(_name)
    globals()[_found.__name__] = _found
