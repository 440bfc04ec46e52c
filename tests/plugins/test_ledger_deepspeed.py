"""What the DeepSpeed plugin decides before any process of a training starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ledger_deepspeed
from ledger.errors import (
    CheckpointUnavailable,
    FencedAttempt,
    InvalidRecipe,
    PluginUnavailable,
    StoreUnavailable,
    Unavailable,
    UsageError,
)
from ledger.events import World
from ledger.hooks.ports import Launch
from ledger_deepspeed import backend, launch, settings

if TYPE_CHECKING:
    from collections.abc import Callable


def recipe(**parts: dict[str, Any]) -> dict[str, Any]:
    """The tables that the plugin reads, for two processes."""
    tables: dict[str, dict[str, Any]] = {
        "batch": {"size": 8, "accumulation": 2},
        "optim": {"name": "adamw", "clip": 1.0},
        "engine": {"name": "deepspeed", "precision": "float32", "options": {}},
        "parallel": {"processes": 2, "data": 2, "shard": 1, "tensor": 1, "pipeline": 1},
    }
    return {name: table | parts.get(name, {}) for name, table in tables.items()}


def with_json(tmp_path: Path, found: object, **parts: dict[str, Any]) -> dict[str, Any]:
    """A recipe that names a JSON of the user's own."""
    path = tmp_path / "ds.json"
    path.write_text(found if isinstance(found, str) else json.dumps(found))
    engine = {"options": {"config": str(path)}} | parts.pop("engine", {})
    return recipe(engine=engine, **parts)


# --- the settings ----------------------------------------------------------------------------------------------------


def test_the_recipe_alone_gives_settings() -> None:
    assert settings.merged(recipe(engine={"options": {"zero": 2}})) == {
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": 2},
        "steps_per_print": None,
    }


def test_the_users_json_is_kept_where_the_recipe_says_nothing(tmp_path: Path) -> None:
    own = {
        "zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": 1000},
        "train_batch_size": "auto",
        "gradient_clipping": 1.0,
        "steps_per_print": 10,
    }
    found = settings.merged(with_json(tmp_path, own))
    assert found["zero_optimization"] == {"stage": 3, "stage3_prefetch_bucket_size": 1000}
    assert found["train_batch_size"] == 8
    assert found["steps_per_print"] == 10


@pytest.mark.parametrize(
    ("own", "theirs", "ours"),
    [
        ({"train_batch_size": 64}, "train_batch_size = 64", "batch.size gives 8"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps = 4", "batch.accumulation gives 2"),
        ({"gradient_clipping": 0.5}, "gradient_clipping = 0.5", "optim.clip gives 1.0"),
        ({"bf16": {"enabled": True}}, "bf16.enabled = True", "engine.precision gives False"),
        ({"fp16": {"enabled": True}}, "fp16.enabled = True", "engine.precision"),
        ({"optimizer": {"type": "Adam"}}, "optimizer is in", "[optim]"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler is in", "[schedule]"),
        ({"tensor_parallel": {"autotp_size": 2}}, "tensor_parallel is in", "parallel.tensor"),
    ],
)
def test_a_contradiction_names_the_keys_on_both_sides(
    tmp_path: Path, own: dict[str, Any], theirs: str, ours: str
) -> None:
    with pytest.raises(InvalidRecipe) as refused:
        settings.merged(with_json(tmp_path, own))
    assert theirs in str(refused.value)
    assert ours in str(refused.value)
    assert "ds.json" in str(refused.value.mend)


def test_all_contradictions_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe) as refused:
        settings.merged(with_json(tmp_path, {"train_batch_size": 1, "gradient_clipping": 7.0, "optimizer": {}}))
    assert len(str(refused.value).splitlines()) == 3


def test_two_stages_of_zero_are_a_contradiction(tmp_path: Path) -> None:
    own = {"zero_optimization": {"stage": 1}}
    config = with_json(tmp_path, own)
    config["engine"]["options"]["zero"] = 3
    with pytest.raises(InvalidRecipe, match=r"stage = 1 in .*engine\.options\.zero gives 3"):
        settings.merged(config)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "not a JSON object"),
        ('{"a": 1, "a": 2}', "a is there twice"),
        ('{"bf16": true}', "bf16 in .* is not a table"),
        ('{"zero_optimization": true}', "zero_optimization in .* is not a table"),
        ('{"zero_optimization": {"stage": "auto"}}', "stage = 'auto' in .* is no stage of ZeRO"),
        ('{"zero_optimization": {"stage": 4}}', "stage = 4 in .* is no stage of ZeRO"),
    ],
)
def test_a_json_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidRecipe, match=said) as refused:
        settings.merged(with_json(tmp_path, text))
    assert len(str(refused.value).splitlines()) == 1
    assert refused.value.mend


