"""Ledger by its public API, as its README shows it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from tests.benchmarks import work
from tests.benchmarks.catalogue import LOSS, LR, run_facts
from tests.benchmarks.contestant import Contestant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ledger import Run

WHERE: Final = f"val/loss < {LOSS:g} and lr >= {LR:g} and status = completed"


class Ledger(Contestant):
    """An embedded ledger (SQLite) in the working directory."""

    name = "Ledger"
    distribution = "training-ledger"
    environ: ClassVar[Mapping[str, str]] = {"LEDGER_PLUGINS": ""}
    series_points = 1_000_000

    def start(self, home: Path) -> Run:
        """See ``Contestant``."""
        import ledger

        return ledger.start_run()

    def points(self, home: Path) -> int:
        """See ``Contestant``."""
        import ledger

        with ledger.open_ledger() as book:
            state = book.run("latest")
            return sum(len(state.series(name)) for name in work.METRICS if name in state.metrics)

    def prepare_reading(self) -> None:
        """See ``Contestant``."""
        import ledger.book
        import ledger.store.sql  # noqa: F401

    def series(self, home: Path, name: str) -> tuple[list[float], list[float]]:
        """See ``Contestant``."""
        import ledger

        with ledger.open_ledger() as book:
            found = book.run("latest").series(name)
        return list(found.step), list(found.value)

    def write_runs(self, home: Path, runs: int) -> None:
        """The facts of whole runs, appended without a training process each."""
        import ledger
        from ledger.codec import canonical_digest
        from ledger.events import ConfigResolved, RunCompleted, RunFailed
        from ledger.record.facts import new_run
        from ledger.testing.builders import logged, run_started

        with ledger.open_ledger() as book:
            for facts in run_facts(runs):
                identity, name = new_run(book)
                config, metrics = {"lr": facts.lr}, {"val/loss": facts.loss, "val/accuracy": facts.accuracy}
                book.append(
                    identity,
                    run_started(name=name),
                    ConfigResolved(config=config, overrides=(), digest=canonical_digest(config)),
                    logged({facts.steps: metrics}),
                    RunCompleted(step=facts.steps, metrics=metrics)
                    if facts.status == "completed"
                    else RunFailed(exception="ValueError", traceback="", exit_code=1, step=facts.steps),
                    attempt=1,
                )

    def list_runs(self, home: Path) -> list[str]:
        """See ``Contestant``."""
        import ledger

        with ledger.open_ledger() as book:
            return [run.name for run in book.runs()]

    def filter_runs(self, home: Path) -> list[str]:
        """See ``Contestant``."""
        import ledger

        with ledger.open_ledger() as book:
            return [run.name for run in book.runs(where=WHERE, sort="val/loss")]

    def commands(self, home: Path) -> Mapping[str, Sequence[str]]:
        """See ``Contestant``."""
        program = str(Path(sys.executable).with_name("ledger"))
        return {"help": (program, "--help"), "list": (program, "ls")}


CONTESTANT: Final = Ledger()
