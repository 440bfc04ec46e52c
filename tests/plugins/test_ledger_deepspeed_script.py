"""The script in docs/deepspeed.md, as a user would run it: recorded, killed, resumed, replayed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.e2e.desk import Desk

TEXT = (Path(__file__).parents[2] / "docs" / "deepspeed.md").read_text()
RUN = ("run", "--", "deepspeed", "--num_gpus", "2")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A repository with the files that the page shows."""
    desk = Desk(tmp_path)
    desk.git("init", "--quiet")
    for language, name in {"python": "train.py", "json": "ds.json"}.items():
        (shown,) = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
        (tmp_path / name).write_text(shown)
    # DeepSpeed makes buckets of 2 GB in every step, unless it is told of smaller ones.
    settings = json.loads((tmp_path / "ds.json").read_text())
    settings["zero_optimization"] |= {"reduce_bucket_size": 10_000, "allgather_bucket_size": 10_000}
    (tmp_path / "ds.json").write_text(json.dumps(settings))
    desk.write(__gitignore=".ledger\nout\n")
    desk.commit()
    return desk


def facts(desk: Desk, kind: str) -> list[dict]:
    return [fact["payload"] for fact in desk.ledger("log", "run-1", "--json").json if fact["type"] == kind]


@pytest.mark.slow
def test_a_script_is_recorded_by_one_line_and_replays_identically(desk: Desk) -> None:
    desk.ledger(*RUN, "train.py")
    metrics = desk.metrics("run-1")
    assert list(metrics) == [1, 2, 3, 4, 5, 6]
    assert all(found.keys() == {"train/loss", "lr", "grad_norm"} for found in metrics.values())

    written = facts(desk, "checkpoint.written")
    assert [(found["name"], found["step"]) for found in written] == [(f"global_step{n}", n) for n in (2, 4, 6)]
    assert written[0]["metrics"].keys() == {"train/loss", "lr", "grad_norm"}
    assert {"data position", "rng.python", "rng.numpy", "rng.torch"} <= set(written[0]["holds"])
    assert "latest" in [file["path"] for file in written[0]["files"]]

    (topology,) = (found["topology"] for found in facts(desk, "environment.captured") if found["topology"])
    assert topology["mesh"] == {"pipeline": 1, "data": 2}
    assert [rank["coordinates"]["data"] for rank in topology["ranks"]] == [0, 1]
    assert topology["deepspeed"]["settings"]["zero_optimization"]["stage"] == 2

    compared = desk.ledger("replay", "run-1").out
    assert "identical" in compared
    assert "checkpoint global_step6" in compared


@pytest.mark.thorough
def test_a_script_that_fails_goes_on_from_its_checkpoint_bit_for_bit(desk: Desk) -> None:
    """It fails once, right after the checkpoint of step 4, and only where it was not resumed."""
    script = (desk.home / "train.py").read_text()
    saving = '            engine.save_checkpoint("out")\n'
    assert saving in script
    failing = saving + "            assert run.resumed_from or engine.global_steps < 4\n"
    (desk.home / "train.py").write_text(script.replace(saving, failing))
    desk.commit()
    desk.ledger(*RUN, "train.py", code=5)
    desk.ledger("resume", "run-1")
    (resumed,) = facts(desk, "training.resumed")
    assert resumed["step"] == 4
    halves = desk.metrics("run-1")

    (desk.home / "train.py").write_text(script)
    desk.ledger(*RUN, "train.py")
    assert halves == desk.metrics("run-2")


@pytest.mark.thorough
@pytest.mark.slow
def test_a_script_whose_run_was_taken_over_stops(desk: Desk) -> None:
    """It would train for minutes; another process resumes its run as soon as it has begun."""
    script = (desk.home / "train.py").read_text()
    step = "        engine.step()\n"
    takes_over = """        if engine.global_steps == 3 and engine.global_rank == 0:
            with ledger.open_ledger() as book:
                state = book.run(run.id)
                take(book, state, [TrainingResumed(attempt=2, step=None, checkpoint=None, uri=None,
                                                   process=this_process())], 2)
        time.sleep(0.02)
"""
    imports = "import time\nfrom ledger.book import this_process\nfrom ledger.events import TrainingResumed\n"
    imports += "from ledger.record.take import take\n"
    assert step in script
    assert "range(engine.global_steps, 6)" in script
    script = script.replace(step, step + takes_over).replace("range(engine.global_steps, 6)", "range(10_000)")
    (desk.home / "train.py").write_text(imports + script)
    done = desk.ledger(*RUN, "train.py", code=4)
    assert "ledger: attempt 1 of run-" in done.err
    assert "attempt 2 has taken over" in done.err
    assert "FencedAttempt" in done.out + done.err  # the script's own traceback
    assert max(desk.metrics("run-1")) < 1000


@pytest.mark.thorough
def test_a_failure_to_record_warns_and_the_script_goes_on(desk: Desk) -> None:
    """The place of checkpoints is a file: nothing can be stored there."""
    (desk.home / "nowhere").write_text("a file")
    done = desk.ledger(*RUN, "train.py", LEDGER_CHECKPOINTS=(desk.home / "nowhere").as_uri())
    assert (done.out + done.err).count("not on record: the checkpoint global_step") == 3
    assert list(desk.metrics("run-1")) == [1, 2, 3, 4, 5, 6]
    assert facts(desk, "checkpoint.written") == []
