from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest

from ledger.errors import InvalidRecipe
from ledger.hooks.ports import Trainer
from ledger_trainer.trainer import RecipeTrainer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RECIPES = resources.files("ledger_trainer") / "recipes"
MINIMAL = 'task = "ledger_trainer.tasks.kjv:gpt"\nsteps = 10\n[data.train]\nuri = "file:kjv.txt"\n'


def resolve(tmp_path: Path, text: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return dict(RecipeTrainer().resolve(path, overrides).config)


def complaint(tmp_path: Path, text: str, overrides: Sequence[str] = ()) -> str:
    with pytest.raises(InvalidRecipe) as caught:
        resolve(tmp_path, text, overrides)
    assert caught.value.mend
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize("name", ["kjv_gpt.toml", "mnist.toml"])
def test_the_recipes_that_come_along_are_valid(name: str) -> None:
    with resources.as_file(RECIPES / name) as path:
        recipe = RecipeTrainer().resolve(path, [])
    assert recipe.seed == 7
    assert recipe.data["train"].startswith("file:data/")
    assert recipe.command[1:] == ("-m", "ledger_trainer")
    assert json.loads(json.dumps(recipe.config)) == recipe.config


def test_everything_left_out_is_filled_in_and_nothing_is_left_to_the_machine(tmp_path: Path) -> None:
    config = resolve(tmp_path, MINIMAL)
    assert config["engine"] == {"name": "torch", "precision": "float32", "options": {}}
    assert config["parallel"] == {"processes": 1, "data": 1, "shard": 1, "tensor": 1, "pipeline": 1}
    assert config["determinism"]["threads"] >= 1
    assert config["task_options"]["n_layer"] == 6


@pytest.mark.parametrize(
    ("parallel", "engine", "settled"),
    [
        ("processes = 4", "", ("ddp", 1, 4, 1, 1)),
        ("processes = 4\ntensor = 2", "", ("ddp", 1, 2, 1, 2)),
        ("processes = 4\npipeline = 2", "fsdp", ("fsdp", 2, 1, 2, 1)),
        ("processes = 4\nshard = 2", "", ("fsdp", 1, 2, 2, 1)),
        ("processes = 4\nshard = 2", "fsdp", ("fsdp", 1, 2, 2, 1)),
        ("processes = 4\ndata = 2", "fsdp", ("fsdp", 1, 2, 2, 1)),
        ("processes = 4", "fsdp", ("fsdp", 1, 1, 4, 1)),
        ("tensor = 2\npipeline = 2", "", ("ddp", 2, 1, 1, 2)),
        ("processes = 4\ntensor = 2", "deepspeed", ("deepspeed", 1, 2, 1, 2)),
        ("", "deepspeed", ("deepspeed", 1, 1, 1, 1)),
    ],
)
def test_sizes_left_open_take_what_is_left(
    tmp_path: Path, parallel: str, engine: str, settled: tuple[str, int, int, int, int]
) -> None:
    overrides = ["batch.accumulation=2", *([f"engine.name={engine}"] if engine else [])]
    path = tmp_path / "recipe.toml"
    path.write_text(f"{MINIMAL}[parallel]\n{parallel}")
    recipe = RecipeTrainer().resolve(path, overrides)
    sizes = recipe.config["parallel"]
    found = (recipe.config["engine"]["name"], *(sizes[name] for name in ("pipeline", "data", "shard", "tensor")))
    assert found == settled
    assert recipe.world.processes == sizes["processes"] == math.prod(settled[1:])


@pytest.mark.parametrize(
    ("before", "processes", "after"),
    [
        ({"engine.name": "ddp", "parallel.processes": 2}, 4, ("ddp", 1, 4, 1, 1)),
        ({"engine.name": "ddp", "parallel.processes": 2}, 1, ("torch", 1, 1, 1, 1)),
        ({}, 2, ("ddp", 1, 2, 1, 1)),
        ({"engine.name": "fsdp", "parallel.processes": 2}, 4, ("fsdp", 1, 1, 4, 1)),
        ({"engine.name": "fsdp", "parallel.data": 2, "parallel.shard": 2}, 8, ("fsdp", 1, 4, 2, 1)),
        ({"engine.name": "fsdp", "parallel.data": 2, "parallel.shard": 2}, 2, ("fsdp", 1, 1, 2, 1)),
        ({"parallel.tensor": 2, "parallel.data": 2}, 2, ("ddp", 1, 1, 1, 2)),
        ({"parallel.pipeline": 2}, 1, ("torch", 1, 1, 1, 1)),
        ({"engine.name": "deepspeed", "parallel.processes": 2}, 1, ("deepspeed", 1, 1, 1, 1)),
    ],
)
def test_a_run_goes_on_with_other_processes(
    tmp_path: Path, before: dict[str, Any], processes: int, after: tuple[str, int, int, int, int]
) -> None:
    overrides = ["batch.accumulation=2", *(f"{key}={value}" for key, value in before.items())]
    config = resolve(tmp_path, MINIMAL, overrides)
    resized = RecipeTrainer().resize(config, processes)
    sizes = resized.config["parallel"]
    found = (resized.config["engine"]["name"], *(sizes[name] for name in ("pipeline", "data", "shard", "tensor")))
    assert found == after
    assert resized.world.processes == sizes["processes"] == processes
    same = {"engine": None, "parallel": None}
    assert {**resized.config, **same} == {**config, **same}


@pytest.mark.parametrize(
    ("before", "processes", "says"),
    [
        ("parallel.tensor=2", 3, "3 cannot be laid out as .* tensor 2; set it to a multiple of 2"),
        ("parallel.data=2", 5, "batch.size: 32 samples cannot be shared out equally"),
    ],
)
def test_processes_that_a_run_cannot_go_on_with(tmp_path: Path, before: str, processes: int, says: str) -> None:
    config = resolve(tmp_path, MINIMAL, [before])
    with pytest.raises(InvalidRecipe, match=says):
        RecipeTrainer().resize(config, processes)


def test_overrides_are_toml_values_or_bare_strings(tmp_path: Path) -> None:
    overrides = [
        "optim.lr=1e-3",
        "optim.betas=[0.8, 0.9]",
        "data.train.uri=file:other.txt",
        'checkpoint.best="val/loss"',
        "parallel.processes=2",
        "task_options.n_layer=2",
        "stop_on_nan=false",
    ]
    config = resolve(tmp_path, MINIMAL, overrides)
    assert config["optim"]["lr"] == 1e-3
    assert config["optim"]["betas"] == [0.8, 0.9]
    assert config["data"]["train"]["uri"] == "file:other.txt"
    assert config["checkpoint"]["best"] == "val/loss"
    assert config["engine"]["name"] == "ddp"
    assert config["task_options"]["n_layer"] == 2
    assert config["stop_on_nan"] is False


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[optim]\nlrr = 0.1", "recipe.toml:6: optim.lrr … did you mean optim.lr?"),
        ("[optim]\nlr = 0.1\n[optimm]\nclip = 1.0", "recipe.toml:7: optimm … did you mean optim?"),
        ("[evaluate]\nlr = 0.1", "recipe.toml:6: evaluate.lr … did you mean optim.lr?"),
        (
            "[data.validation]\nurl = 'x'",
            "recipe.toml:6: data.validation.url … did you mean data.validation.uri?",
        ),
        (
            "[task_options]\nn_layers = 2",
            "recipe.toml:6: task_options.n_layers … did you mean task_options.n_layer?",
        ),
        ("[task_options]\nn_layer = 0", "recipe.toml:6: task_options.n_layer = 0 should be greater than 0"),
        ("[optim]\nlr = '0.1'", "recipe.toml:6: optim.lr = '0.1' should be a valid number"),
        ("[optim]\nlr = -1", "recipe.toml:6: optim.lr = -1 should be greater than 0"),
        ("[optim]\nlr = nan", "recipe.toml:6: optim.lr = nan should be"),
        ("[optim]\nbetas = [\n  0.9,\n  1.5,\n]", "recipe.toml:9: optim.betas.1 = 1.5 should be less than 1"),
        ("[log]\nevery = true", "recipe.toml:6: log.every = True should be a valid integer"),
        ("[checkpoint]\nmode = 'best'", "recipe.toml:6: checkpoint.mode = 'best' should be 'min' or 'max'"),
        (
            "[batch]\nsize = 10\naccumulation = 4",
            "recipe.toml:6: batch.size: 10 samples cannot be shared out equally",
        ),
        ("[schedule]\nwarmup = 11", "recipe.toml:6: schedule.warmup: it is longer than the training"),
        ("[schedule]\nkind = 'cosine'\nmin_lr = 1.0", "recipe.toml:7: schedule.min_lr: it is above optim.lr"),
        ("[optim]\nmomentum = 0.9", "recipe.toml:6: optim.momentum: adamw has none; remove it"),
        ("[parallel]\nprocesses = 2\n[engine]\nname = 'torch'", "recipe.toml:8: engine.name"),
        ("[engine]\nname = 'ddp'", "recipe.toml:6: engine.name"),
        ("[engine]\nname = 'fsdp'", "recipe.toml:6: engine.name"),
        (
            "[parallel]\nprocesses = 3\ntensor = 2",
            "recipe.toml:6: parallel.processes: 3 cannot be laid out as … set it to a multiple of 2",
        ),
        (
            "[parallel]\ndata = 2\npipeline = 2\nprocesses = 2",
            "recipe.toml:8: parallel.processes: 2 cannot be laid out as pipeline 2 × data 2 … set it to 4",
        ),
        ("[parallel]\npipeline = 2", "batch.accumulation: 1 micro-batches cannot fill a pipeline of 2 stages"),
        ("[parallel]\nshard = 2\n[engine]\nname = 'ddp'", 'recipe.toml:6: parallel.shard: "ddp" splits no parameters'),
        ("[parallel]\ntensor = 2\nshard = 1\n[engine]\nname = 'fsdp'", "recipe.toml:7: parallel.shard: "),
        ("[engine.options]\nzero = 2", 'recipe.toml:5: engine.options: the engine "torch" has none'),
    ],
)
def test_an_error_names_file_line_key_and_what_would_do(tmp_path: Path, line: str, says: str) -> None:
    message = complaint(tmp_path, MINIMAL + line)
    assert all(part in message for part in says.split(" … "))


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    assert complaint(tmp_path, "steps = 0\nsed = 1\n").splitlines() == [
        "recipe.toml: task is missing",
        "recipe.toml:1: steps = 0 should be greater than 0",
        "recipe.toml:2: sed is not a key of a recipe; did you mean seed?",
    ]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optim.lr=fast", "override optim.lr=fast: optim.lr = 'fast' should be a valid number"),
        ("optim.rl=1", "override optim.rl=1: optim.rl … did you mean optim.lr?"),
        ("optim.lr", "override 'optim.lr' is not key=value"),
        ("=1", "is not key=value"),
        ("optim..lr=1", "is not key=value"),
        ("optim.betas=[1,", "override 'optim.betas=[1,'"),
        ("steps.more=1", "override steps.more=1: steps is not a table"),
        ("batch.size=3 ", "override batch.size=3"),
    ],
)
def test_an_error_in_an_override_quotes_it(tmp_path: Path, override: str, says: str) -> None:
    recipe = MINIMAL + "[batch]\naccumulation = 2\n"
    message = complaint(tmp_path, recipe, [override])
    assert all(part in message for part in says.split(" … "))


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("kjv", "is not package.module:factory"),
        ("ledger_trainer.tasks.nothing:gpt", "there is no module 'ledger_trainer.tasks.nothing'"),
        ("ledger_trainer.tasks.kjv:gtp", "has no 'gtp'"),
        (
            "no_such_package.tasks:mine",
            "recipe.toml:1: task = 'no_such_package.tasks:mine': there is no module",
        ),
    ],
)
def test_a_task_that_is_not_there(tmp_path: Path, task: str, says: str) -> None:
    assert says in complaint(tmp_path, MINIMAL.replace("ledger_trainer.tasks.kjv:gpt", task))


