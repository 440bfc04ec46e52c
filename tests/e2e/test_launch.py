"""What a launcher cannot do, or has to wait for, is found out while nothing is on record."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ledger
import ledger_fsspec
import ledger_local
from ledger.errors import UsageError
from ledger.hooks.manager import Plugins
from ledger.hooks.specs import hookimpl
from ledger.record.resume import resume_command
from tests.e2e.project import Project

if TYPE_CHECKING:
    from ledger.hooks.ports import Launch


class Launcher:
    """Starts commands as they are, unless its machines are away."""

    away = False
    asked: tuple[Launch, ...] = ()

    @hookimpl
    def launch_command(self, plan: Launch) -> list[str]:
        self.asked += (plan,)
        if self.away:
            raise UsageError("its machines are away", mend="wait")
        return list(plan.command)


@pytest.fixture
def launcher() -> Launcher:
    return Launcher()


@pytest.fixture
def project(tmp_path: Path, launcher: Any) -> Iterator[Project]:
    (tmp_path / "project").mkdir()
    plugins = Plugins.of(launcher, ledger_local, ledger_fsspec)
    with ledger.open_ledger(str(tmp_path / "ledger"), plugins=plugins) as book:
        made = Project(tmp_path / "project", book)
        made.git("init", "--quiet", "--initial-branch=main")
        yield made


def test_it_is_asked_with_the_variables_that_are_known_and_then_to_start(project: Project, launcher: Launcher) -> None:
    project.write("train.py", "pass")
    assert project.record().status == "completed"
    before, then = launcher.asked
    assert before.command == then.command == (sys.executable, "train.py")
    assert before.environ["PATH"] == then.environ["PATH"]
    assert before.environ["LEDGER_URL"] == then.environ["LEDGER_URL"]
    assert "LEDGER_RUN" in then.environ.keys() - before.environ.keys()


def test_no_run_is_on_record_and_no_name_used_up(project: Project, launcher: Launcher) -> None:
    project.write("train.py", "pass")
    launcher.away = True
    with pytest.raises(UsageError, match="away"):
        project.record()
    assert project.book.runs() == []
    launcher.away = False
    assert project.record().name == "run-1"


def test_no_attempt_is_on_record(project: Project, launcher: Launcher) -> None:
    project.write("train.py", "import os, sys; sys.exit(os.environ['LEDGER_ATTEMPT'] == '1')")
    name = project.record().name
    launcher.away = True
    with pytest.raises(UsageError, match="away"):
        resume_command(project.book, name)
    assert [(a.number, a.ended is None) for a in project.book.run(name).attempts] == [(1, False)]
    launcher.away = False
    assert resume_command(project.book, name).status == "completed"


class Slow(Launcher):
    """Is stopped while it looks for machines."""

    stop = signal.SIGTERM

    @hookimpl
    def launch_command(self) -> None:
        os.kill(os.getpid(), self.stop)


@pytest.mark.parametrize("launcher", [Slow()])
def test_while_it_looks_it_can_be_stopped(project: Project) -> None:
    project.write("train.py", "pass")
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        project.record()
    assert project.book.runs() == []
