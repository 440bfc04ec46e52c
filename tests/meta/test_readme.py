"""The README is executed: its example is run by its commands, and it names only commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.desk import Desk

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    (script,) = blocks("python")
    console = blocks("console")[0]
    desk = Desk(tmp_path)
    desk.write(train__py=script)
    commands = [line.removeprefix("$ ").split() for line in console.splitlines() if line.startswith("$ ")]
    outputs = {words[1]: desk.run(*words).out for words in commands}
    assert len(commands) >= 4
    assert outputs["replay"].startswith("identical")
    assert "train.py" in outputs["audit"]


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`ledger ([a-z-]+)", README))))
def test_every_command_exists(command: str, tmp_path: Path) -> None:
    assert "Usage" in Desk(tmp_path).ledger(command, "--help").out


def test_every_make_target_exists() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