def test_a_users_module_is_found_beside_the_command_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_dear_task.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    config = resolve(tmp_path, 'task = "my_dear_task:make"\nsteps = 1\n[task_options]\nany = "thing"\n')
    assert config["task_options"] == {"any": "thing"}


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    trainer = RecipeTrainer()
    with pytest.raises(InvalidRecipe, match="there is no such file"):
        trainer.resolve(tmp_path / "none.toml", [])
    with pytest.raises(InvalidRecipe, match="cannot be read"):
        trainer.resolve(tmp_path, [])
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRecipe, match="cannot be read"):
        trainer.resolve(tmp_path / "binary.toml", [])
    assert "line 2" in complaint(tmp_path, "steps = 1\ntask = kjv\n")


def test_the_help_has_every_key_with_type_default_and_meaning() -> None:
    trainer = RecipeTrainer()
    keys = {key.key: key for key in trainer.describe()}
    assert isinstance(trainer, Trainer)
    assert all(key.help and key.type for key in keys.values())
    assert (keys["steps"].default, keys["optim.lr"].default) == ("required", "0.0003")
    assert keys["schedule.kind"].type == '"constant" or "cosine"'
    assert {
        "data.NAME.uri",
        "parallel.processes",
        "parallel.pipeline",
        "engine.options",
        "task_options.n_layer",
        "task_options.channels",
    } <= keys.keys()