def test_a_json_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidRecipe, match=r"'nowhere\.json' cannot be read"):
        settings.merged(recipe(engine={"options": {"config": "nowhere.json"}}))


@pytest.mark.parametrize(
    ("given", "said"),
    [({"zero": 4}, "zero: "), ({"stage": 1}, "stage: there is no such option"), ({"config": 1}, "config: ")],
)
def test_options_that_are_none_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRecipe, match=rf"engine\.options\.{said}") as refused:
        settings.merged(recipe(engine={"options": given}))
    assert refused.value.mend == "options are zero, config"


@pytest.mark.parametrize("zero", [2, 3])
def test_a_pipeline_takes_no_more_than_zero_1(zero: int) -> None:
    with pytest.raises(InvalidRecipe, match=rf"parallel\.pipeline = 2 with ZeRO {zero}"):
        settings.merged(recipe(engine={"options": {"zero": zero}}, parallel={"data": 1, "pipeline": 2}))


def test_a_pipeline_whose_checkpoints_deepspeed_cannot_load_is_refused() -> None:
    with pytest.raises(InvalidRecipe, match="cannot load") as refused:
        settings.merged(recipe(engine={"precision": "bfloat16"}, parallel={"data": 1, "pipeline": 2}))
    assert "engine.options.zero = 1" in str(refused.value.mend)


@pytest.mark.parametrize("dimension", ["shard", "tensor"])
def test_dimensions_that_deepspeed_has_not_are_refused(dimension: str) -> None:
    asked = recipe(parallel={dimension: 2})
    for refuses in (ledger_deepspeed.check_engine, ledger_deepspeed.build_engine):
        with pytest.raises(InvalidRecipe, match=rf"parallel\.{dimension} = 2"):
            refuses("deepspeed", asked)


def test_a_recipe_is_looked_at_without_torch_and_only_if_it_asks_for_deepspeed(tmp_path: Path) -> None:
    ledger_deepspeed.check_engine("ddp", recipe(engine={"options": {"zero": 9}}))
    with pytest.raises(InvalidRecipe, match=r"bf16\.enabled = True"):
        ledger_deepspeed.check_engine("deepspeed", with_json(tmp_path, {"bf16": {"enabled": True}}))
    asked = f"ledger_deepspeed.check_engine('deepspeed', {recipe()!r})"
    look = f"import ledger_deepspeed, sys; {asked}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert not {"torch", "deepspeed"}.intersection(done.stdout.split())


ALONE: dict[str, Any] = {"processes": 1, "data": 1}
"""DeepSpeed takes the number of processes from the process group, of which there is none here."""


@pytest.fixture(scope="module")
def parse() -> Callable[[dict[str, Any]], Any]:
    """DeepSpeed's own reader of settings."""
    backend.load()
    from deepspeed.runtime.config import DeepSpeedConfig

    return DeepSpeedConfig


def test_deepspeed_takes_what_is_merged(tmp_path: Path, parse: Callable[[dict[str, Any]], Any]) -> None:
    own = {"zero_optimization": {"stage": 2, "reduce_bucket_size": 1000}, "wall_clock_breakdown": True, "wandb": {}}
    found = settings.merged(with_json(tmp_path, own, parallel=ALONE))
    settings.accepted(found, "ds.json", parse)


@pytest.mark.parametrize(
    ("own", "said", "mend"),
    [
        ({"gradient_cliping": 1.0}, "knows no gradient_cliping", "did you mean gradient_clipping?"),
        ({"qqq": 1}, "knows no qqq", "remove"),
        ({"zero_optimization": {"bogus": 1}}, "bogus", "lists"),
        ({"sparse_attention": {}}, "removed", "lists"),
        ({"fp16": {"enabled": False, "loss_scale": "much"}}, "loss_scale", "lists"),
    ],
)
def test_what_deepspeed_does_not_know_is_refused(
    tmp_path: Path, parse: Callable[[dict[str, Any]], Any], own: dict[str, Any], said: str, mend: str
) -> None:
    found = settings.merged(with_json(tmp_path, own, parallel=ALONE))
    with pytest.raises(InvalidRecipe, match=said) as refused:
        settings.accepted(found, "ds.json", parse)
    assert str(refused.value).startswith("ds.json: ")
    assert mend in str(refused.value.mend)


# --- the launcher ----------------------------------------------------------------------------------------------------


