"""Conformance of an ``Engine``, by the real command line and in processes of its own::

class TestMyEngine(BaseEngineTests):
    engine = "mine"
    recipe = "…"
    still = ("task_options.dropout=0.0",)
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import psutil
import pytest

from ledger.book import open_ledger
from ledger.settings import find_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ledger.book import Book
    from ledger.read.state import RunState


class BaseEngineTests:
    """What every engine promises. Override the attributes, and ``prepare`` where the recipe reads files."""

    recipe: ClassVar[str]
    """A recipe without ``engine.name`` and ``[parallel]``, whose model draws random numbers (dropout).

    It logs each step, writes checkpoints by steps, and trains for some seconds: long enough to be stopped in the
    middle.
    """
    still: ClassVar[tuple[str, ...]]
    """Overrides with which the model draws no random numbers."""
    engine: ClassVar[str]
    sizes: ClassVar[Mapping[str, int]] = {}
    """Of ``[parallel]``."""
    processes: ClassVar[int] = 2
    overrides: ClassVar[tuple[str, ...]] = ()
    """What else the engine needs, such as ``batch.accumulation=2``; the reference gets it as well."""
    options: ClassVar[tuple[str, ...]] = ()
    """Overrides for this engine alone, such as ``engine.options.zero=2``."""
    launch: ClassVar[tuple[str, ...]] = ()
    """Words for the launcher."""
    bound: ClassVar[float] = 1e-5
    """Largest relative deviation of the metrics of the first two steps from those of a single process."""
    drift: ClassVar[float] = 1e-2
    """The same of the last step's loss: rounding adds up."""
    elsewhere: ClassVar[int | None] = None
    """Capability: another number of processes on which its checkpoints can be resumed."""
    patience_s: ClassVar[float] = 240

    @classmethod
    def prepare(cls, home: Path) -> None:
        """Put what the recipe reads into ``home``."""

    # --- what is trained, once for the class ------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def desk(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineDesk]:
        """A directory with the recipe in it and a ledger of its own."""
        desk = EngineDesk(tmp_path_factory.mktemp("engine"), cls.patience_s)
        cls.prepare(desk.home)
        (desk.home / "recipe.toml").write_text(cls.recipe)
        with desk.book():
            yield desk

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls, desk: EngineDesk) -> RunState:
        """A run of one process, without random numbers."""
        return desk.ended("train", "recipe.toml", "engine.name=torch", *cls.overrides, *cls.still)

    @pytest.fixture(scope="class")
    @classmethod
    def still_run(cls, desk: EngineDesk) -> RunState:
        """A run of the engine without random numbers; stopped, and resumed elsewhere, where it can be."""
        words = [*cls._train(), *cls.still]
        if cls.elsewhere is None:
            return desk.ended(*words)
        stopped = desk.stopped(*words)
        return desk.ended("resume", stopped, "--nproc", str(cls.elsewhere), run=stopped)

    @pytest.fixture(scope="class")
    @classmethod
    def resumed_run(cls, desk: EngineDesk) -> RunState:
        """A run of the engine with random numbers, stopped in the middle and resumed."""
        stopped = desk.stopped(*cls._train())
        return desk.ended("resume", stopped, run=stopped)

    @classmethod
    def _train(cls) -> list[str]:
        sizes = [f"parallel.{name}={size}" for name, size in cls.sizes.items()]
        several = ["--nproc", str(cls.processes)] if cls.processes > 1 else []
        engine = [f"engine.name={cls.engine}", *cls.overrides, *cls.options, *sizes]
        return ["train", "recipe.toml", *engine, *several, *cls.launch]

    # --- the promises -----------------------------------------------------------------------------------------

    def test_its_steps_are_those_of_one_process(self, reference: RunState, still_run: RunState) -> None:
        for metric in ("train/loss", "grad_norm", "lr"):
            alone, together = (_values(run, metric) for run in (reference, still_run))
            # The second step's loss is of the parameters that the first has made.
            for step in (1, 2):
                assert together[step] == pytest.approx(alone[step], rel=self.bound, abs=self.bound), (metric, step)

    def test_what_it_trains_is_what_one_process_trains(self, reference: RunState, still_run: RunState) -> None:
        alone, together = (_values(run, "train/loss") for run in (reference, still_run))
        assert together.keys() == alone.keys()
        assert together[max(alone)] == pytest.approx(alone[max(alone)], rel=self.drift)
        if reference.leading.keys() & {"val/loss"}:
            assert still_run.last_metrics["val/loss"] == pytest.approx(
                reference.last_metrics["val/loss"], rel=self.drift
            )

    def test_it_goes_on_with_other_processes_and_the_log_says_so(self, still_run: RunState, desk: EngineDesk) -> None:
        if self.elsewhere is None:
            pytest.skip("its checkpoints belong to their number of processes")
        resumed = still_run.attempt.resumed
        assert resumed is not None
        assert resumed.step is not None
        assert resumed.world is not None
        assert resumed.world.processes == self.elsewhere
        assert {written.processes for _, written in still_run.written} == {self.processes, self.elsewhere}
        (planned,) = desk.json("replay", still_run.name, "--plan")
        assert any("process" in reason for reason in planned["inexact"])

    def test_resumed_it_equals_straight_through(self, resumed_run: RunState, desk: EngineDesk) -> None:
        """A replay trains straight through, and compares with what the attempts have recorded between them."""
        resumed = resumed_run.attempt.resumed
        assert resumed is not None
        assert resumed.step is not None
        assert resumed_run.fingerprints
        assert resumed_run.checkpoints
        (compared,) = desk.json("replay", resumed_run.name)
        assert compared["verdict"] == "identical", compared
        checked = [check["name"] for check in compared["checks"]]
        assert {"train/loss", "grad_norm", "fingerprints"} <= {*checked}
        assert any(name.startswith("checkpoint ") for name in checked)

    def test_what_it_loads_is_what_it_saved(self, resumed_run: RunState, desk: EngineDesk) -> None:
        """From a checkpoint on, every bit that follows is the same: nothing of the state was left out."""
        last = resumed_run.last_step or 0
        regular = [kept.step for kept in resumed_run.checkpoints if kept.trigger == "steps" and kept.step < last]
        middle = regular[len(regular) // 2]
        part = ["--from-step", f"{middle:g}", "--until-step", f"{last:g}"]
        (compared,) = desk.json("replay", resumed_run.name, *part)
        assert compared["verdict"] == "identical", compared
        assert compared["segment"] == [middle, last]

    def test_a_replay_with_other_processes_is_said_to_be_inexact(self, resumed_run: RunState, desk: EngineDesk) -> None:
        if self.elsewhere is None:
            pytest.skip("its checkpoints belong to their number of processes")
        (planned,) = desk.json("replay", resumed_run.name, "--plan", "--nproc", str(self.elsewhere))
        assert any("process" in reason for reason in planned["inexact"])
        (planned,) = desk.json("replay", resumed_run.name, "--plan")
        assert planned["inexact"] == []

    def test_how_it_is_laid_out_is_on_record(self, resumed_run: RunState) -> None:
        assert resumed_run.environment is not None
        topology = resumed_run.environment.topology
        assert topology["engine"] == self.engine
        assert math.prod(topology["mesh"].values()) == self.processes
        assert len(topology["ranks"]) == self.processes
        places = [tuple(rank["coordinates"].items()) for rank in topology["ranks"]]
        assert len(set(places)) == self.processes
        assert all(rank["threads"] >= 1 and rank["host"] and rank["device"] for rank in topology["ranks"])


@dataclass
class EngineDesk:
    """A directory, and the command line in it."""

    home: Path
    patience_s: float

    def book(self) -> Book:
        """The ledger in it."""
        return open_ledger(settings=find_settings(start=self.home, environ=self._environ()))

    def json(self, *words: str) -> list[Any]:
        """What a command prints as JSON; what it found is for the caller to judge."""
        process = self._start(*words, "--json")
        out, err = self._await(process)
        assert out, f"{words} ended with {process.returncode}\n{err}"
        return [json.loads(line) for line in out.splitlines()]

    def ended(self, *words: str, run: str = "latest") -> RunState:
        """The run that a command has trained to its end."""
        process = self._start(*words)
        out, err = self._await(process)
        assert process.returncode == 0, f"{words} ended with {process.returncode}\n{out}\n{err}"
        with self.book() as book:
            return book.run(run)

    def stopped(self, *words: str) -> str:
        """The name of the run that a command trains, which is told to stop as soon as it has made a step."""
        process = self._start(*words, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        told = []
        patience = threading.Timer(self.patience_s, _kill, (process,))
        patience.start()
        # Not by what is in the log, which comes later: a small training would be over.
        for line in process.stdout:
            told.append(line)
            if line.startswith("step "):
                process.send_signal(signal.SIGTERM)
                break
        patience.cancel()
        told.append(self._await(process)[0])
        with self.book() as book:
            run = book.run("latest")
        assert process.returncode == 130, f"{words} was to be stopped in the middle, and ended\n{''.join(told)}"
        assert run.checkpoints, "it was stopped, and left no checkpoint"
        return run.name

    def _await(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        try:
            return process.communicate(timeout=self.patience_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            out, err = process.communicate()
            pytest.fail(f"{process.args!r} did not end within {self.patience_s:g} s\n{out}\n{err}")

    def _start(self, *words: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ledger", *words],
            cwd=self.home,
            env=self._environ(),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    def _environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEDGER_", "GIT_"))}
        return kept | {"NO_COLOR": "1"}


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid)
        for one in [*family.children(recursive=True), family]:
            one.kill()


def _values(run: RunState, metric: str) -> dict[float, float]:
    series = run.series(metric)
    return dict(zip(series.step, series.value, strict=True))
