from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ledger_trainer.plugin
from ledger.errors import PluginUnavailable, UsageError
from ledger.events import World
from ledger.hooks.manager import Plugins
from ledger.hooks.ports import Launch, Trainer
from ledger.settings import in_memory

PLUGINS = Plugins.of(ledger_trainer.plugin)
TRAINER = ("/usr/bin/python", "-m", "ledger_trainer")


TORCHRUN = ["/usr/bin/python", "-m", "torch.distributed.run"]


def launch(command: tuple[str, ...], world: World, **environ: str) -> list[str]:
    return PLUGINS.launch(Launch(command, Path(), environ), world)


def test_several_processes_are_launched_by_torchrun_of_the_same_interpreter() -> None:
    words = [*TORCHRUN, "--nproc-per-node=2", "--standalone", "-m", "ledger_trainer"]
    assert launch(TRAINER, World(processes=2), OMP_NUM_THREADS="4") == words
    assert launch(TRAINER, World(processes=2, launcher="torchrun"), OMP_NUM_THREADS="4") == words


def test_threads_that_nobody_chose_are_those_that_torchrun_would_choose_with_a_banner() -> None:
    words = ["--nproc-per-node=2", "--standalone", "-m", "ledger_trainer"]
    assert launch(TRAINER, World(processes=2)) == ["env", "OMP_NUM_THREADS=1", *TORCHRUN, *words]


def test_each_of_several_nodes_launches_its_share_of_the_processes() -> None:
    meeting = ("--node-rank=1", "--rdzv-id=a", "--rdzv-endpoint=host:29400")
    world = World(processes=4, nodes=2, launcher="torchrun", options=meeting)
    words = [*TORCHRUN, "--nproc-per-node=2", "--nnodes=2", *meeting, "-m", "ledger_trainer"]
    assert launch(TRAINER, world, OMP_NUM_THREADS="4") == words


def test_one_process_that_may_be_restarted_needs_torchrun_and_a_store_of_its_own() -> None:
    world = World(launcher="torchrun", options=("--max-restarts=3",))
    begin = ["env", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", *TORCHRUN, "--nproc-per-node=1", "--standalone"]
    assert launch(TRAINER, world) == [*begin, "--max-restarts=3", "-m", "ledger_trainer"]


@pytest.mark.parametrize(("command", "processes"), [(TRAINER, 1), (("python", "train.py"), 2)])
def test_anything_else_is_launched_as_it_is(command: tuple[str, ...], processes: int) -> None:
    assert launch(command, World(processes=processes)) == list(command)


@pytest.mark.parametrize("told", [{"RANK": "1"}, {"WORLD_SIZE": "4", "RANK": "0"}, {"RANK": ""}])
def test_one_process_does_not_train_as_one_of_several(told: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="one of several") as refused:
        launch(TRAINER, World(), **told)
    assert "unset RANK WORLD_SIZE" in str(refused.value.mend)
    assert launch(TRAINER, World(), RANK="0", WORLD_SIZE="1") == list(TRAINER)
    assert launch(("python", "train.py"), World(), **told) == ["python", "train.py"]  # a script knows what it does
    assert "--nproc-per-node=2" in launch(TRAINER, World(processes=2, launcher="torchrun"), **told)


def test_its_engines_are_offered_by_name() -> None:
    for name in ("torch", "ddp", "fsdp"):
        PLUGINS.require_engine(name)
    with pytest.raises(PluginUnavailable, match="no engine 'fspd'"):
        PLUGINS.require_engine("fspd")


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