def plan(directory: Path, **environ: str) -> Launch:
    return Launch(("python", "-m", "ledger_trainer"), directory, environ)


def world(processes: int = 2, *options: str) -> World:
    return World(processes=processes, launcher="deepspeed", options=options)


def test_other_launchers_are_left_to_others(tmp_path: Path) -> None:
    assert ledger_deepspeed.launch_command(plan(tmp_path), World(processes=2, launcher="torchrun")) is None


def test_a_module_is_started_as_one(tmp_path: Path) -> None:
    words = launch.command(plan(tmp_path), world())
    assert words[:3] == ["python", "-m", "deepspeed.launcher.runner"]
    assert words[-2:] == ["--module", "ledger_trainer"]
    assert "--num_gpus=2" in words


def test_a_script_is_started_as_one(tmp_path: Path) -> None:
    words = launch.command(Launch(("python", "train.py", "--lr", "1"), tmp_path, {}), world())
    assert words[-3:] == ["train.py", "--lr", "1"]
    assert "--module" not in words


def test_the_devices_that_the_user_has_chosen_are_taken(tmp_path: Path) -> None:
    words = launch.command(plan(tmp_path, CUDA_VISIBLE_DEVICES="3,1,0"), world())
    assert "--include=localhost:3,1" in words
    assert "--num_gpus=2" not in words


def test_two_launches_beside_each_other_do_not_meet(tmp_path: Path) -> None:
    ports = {word for _ in range(2) for word in launch.command(plan(tmp_path), world()) if "master_port" in word}
    assert len(ports) == 2


def test_a_hostfile_of_this_machine_needs_no_ssh(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("# this one\n\nlocalhost slots=2  # all of it\n")
    words = launch.command(plan(tmp_path), world(2, "--hostfile=hosts"))
    assert f"--hostfile={tmp_path / 'hosts'}" in words
    assert "--no_ssh_check" in words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("worker-1\n", r"hosts:1: 'worker-1' is no host with slots"),
        ("# x\nworker-1 slots=two\n", r"hosts:2: .*slots=two"),
        ("worker-1 slots=0\n", r"hosts:1: .*slots=0"),
        ("-oProxyCommand=x slots=2\n", r"hosts:1: "),
        ("a slots=1\na slots=1\n", r"hosts:2: a is there twice"),
        ("# nobody\n", "names no host"),
        ("localhost slots=3\n", "has 3 slots, the training 2 processes"),
    ],
)
def test_a_hostfile_that_does_not_hold_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(UsageError, match=said) as refused:
        launch.command(plan(tmp_path), world(2, "--hostfile=hosts"))
    assert len(str(refused.value).splitlines()) == 1
    assert refused.value.mend


def test_a_hostfile_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        launch.command(plan(tmp_path), world(2, "--hostfile=hosts"))


@given(
    hosts=st.dictionaries(st.from_regex(r"[a-z][a-z0-9.-]{0,9}", fullmatch=True), st.integers(1, 99), min_size=1),
    space=st.sampled_from([" ", "\t", "   "]),
)
def test_a_hostfile_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, hosts: dict[str, int], space: str
) -> None:
    path = tmp_path_factory.mktemp("hosts") / "hosts"
    path.write_text("".join(f"{name}{space}slots={slots}\n" for name, slots in hosts.items()))
    assert launch.read_hostfile(path) == [launch.Host(name, slots) for name, slots in hosts.items()]


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs an ssh client")
def test_a_host_that_cannot_be_reached_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("localhost slots=1\nnowhere.invalid slots=1\n")
    with pytest.raises(Unavailable, match=r"nowhere\.invalid \(.+\)") as refused:
        launch.command(plan(tmp_path), world(2, "--hostfile=hosts"))
    assert "ssh HOST true" in str(refused.value.mend)


def test_variables_that_a_shell_or_a_neighbour_would_read_are_not_handed_over() -> None:
    assert launch._variables({"LEDGER_RUN": "01a1", "HOME": "/", "OMP_NUM_THREADS": "2"}) == [
        "LEDGER_RUN=01a1",
        "OMP_NUM_THREADS=2",
    ]
    with pytest.raises(UsageError, match="password"):
        launch._variables({"LEDGER_URL": "postgresql+psycopg://me:secret@db/ledger"})
    with pytest.raises(UsageError, match="LEDGER_URL"):
        launch._variables({"LEDGER_URL": "/a b; rm -rf /"})


# --- without DeepSpeed -----------------------------------------------------------------------------------------------


