from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ledger_trainer.plugin
from ledger.events import World
from ledger.hooks.manager import Plugins
from ledger.hooks.ports import Launch, Trainer
from ledger.settings import in_memory

PLUGINS = Plugins.of(ledger_trainer.plugin)
TRAINER = ("/usr/bin/python", "-m", "ledger_trainer")


def launch(command: tuple[str, ...], processes: int) -> list[str]:
    return PLUGINS.launch(Launch(command, Path(), {}), World(processes=processes))


def test_several_processes_are_launched_by_torchrun_of_the_same_interpreter() -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert launch(TRAINER, 2) == ["/usr/bin/python", *launcher, "-m", "ledger_trainer"]


@pytest.mark.parametrize(("command", "processes"), [(TRAINER, 1), (("python", "train.py"), 2)])
def test_anything_else_is_launched_as_it_is(command: tuple[str, ...], processes: int) -> None:
    assert launch(command, processes) == list(command)


def test_it_opens_the_trainer_and_leaves_other_engines_to_others(tmp_path: Path) -> None:
    assert isinstance(PLUGINS.trainer(in_memory(tmp_path)), Trainer)
    assert ledger_trainer.plugin.build_engine("deepspeed", {}) is None


def test_the_environment_has_the_build_of_torch_without_importing_it() -> None:
    program = """
import sys
import ledger_trainer.plugin
assert not {"torch", "numpy"} & set(sys.modules)
facts = ledger_trainer.plugin.capture_environment()
assert "torch" not in sys.modules
print(facts["libraries"]["torch"]["version"])
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    import torch

    assert done.stdout.strip() == torch.__version__


def test_started_outside_of_a_run_it_says_what_to_do() -> None:
    done = subprocess.run([sys.executable, "-m", "ledger_trainer"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ledger train RECIPE.toml" in done.stderr