def test_the_samples_of_a_step_are_known_without_torch(tmp_path: Path, text: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(MINIMAL + "[batch]\nsize = 8\naccumulation = 2\n[parallel]\nprocesses = 2\n")
    program = f"""
import sys, json
from pathlib import Path
from ledger_trainer.trainer import RecipeTrainer
trainer = RecipeTrainer()
config = trainer.resolve(Path({str(recipe)!r}), []).config
print(json.dumps(trainer.samples(config, {{"train": Path({str(text)!r})}}, 10)))
trainer.describe()
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    samples = json.loads(done.stdout)
    assert [len(rank) for rank in samples] == [4, 4]
    assert len({sample for rank in samples for sample in rank}) == 8


@pytest.mark.parametrize("parallel", ["processes = 2\n", "processes = 2\ntensor = 2\n"])
def test_the_steps_of_a_sample_are_those_whose_samples_it_is_among(tmp_path: Path, text: Path, parallel: str) -> None:
    config = resolve(tmp_path, MINIMAL + f"[batch]\nsize = 8\naccumulation = 2\n[parallel]\n{parallel}")
    trainer, data = RecipeTrainer(), {"train": text}
    read = {step: trainer.samples(config, data, step) for step in range(1, 11)}
    for sample in (*read[4][0], 10**9):
        told = [(step, rank) for step, ranks in read.items() for rank, ids in enumerate(ranks) if sample in ids]
        assert trainer.readings(config, data, sample) == told


def test_a_users_own_task_is_found_in_the_directory_for_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numbered.py").write_text("""
from pydantic import BaseModel
class Options(BaseModel):
    pass
class Numbered:
    def samples(self, split): return range(100, 120)
def numbered(options: Options, data): return Numbered()
""")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "numbered", raising=False)
    path = list(sys.path)
    config = resolve(tmp_path, 'task = "numbered:numbered"\nsteps = 5\n[batch]\nsize = 4\n')
    ((first, *_),) = RecipeTrainer().samples(config, {}, 1)
    assert 100 <= first < 120
    assert (1, 0) in RecipeTrainer().readings(config, {}, first)
    assert sys.path == path


def test_samples_of_a_step_that_never_was(tmp_path: Path, text: Path) -> None:
    config = resolve(tmp_path, MINIMAL)
    with pytest.raises(InvalidRecipe, match="steps 1 to 10"):
        RecipeTrainer().samples(config, {"train": text}, 11)