def test_without_deepspeed_the_mend_is_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # what the import system takes for a module that is not there
    assert ledger_deepspeed.offer_engines() == {"deepspeed": "pip install 'training-ledger[deepspeed]'"}
    for needs_it in (
        lambda: ledger_deepspeed.build_engine("deepspeed", recipe()),
        lambda: ledger_deepspeed.launch_command(plan(tmp_path), world()),
    ):
        with pytest.raises(PluginUnavailable, match="not installed") as refused:
            needs_it()
        assert refused.value.mend == "pip install 'training-ledger[deepspeed]'"


def test_with_it_the_engine_is_offered() -> None:
    assert ledger_deepspeed.offer_engines() == {"deepspeed": ""}
    assert ledger_deepspeed.build_engine("ddp", recipe()) is None


def test_loading_the_plugin_loads_neither_torch_nor_deepspeed() -> None:
    code = "import ledger_deepspeed, sys; ledger_deepspeed.offer_engines(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "deepspeed", "numpy"}.intersection(done.stdout.split())


# --- its files -------------------------------------------------------------------------------------------------------


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (self.command,))


def test_that_another_attempt_has_taken_over_is_no_mere_failure_to_record() -> None:
    from ledger_deepspeed.recording import _warned

    with pytest.warns(RuntimeWarning, match="not on record: metrics: away"), _warned("metrics"):
        raise StoreUnavailable("away")
    with pytest.raises(FencedAttempt, match="attempt 2 has taken over"), _warned("metrics"):
        raise FencedAttempt("run-1", 1, 2)


def test_a_file_with_code_in_it_is_refused_unrun(tmp_path: Path) -> None:
    backend.load()
    from ledger_deepspeed import checkpoint

    (tmp_path / "deepspeed").mkdir()
    path, sign = tmp_path / "deepspeed" / "mp_rank_00_model_states.pt", tmp_path / "sign"
    torch.save({"module": Bomb(f"touch {sign}")}, path)
    with pytest.raises(CheckpointUnavailable, match=r"mp_rank_00_model_states\.pt"):
        checkpoint.SafeFiles().load(str(path))
    with pytest.raises(CheckpointUnavailable, match=r"mp_rank_00_model_states\.pt"):
        checkpoint.convert(tmp_path, tmp_path / "universal")
    assert not sign.exists()
    with path.open("rb") as file:  # it would have gone off
        torch.load(file, weights_only=False)
    assert sign.exists()


@pytest.mark.slow
def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    backend.load()
    from ledger_deepspeed.engine import _converting

    (tmp_path / "deepspeed").mkdir()
    (tmp_path / "universal").mkdir()  # of a process that was killed before it could remove it
    error = _converting(tmp_path, tmp_path / "universal")
    assert isinstance(error, CheckpointUnavailable)
    assert str(error).startswith("DeepSpeed cannot convert the checkpoint for another number of processes: ")
    assert [found.name for found in tmp_path.iterdir()] == ["deepspeed"]


def test_equal_states_give_equal_files_whatever_they_share(tmp_path: Path) -> None:
    backend.load()
    from ledger_deepspeed import checkpoint

    one = torch.arange(4.0)
    word = "exp_" + "avg"
    shared = {"a": one, "b": one, "names": [word, word], "strided": torch.arange(8.0)[::2]}
    apart = {
        "a": torch.arange(4.0),
        "b": torch.arange(4.0),
        "names": ["exp_avg", "".join(["exp", "_avg"])],
        "strided": torch.tensor([0.0, 2.0, 4.0, 6.0]),
    }
    checkpoint.SafeFiles().save(shared, str(tmp_path / "one.pt"))
    checkpoint.SafeFiles().save(apart, str(tmp_path / "another.pt"))
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


def test_the_stage_of_zero_is_written_as_a_number_that_every_python_reads(tmp_path: Path) -> None:
    backend.load()
    from deepspeed.runtime.zero.config import ZeroStageEnum

    from ledger_deepspeed import checkpoint

    checkpoint.SafeFiles().save({"zero_stage": ZeroStageEnum.gradients}, str(tmp_path / "one.pt"))
    assert type(checkpoint.SafeFiles().load(str(tmp_path / "one.pt"))["zero_stage"]) is int


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_full_disk_is_told_as_one(size: int) -> None:
    from ledger_deepspeed.checkpoint import EqualFiles

    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        EqualFiles().save({"weights": torch.zeros(size)}, "/dev/full")


def test_a_checkpoint_of_another_engine_is_told_from_ours(tmp_path: Path) -> None:
    backend.load()
    from ledger_deepspeed import checkpoint

    with pytest.raises(CheckpointUnavailable, match="not written by the engine deepspeed"):
        checkpoint.read_card(tmp_path)
