"""What an engine saves and loads, in one process."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ledger.errors import CheckpointUnavailable, Unavailable
from ledger.files import write_out
from ledger_trainer.engines import TorchEngine, files
from ledger_trainer.engines.staging import Staging
from ledger_trainer.engines.state import Part, whole
from ledger_trainer.fingerprint import tensor_bytes
from ledger_trainer.recipe import TrainingRecipe
from ledger_trainer.session import engine_config
from tests.limits import files_up_to
from tests.trainer.engine_ranks import Odd, OddModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Changed(Odd):
    """The same task with a model that something was done to."""

    def __init__(self, change: Callable[[OddModel], object] = lambda model: None) -> None:
        super().__init__(splittable=False)
        self._change = change

    def model(self) -> nn.Module:
        torch.manual_seed(3)
        model = OddModel(splittable=False)
        self._change(model)
        return model


def start(change: Callable[[OddModel], object] = lambda model: None, **tables: Any) -> TorchEngine:
    recipe = TrainingRecipe.model_validate({"task": "a:b", "steps": 9, **tables})
    return TorchEngine(engine_config(recipe, Changed(change)))


def step(engine: TorchEngine, count: int = 1) -> None:
    for _ in range(count):
        first = engine.done * 8
        engine.step([Odd(splittable=False).batch(range(first, first + 8))])


def _widen(model: OddModel) -> None:
    model.last = nn.Linear(5, 2)


def _add(model: OddModel) -> None:
    model.more = nn.Linear(1, 1)


def trained(steps: int = 2, **tables: Any) -> TorchEngine:
    engine = start(**tables)
    step(engine, steps)
    return engine


@pytest.mark.parametrize("optim", [{}, {"name": "sgd", "momentum": 0.9}, {"name": "sgd"}])
def test_what_was_saved_goes_on_as_if_never_stopped(tmp_path: Path, optim: dict[str, Any]) -> None:
    engine = trained(optim=optim)
    engine.save(tmp_path)()
    step(engine, 2)
    resumed = start(lambda model: nn.init.ones_(model.first.weight), optim=optim)
    resumed.load(tmp_path)
    assert resumed.done == 2
    step(resumed, 2)
    assert resumed.fingerprint()() == engine.fingerprint()()


def test_what_is_written_is_the_state_when_it_was_taken(tmp_path: Path) -> None:
    engine = trained()
    write, digests = engine.save(tmp_path), engine.fingerprint()
    step(engine)
    write()
    resumed = start()
    resumed.load(tmp_path)
    assert resumed.fingerprint()() == digests()
    step(resumed)
    assert resumed.fingerprint()() == engine.fingerprint()()


def test_taking_the_state_again_allocates_nothing() -> None:
    staging = Staging()
    tensors = {"a": torch.randn(5, 3), "b": torch.randn(3, 5).T, "c": torch.tensor(1.0)}
    first = staging.copies(1, {name: whole(tensor) for name, tensor in tensors.items()})
    places = {name: part.tensor.data_ptr() for name, part in first.items()}
    tensors["a"] += 1
    again = staging.copies(1, {name: whole(tensor) for name, tensor in tensors.items()})
    assert not torch.equal(again["a"].tensor, tensors["a"]), "copied once a step"
    later = staging.copies(2, {name: whole(tensor) for name, tensor in tensors.items()})
    assert places == {name: part.tensor.data_ptr() for name, part in later.items()}
    assert all(torch.equal(later[name].tensor, tensor) for name, tensor in tensors.items())


def test_a_model_is_exported_whole_and_tied_parameters_once(tmp_path: Path) -> None:
    engine = trained()
    engine.save(tmp_path)()
    exported = engine.export(tmp_path)
    expected = engine.model.state_dict()
    assert exported.keys() == expected.keys() - {"middle.1.weight"}
    for name, tensor in exported.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0, equal_nan=True)
    assert engine.model.middle[1].weight is engine.model.middle[0].weight  # type: ignore[index, union-attr]


def test_what_was_tied_stays_so_and_is_stored_once(tmp_path: Path) -> None:
    trained().save(tmp_path)()
    content = (tmp_path / "optimizer/rank-00000.safetensors").read_bytes()
    assert b"middle.0.weight.exp_avg" in content
    assert b"middle.1.weight" not in content
    assert b"middle.1.weight" not in (tmp_path / "model/rank-00000.safetensors").read_bytes()
    resumed = start(lambda model: nn.init.ones_(model.middle[0].weight))  # type: ignore[arg-type]
    resumed.load(tmp_path)
    step(resumed)
    first, second = resumed.model.middle  # type: ignore[misc]
    assert first.weight is second.weight
    assert sum(group is first.weight for groups in resumed.optimizer.param_groups for group in groups["params"]) == 1


def test_a_full_disk_is_told_with_the_mend(tmp_path: Path) -> None:
    write = trained().save(tmp_path)
    with files_up_to(100), pytest.raises(Unavailable, match=r"cannot write .*rank-00000\.safetensors: ") as caught:
        write()
    assert "make room" in str(caught.value.mend)


def test_parts_are_put_together_from_the_files_of_all_ranks(tmp_path: Path) -> None:
    tensor = torch.arange(12.0).reshape(4, 3)
    for rank, rows in enumerate((slice(0, 3), slice(3, 4))):
        part = Part(tensor[rows], (rows.start, 0), tensor.shape, frozenset({"shard"}))
        write_out(files.content(rank, {"t": part}), tmp_path)
    write_out(files.content(2, {}), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert torch.equal(files.read_whole(tmp_path)["t"], tensor)


@pytest.mark.parametrize("missing", [None, 0, 1, 2])
def test_a_part_that_is_missing_is_noticed(tmp_path: Path, missing: int | None) -> None:
    engine = start()
    step(engine)
    engine.save(tmp_path)()
    saved = files.read_whole(tmp_path / "model")
    frozen = saved.pop("frozen.weight")
    write_out(files.content(0, {name: whole(tensor) for name, tensor in saved.items()}), tmp_path / "model")
    for k in {0, 1, 2} - {missing}:
        rows = slice(k * 2, min(k * 2 + 2, 5))
        part = Part(frozen[rows], (rows.start, 0), frozen.shape, frozenset({"shard"}))
        write_out(files.content(k + 1, {"frozen.weight": part}), tmp_path / "model")
    if missing is None:
        engine.load(tmp_path)
    else:
        with pytest.raises(CheckpointUnavailable, match=r"frozen\.weight"):
            engine.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_widen, "last.weight as float32 [2, 5]: there it is float32 [1, 5]"),
        (lambda model: model.frozen.double(), "frozen.weight as float64 [5, 5]: there it is float32 [5, 5]"),
        (_add, "more.weight as float32 [1, 1]: it has none of that name"),
        (lambda model: delattr(model, "nothing"), "which has no nothing"),
    ],
)
def test_a_checkpoint_of_another_model_changes_nothing(
    tmp_path: Path, change: Callable[[OddModel], object], says: str
) -> None:
    trained().save(tmp_path)()
    engine = start(change)
    before = engine.fingerprint()()
    with pytest.raises(CheckpointUnavailable) as caught:
        engine.load(tmp_path)
    assert says in str(caught.value)
    assert caught.value.mend
    engine._staging.forget()
    assert engine.fingerprint()() == before
    assert engine.done == 0


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        ({}, {"name": "sgd", "momentum": 0.9}),
        ({}, {"name": "sgd"}),
        ({"name": "sgd"}, {}),
        ({"name": "sgd", "momentum": 0.9}, {"name": "sgd"}),
    ],
)
def test_a_checkpoint_of_another_optimizer_changes_nothing(
    tmp_path: Path, saved: dict[str, Any], loaded: dict[str, Any]
) -> None:
    trained(optim=saved).save(tmp_path)()
    engine = start(optim=loaded)
    before = engine.fingerprint()()
    with pytest.raises(CheckpointUnavailable, match="of another optimizer"):
        engine.load(tmp_path)
    engine._staging.forget()
    assert engine.fingerprint()() == before


@pytest.mark.parametrize("content", ["", "[]", '{"steps": null}', "{}"])
def test_a_checkpoint_of_another_engine_is_refused(tmp_path: Path, content: str) -> None:
    engine = trained()
    engine.save(tmp_path)()
    (tmp_path / "engine.json").write_text(content)
    with pytest.raises(CheckpointUnavailable, match="not of one of the engines torch, ddp and fsdp"):
        engine.load(tmp_path)


def test_the_files_are_safetensors_that_others_can_read(tmp_path: Path) -> None:
    engine = trained()
    engine.save(tmp_path)()
    model = safetensors.torch.load_file(tmp_path / "model" / "rank-00000.safetensors")
    assert torch.equal(model["first.weight"], engine.model.get_parameter("first.weight"))
    optimizer = safetensors.torch.load_file(tmp_path / "optimizer" / "rank-00000.safetensors")
    state = engine.optimizer.state[engine.model.get_parameter("first.weight")]
    assert torch.equal(optimizer["first.weight.exp_avg"], state["exp_avg"])
    assert optimizer["first.weight.step"] == 2
    assert json.loads((tmp_path / "engine.json").read_text()) == {"steps": 2}


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from([*files._DTYPES]), st.lists(st.integers(0, 3), max_size=3), st.binary(min_size=512)),
        min_size=1,
    )
)
def test_any_tensors_come_back_from_what_is_lent(given: dict[str, tuple[torch.dtype, list[int], bytes]]) -> None:
    tensors = {
        name: torch.frombuffer(bytearray(content[: 27 * 16]), dtype=torch.uint8)[: math.prod(shape) * dtype.itemsize]
        .view(dtype)
        .reshape(shape)
        for name, (dtype, shape, content) in given.items()
    }
    ((name, buffers),) = files.content(7, {name: whole(tensor) for name, tensor in tensors.items()}).items()
    assert name == "rank-00007.safetensors"
    found = safetensors.torch.load(b"".join(buffers))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert tensor_bytes(found[name]) == tensor_bytes(tensor)


def test_what_is_lent_is_what_is_written(tmp_path: Path) -> None:
    engine = trained()
    lent = engine.lend(tmp_path)()
    assert [path.name for path in tmp_path.iterdir()] == ["engine.json"]
    engine.save(tmp_path)()
    for path, buffers in lent.items():
        assert (tmp_path / path).read_bytes() == b"".join(buffers)


def test_where_it_trains() -> None:
    topology = start().topology()
    assert topology["engine"] == "torch"
    assert topology["mesh"] == {"pipeline": 1, "data": 1, "shard": 1, "tensor": 1}
    (rank,) = topology["ranks"]
    assert rank["coordinates"] == {"pipeline": 0, "data": 0, "shard": 0, "tensor": 0}
    assert rank["threads"] == torch.get_num_threads()
