"""Every engine in the processes that it needs: real ones, over gloo.

The reference is one process that goes on from the same checkpoint, so each of these tests is also about a checkpoint
of one process that is loaded by several, and the other way round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ledger_trainer.engines import files
from tests.trainer.engine_ranks import Training, in_processes, train

if TYPE_CHECKING:
    from pathlib import Path

BOUND = 2e-6
"""Relative: what the order of additions changes in float32 within four steps."""
COARSE = 0.02
"""In bfloat16, whose numbers are 0.8 % apart."""

TWO: dict[str, dict[str, int]] = {
    "ddp": {"data": 2},
    "fsdp": {"shard": 2},
    "tensor": {"tensor": 2},
    "pipeline": {"pipeline": 2},
}
FOUR: dict[str, dict[str, int]] = {
    "hsdp": {"data": 2, "shard": 2},
    "ddp-tensor": {"data": 2, "tensor": 2},
    "fsdp-tensor": {"shard": 2, "tensor": 2},
    "pipeline-ddp": {"pipeline": 2, "data": 2},
    "pipeline-fsdp": {"pipeline": 2, "shard": 2},
    "pipeline-tensor": {"pipeline": 2, "tensor": 2},
    "deep": {"pipeline": 4},
}
SLOW = ("ddp", "ddp-tensor", "pipeline-ddp", "pipeline-fsdp", "pipeline-tensor")
"""Those that the others are made of."""


def _mark(name: str) -> Any:
    return () if name == "fsdp" else pytest.mark.slow if name in SLOW else pytest.mark.thorough


CASES = [pytest.param(sizes, id=name, marks=_mark(name)) for name, sizes in (TWO | FOUR).items()]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_same_files(one: Path, other: Path) -> None:
    """Whole tensors, however they are shared out over files, bit for bit."""
    for kind in ("model", "optimizer"):
        first, second = files.read_whole(one / kind), files.read_whole(other / kind)
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            assert torch.equal(tensor.reshape(-1).view(torch.uint8), second[name].reshape(-1).view(torch.uint8)), name


def assert_sound(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        assert result["steps"] == ranks[0]["steps"], "every rank tells the metrics of all"
        assert result["evaluated"] == ranks[0]["evaluated"]
        assert result["resumed"] == result["steps"][2:], "resumed is as straight through"
        assert result["resumed_at_end"] == result["at_end"]
        assert result["reloaded"] == result["at_save"] != result["at_end"]
    union: dict[str, str] = {}
    for result in ranks:
        for digests in (result["at_end"].parameters, result["at_end"].optimizer):
            for name, digest in digests.items():
                assert union.setdefault(name, digest) == digest, f"replicas of {name} differ"


@pytest.mark.parametrize("sizes", CASES)
def test_an_engine_trains_as_one_process_does(tmp_path: Path, text: Path, sizes: dict[str, int]) -> None:
    train(Training(text), 0, tmp_path / "begun")
    alone = train(Training(text), 0, tmp_path / "alone", tmp_path / "begun")
    training = Training(text, {"parallel": sizes})
    ranks = in_processes(train, training, tmp_path / "several", tmp_path / "begun")

    assert_sound(ranks)
    for step, expected in zip(ranks[0]["steps"], alone["steps"], strict=True):
        assert step == pytest.approx(expected, rel=BOUND)
    assert ranks[0]["evaluated"] == pytest.approx(alone["evaluated"], rel=BOUND)
    assert_same_files(tmp_path / "several-again", tmp_path / "begun")

    again = train(Training(text), 0, tmp_path / "back", tmp_path / "several")
    assert again["steps"][0]["loss"] < alone["steps"][0]["loss"]
    assert_same_files(tmp_path / "back-again", tmp_path / "several")

    topology, mesh = ranks[0]["topology"], training.recipe().mesh()
    assert topology["mesh"] == mesh.sizes
    assert topology["backend"] == "gloo"
    assert [rank["coordinates"] for rank in topology["ranks"]] == [mesh.coordinates(k) for k in range(mesh.processes)]
    assert all(rank["device"] == "cpu" and rank["threads"] == 1 and rank["host"] for rank in topology["ranks"])


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [TWO["tensor"], TWO["pipeline"], FOUR["pipeline-fsdp"]])
def test_bfloat16_in_several_processes(tmp_path: Path, text: Path, sizes: dict[str, int]) -> None:
    alone = train(Training(text), 0, tmp_path / "alone")
    coarse = {"engine": {"precision": "bfloat16"}}
    ranks = in_processes(train, Training(text, {"parallel": sizes} | coarse), tmp_path / "several")
    assert_sound(ranks)
    for step, expected in zip(ranks[0]["steps"], alone["steps"], strict=True):
        assert step != expected
        assert step == pytest.approx(expected, rel=COARSE)
    assert {tensor.dtype for tensor in files.read_whole(tmp_path / "several" / "model").values()} == {torch.float32}


@pytest.mark.slow
def test_checkpoints_are_shared_out_anew(tmp_path: Path, text: Path) -> None:
    """2 → 4 → 2, between engines that cut in different ways; embeddings of odd sizes are split unevenly."""
    odd = {"block_size": 15}
    in_processes(train, Training(text, {"parallel": TWO["fsdp"]}, odd), tmp_path / "a")
    ranks = in_processes(train, Training(text, {"parallel": FOUR["fsdp-tensor"]}, odd), tmp_path / "b", tmp_path / "a")
    assert_sound(ranks)
    assert_same_files(tmp_path / "b-again", tmp_path / "a")
    ranks = in_processes(train, Training(text, {"parallel": TWO["pipeline"]}, odd), tmp_path / "c", tmp_path / "b")
    assert_sound(ranks)
    assert_same_files(tmp_path / "c-again", tmp_path / "b")
    names = {path.relative_to(tmp_path / "b").as_posix() for path in (tmp_path / "b").rglob("*.safetensors")}
    assert names == {f"{kind}/rank-0000{k}.safetensors" for kind in ("model", "optimizer") for k in range(4)}


@pytest.mark.slow
@pytest.mark.parametrize(("odd", "sizes"), [("all", TWO["ddp"]), ("splittable", TWO["fsdp"])])
def test_what_is_easily_forgotten(tmp_path: Path, text: Path, odd: Any, sizes: dict[str, int]) -> None:
    """Tied and frozen parameters, of no element or in the wrong order; buffers, each process's own statistics."""
    train(Training(text, odd=odd), 0, tmp_path / "begun")
    training = Training(text, {"parallel": sizes}, odd=odd)
    ranks = in_processes(train, training, tmp_path / "several", tmp_path / "begun")
    assert_sound(ranks)
    assert_same_files(tmp_path / "several-again", tmp_path / "begun")
    names = files.stored(tmp_path / "several" / "model").keys()
    assert "middle.0.weight" in names
    assert not {"middle.1.weight", "passing"} & names
    assert {"frozen.weight", "nothing", "norm.running_mean"} <= names
    assert not any(name.startswith("frozen") for name in files.stored(tmp_path / "several" / "optimizer"))


@pytest.mark.slow
def test_equal_training_gives_equal_files(tmp_path: Path, text: Path) -> None:
    contents = []
    for name in ("one", "two"):
        in_processes(train, Training(text, {"parallel": TWO["fsdp"]}), tmp_path / name)
        place = tmp_path / name
        found = {path.relative_to(place): path.read_bytes() for path in place.rglob("*") if path.is_file()}
        contents.append(found)
    assert contents[0] == contents[1]
    assert len(contents[0]) == 5
