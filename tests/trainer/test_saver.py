"""The pieces behind a training's checkpoints: what ranks tell each other, fingerprints of all of them, exports."""

from __future__ import annotations

import copy
import os
import pty
import re
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import ledger
from ledger.codec import canonical_digest
from ledger.errors import CheckpointUnavailable, InvalidRecipe, Unavailable, UsageError
from ledger_trainer.console import Console
from ledger_trainer.export import export_model
from ledger_trainer.fingerprint import Digests, merge
from ledger_trainer.loop import policy, require_export
from ledger_trainer.parts import Part, Parts, require_shared
from ledger_trainer.recipe import Checkpoint, TrainingRecipe
from ledger_trainer.saver import _told_to

if TYPE_CHECKING:
    from pathlib import Path

HOSTS = ["a", "a", "b"]
DIGESTS = st.dictionaries(st.sampled_from("uvwxyz"), st.text("abc", min_size=3, max_size=3))


def in_a_moment(action: Any, *arguments: Any) -> None:
    threading.Timer(0.1, action, arguments).start()


def test_rank_0_gets_the_part_of_every_rank(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "step-4", HOSTS)
    own, first, second = Part(digests=Digests({"w": "0"}, {})), Part(), Part("no room", Digests({}, {"m": "2"}))
    parts.tell(2, second)
    in_a_moment(parts.tell, 1, first)
    assert parts.collect(own) == [own, first, second]
    assert list(tmp_path.iterdir()) == [], "nothing is left to be mistaken for the next attempt's"


def test_a_rank_that_tells_nothing_is_named_with_its_host(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "step-4", HOSTS, patience=0.3)
    parts.tell(1, Part())
    with pytest.raises(CheckpointUnavailable, match=r"rank 2 on b has said nothing of its part for 0\.3 s"):
        parts.collect(Part())


def test_a_rank_that_goes_on_writing_is_waited_for(tmp_path: Path) -> None:
    directory = tmp_path / "step-4"
    directory.mkdir()
    parts = Parts(directory, HOSTS[:2], patience=0.6)

    def write_slowly() -> None:
        with (directory / "large").open("ab", buffering=0) as file:
            for _ in range(15):
                file.write(b"more")
                time.sleep(0.1)
        parts.tell(1, Part())

    threading.Thread(target=write_slowly).start()
    began = time.monotonic()
    assert len(parts.collect(Part())) == 2
    assert time.monotonic() - began > 1.0, "longer than its patience"


def test_a_failure_of_a_rank_is_told_with_the_mend() -> None:
    failures: list[str] = []
    with _told_to(failures):
        raise Unavailable("cannot write model/rank-00001.safetensors", mend="make room there")
    assert failures == ["cannot write model/rank-00001.safetensors (make room there)"]


def test_scratch_must_be_seen_by_all(tmp_path: Path) -> None:
    require_shared(tmp_path / "new", 0, HOSTS[:1])
    with pytest.raises(UsageError, match=r"rank 2 on b does not see .* of a") as caught:
        require_shared(tmp_path / "elsewhere", 2, HOSTS)
    assert "LEDGER_SCRATCH" in (caught.value.mend or "")


@given(st.lists(st.builds(Digests, DIGESTS, DIGESTS), min_size=1, max_size=4))
def test_a_fingerprint_is_that_of_all_ranks(ranks: list[Digests]) -> None:
    found = merge(ranks)
    assert found.tensors.keys() == {name for rank in ranks for name in rank.parameters}
    assert found.parameters == canonical_digest(dict(sorted(found.tensors.items())))
    assert len(found.shards) == (len(ranks) if len(ranks) > 1 else 0)
    values = [
        {pair for rank in ranks for pair in rank.parameters.items()},
        {pair for rank in ranks for pair in rank.optimizer.items()},
    ]
    agree = all(len({name for name, _ in pairs}) == len(pairs) for pairs in values)
    assert agree == (not found.disagreements)
    if agree:
        assert merge(ranks[::-1]).parameters == found.parameters
    assert merge([*ranks, ranks[0]]).parameters == found.parameters, "a replica adds nothing"


def test_replicas_that_part_ways_are_told_apart() -> None:
    ranks = [Digests({"w": "a" * 64}, {"m": "c" * 64}), Digests({"w": "b" * 64}, {"m": "c" * 64})]
    found = merge(ranks)
    assert found.disagreements == [f"w is {'a' * 12}… on rank 0, {'b' * 12}… on rank 1"]
    assert found.shards["0"] != found.shards["1"]


def test_an_export_is_plain_safetensors_rounded_to_nearest_even(tmp_path: Path) -> None:
    tied = torch.randn(4, 3)
    halfway = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, float("nan"), 1e39])
    tensors = {"a.weight": tied, "b.weight": tied, "c": halfway, "steps": torch.tensor(7), "none": torch.empty(0)}
    path = export_model(tensors, tmp_path, "bfloat16")
    assert path.name == "model-bfloat16.safetensors"
    read = safetensors.torch.load_file(path)
    assert read.keys() == {"a.weight", "c", "steps", "none"}, "tied tensors once"
    assert read["a.weight"].dtype == torch.bfloat16
    assert torch.equal(read["a.weight"], tied.bfloat16())
    assert read["c"].tolist()[:3] == [1.0, 1 + 2**-6, -1.0]
    assert read["c"][3].isnan()
    assert read["c"][4].isinf()
    assert read["steps"].item() == 7
    again = export_model(tensors, tmp_path, "bfloat16")
    assert again.read_bytes() == path.read_bytes()


def test_an_export_that_the_engine_cannot_give_is_refused_before_the_first_step() -> None:
    class Engine:
        """Everything but an export."""

    with pytest.raises(InvalidRecipe, match=r'checkpoint\.export = "bfloat16" is more than this engine can do'):
        require_export(Checkpoint(export="bfloat16", best="val/loss"), Engine())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"export": "bfloat16"}, "it adds to the best checkpoint; set checkpoint.best"),
        ({"keep_every": 10}, "all are kept anyway; set checkpoint.keep_last"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TrainingRecipe.model_validate({"task": "a:b", "steps": 1, "checkpoint": options})


def test_the_recipes_words_are_the_policys() -> None:
    found = policy(Checkpoint(every=4, minutes=2.5, best="val/loss", keep_last=3, keep_every=8, full_every=5))
    assert (found.every, found.minutes, found.best, found.mode) == (4, 2.5, "val/loss", "min")
    assert (found.keep_last, found.keep_every, found.full_every) == (3, 8, 5)
    assert policy(Checkpoint()).minutes is None


def test_a_wait_is_a_bar_on_a_terminal_and_two_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patched:
        patched.setenv("TERM", "xterm")
        patched.setattr("sys.stdout", terminal)
        with Console(0, 10).waiting("for the checkpoint step-4"):
            time.sleep(0.3)
    shown = os.read(ours, 1 << 16).decode()
    assert "for the checkpoint step-4" in shown
    assert re.search(r"[━╸]", shown)

    with Console(0, 10).waiting("for the checkpoint step-4"):
        pass
    with Console(1, 10).waiting("not said"):
        pass
    assert re.fullmatch(
        r"for the checkpoint step-4\nfor the checkpoint step-4: done after 0\.\d s\n", capfd.readouterr().out
    )


def test_the_example_for_scripts_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documented = (ledger.BackgroundKeeper.__doc__ or "").partition("::\n")[2].partition("    One checkpoint at")[0]
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Linear(2, 1)
    with ledger.open_ledger() as book:
        with ledger.start_run(book=book) as run:
            given = {"copy": copy, "ledger": ledger, "metrics": {"val/loss": 1.0}, "model": model, "torch": torch}
            exec(textwrap.dedent(documented), given | {"run": run, "steps": 3})
        found = book.run(run.name).checkpoints
        assert [c.name for c in found] == ["best_model_step_1", "step-3"]
        book.checkpoints().read(found[-1], tmp_path / "read")
    read = torch.load(tmp_path / "read" / "model.pt", weights_only=True)
    assert torch.equal(read["weight"], model.weight)
