"""``ledger mirror`` and the mirrors beside runs: killed, locked out, asked for the impossible; the log counts."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from ledger import open_ledger
from ledger.cli import behind, main
from ledger.processes import lives
from ledger.settings import find_settings
from ledger_jsonl.mirror import JsonLines
from tests.e2e.desk import PATIENCE_S, Desk
from tests.e2e.test_training import RECIPE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ledger.codec import Recorded

TRAIN = """
import math, sys, time
import ledger

with ledger.start_run({"lr": 0.1, "deep": {"er": [1, 2]}}, seed=7, tags=["toy"]) as run:
    for step in range(int(sys.argv[1])):
        run.log({"loss": 1 / (step + 1), "odd": math.nan if step % 3 else math.inf}, step=step)
        time.sleep(0.02)
"""
MIRRORED = '[ledger]\nmirrors = ["jsonl"]\n'


@pytest.fixture
def mirrored(desk: Desk) -> Iterator[Desk]:
    """A desk with a ledger whose runs are mirrored while they train."""
    desk.write(train__py=TRAIN, ledger__toml=MIRRORED)
    desk.commit()
    yield desk
    if (desk.home / ".ledger/ledger.db").exists():
        for process in deliverers(desk):
            process.kill()


def shown_in(desk: Desk) -> Path:
    return desk.home / ".ledger/mirrors/jsonl"


def cursors(desk: Desk) -> list[tuple[int, str]]:
    """Position and holder of every cursor."""
    with closing(sqlite3.connect(desk.home / ".ledger/ledger.db")) as database:
        return database.execute("SELECT position, holder FROM mirror_cursor").fetchall()


def deliverers(desk: Desk) -> list[psutil.Process]:
    """The processes that deliver runs of this desk now."""
    found = []
    for _, holder in cursors(desk):
        told = re.fullmatch(r"process (\d+) on .+, started (.+)", holder)
        assert told
        if lives(int(told[1]), told[2]):
            found.append(psutil.Process(int(told[1])))
    return found


def awaited(what: Any) -> Any:
    """What ``what()`` gives once it gives something."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if found := what():
                return found
        except sqlite3.OperationalError:  # there are no tables yet
            pass
        time.sleep(0.05)
    raise AssertionError(f"nothing within {PATIENCE_S} s")


def lock_out(desk: Desk) -> Path:
    """Make the mirror's directory impossible to reach; where it is kept meanwhile."""
    there = shown_in(desk)
    aside = there.with_name("aside")
    if there.exists():
        there.rename(aside)
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_text("in the way")
    return aside


def let_in(desk: Desk, aside: Path) -> None:
    shown_in(desk).unlink()
    if aside.exists():
        aside.rename(shown_in(desk))


def assert_equal(desk: Desk) -> None:
    """The mirror shows what the log says, of every run."""
    checked = desk.ledger("mirror", "--all", "--to", "jsonl", "--check", "--json").json
    assert checked
    assert [(each["behind"], each["differences"]) for each in checked] == [(0, [])] * len(checked)


def test_a_run_is_mirrored_while_it_trains_without_a_word(mirrored: Desk) -> None:
    done = mirrored.ledger("run", "--", "python", "-c", "print('training')")
    assert done.out == "training\n"
    assert "behind" not in done.err
    assert_equal(mirrored)


def test_a_script_of_ones_own_is_mirrored_too(mirrored: Desk) -> None:
    done = mirrored.run("python", "train.py", "30")
    assert (done.out, done.err) == ("", "")
    awaited(lambda: not deliverers(mirrored))
    assert_equal(mirrored)


def test_the_mirror_is_nobodys_child_and_holds_no_terminal(mirrored: Desk) -> None:
    training = mirrored.start("run", "--", "python", "train.py", "200")
    try:
        (process,) = awaited(lambda: deliverers(mirrored))
        family = [p.pid for p in psutil.Process(training.pid).children(recursive=True)]
        assert process.pid not in family
        assert process.terminal() is None
        descriptors = Path(f"/proc/{process.pid}/fd")
        ours = {(descriptors / n).readlink().name for n in ("0", "1", "2")}
        assert ours == {"null", "mirrors.log"}
    finally:
        training.communicate(timeout=PATIENCE_S)
    assert_equal(mirrored)


def test_a_mirror_that_is_killed_costs_the_run_nothing(mirrored: Desk) -> None:
    training = mirrored.start("run", "--", "python", "train.py", "150")
    (process,) = awaited(lambda: deliverers(mirrored))
    awaited(lambda: max(position for position, _ in cursors(mirrored)) >= 0)
    process.kill()
    said = training.communicate(timeout=PATIENCE_S)[0]
    assert training.returncode == 0
    assert re.search(r"jsonl is \d+ events behind run-1: nothing is lost, `ledger mirror run-1 --to jsonl`", said)
    assert "events brought" in mirrored.ledger("mirror", "run-1", "--to", "jsonl").out
    assert_equal(mirrored)


def test_who_waits_is_told_for_what(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody brings this run anywhere: its mirrors were not in the settings yet."""
    desk.ledger("run", "--", "true")
    desk.write(ledger__toml=MIRRORED)
    monkeypatch.setattr(behind, "_PATIENCE_S", 3.0)
    monkeypatch.setattr(behind, "_QUIET_S", 0.0)
    with open_ledger(settings=find_settings(start=desk.home, environ={})) as book:
        behind.tell_of_mirrors(book, next(iter(book.names())))
    waiting, told = capsys.readouterr().err.splitlines()
    assert waiting.startswith("waiting for jsonl, ")
    assert re.search(r"jsonl is \d+ events behind run-1: nothing is lost, `ledger mirror run-1 --to jsonl`", told)


def test_several_at_once_bring_it_once(desk: Desk) -> None:
    desk.write(train__py=TRAIN)
    desk.commit()
    desk.ledger("run", "--", "python", "train.py", "20")
    several = [desk.start("mirror", "run-1", "--to", "jsonl") for _ in range(3)]
    said = [one.communicate(timeout=PATIENCE_S)[0] for one in several]
    assert [one.returncode for one in several] == [0, 0, 0], said
    assert sum("brought" in each for each in said) == 1
    assert_equal(desk)


@pytest.mark.slow
def test_a_tracker_that_is_away_for_half_the_run_is_caught_up(mirrored: Desk) -> None:
    training = mirrored.start("run", "--", "python", "train.py", "300")
    awaited(lambda: max((position for position, _ in cursors(mirrored)), default=-1) >= 0)
    aside = lock_out(mirrored)
    mirrored.await_step(training, "run-1", 150)
    let_in(mirrored, aside)
    said = training.communicate(timeout=PATIENCE_S)[0]
    assert training.returncode == 0, said
    awaited(lambda: not deliverers(mirrored))
    assert "trying again" in (mirrored.home / ".ledger/scratch/mirrors.log").read_text()
    assert_equal(mirrored)


@pytest.mark.slow
def test_a_tracker_that_is_away_is_told_with_how_far_it_is_behind(mirrored: Desk) -> None:
    aside = lock_out(mirrored)
    done = mirrored.ledger("run", "--", "true")
    assert re.search(r"jsonl is \d+ events behind run-1: nothing is lost, its mirror still tries, and `", done.err)
    for process in awaited(lambda: deliverers(mirrored)):
        process.send_signal(signal.SIGTERM)
    refused = mirrored.ledger("mirror", "run-1", "--to", "jsonl", code=4)
    assert re.search(r"jsonl is \d+ events behind run-1, and nothing is lost", refused.err)
    assert "mend: " in refused.err
    mirrored.ledger("mirror", "run-1", "--to", "jsonl", "--check", code=4)
    let_in(mirrored, aside)
    mirrored.ledger("mirror", "run-1", "--to", "jsonl")
    assert_equal(mirrored)


@pytest.mark.slow
def test_a_training_that_is_killed_is_mirrored_as_far_as_it_came(mirrored: Desk) -> None:
    mirrored.kill_at(20, "run", "--", "python", "train.py", "1000", run="run-1")
    awaited(lambda: not deliverers(mirrored))
    mirrored.ledger("mirror", "run-1", "--to", "jsonl")
    assert_equal(mirrored)
    (file,) = shown_in(mirrored).iterdir()
    steps = [json.loads(line).get("step") for line in file.read_text().splitlines()]
    assert 20 in steps


@pytest.mark.thorough
@pytest.mark.slow
def test_trained_killed_resumed_and_replayed_beside_a_mirror(desk: Desk) -> None:
    desk.write(recipe__toml=RECIPE, ledger__toml=MIRRORED, __gitignore="data/\n")
    desk.run("python", "-m", "ledger_trainer.tasks.kjv", "data/whole.txt")
    text = (desk.home / "data/whole.txt").read_text()[:50_000]
    (desk.home / "data/whole.txt").unlink()
    (desk.home / "data/kjv.txt").write_text(text)
    desk.commit()
    desk.kill_at(30, "train", "recipe.toml", run="run-1")
    desk.ledger("resume", "run-1")
    assert desk.ledger("replay", "run-1").out.startswith("identical")
    awaited(lambda: not deliverers(desk))
    assert_equal(desk)
    shown = (shown_in(desk) / f"{desk.ledger('show', 'run-1', '--json').json[0]['id']}.jsonl").read_text()
    facts = {(line["field"], line.get("value")) for line in map(json.loads, shown.splitlines()) if "field" in line}
    assert ("status", "completed") in facts
    assert ("attempt/2/status", "completed") in facts
    assert "identical" in {value for field, value in facts if field.startswith("replay/")}


# --- asked for what cannot be


def test_a_mirror_that_there_is_not_stops_the_run_before_it_starts(desk: Desk) -> None:
    desk.write(train__py=TRAIN, ledger__toml='[ledger]\nmirrors = ["mlfow"]\n', recipe__toml=RECIPE)
    desk.commit()
    for words in (["run", "--", "python", "train.py", "3"], ["train", "recipe.toml"]):
        refused = desk.ledger(*words, code=2).err
        assert "there is no mirror 'mlfow'" in refused
        assert "jsonl (" in refused
    assert "there is no mirror" in desk.run("python", "train.py", "3", code=1).err
    assert desk.ledger("ls", "--json").json == []


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ('[ledger]\nmirrors = "jsonl"\n', "ledger.mirrors is 'jsonl'"),
        ("[ledger]\nmirrors = [1]\n", "ledger.mirrors is [1]"),
        ('[ledger]\nmirrors = ["jsonl"]\n[plugin.jsonl]\ndir = "x"\n', "plugin.jsonl.dir is no setting"),
        ('[ledger]\nmirrors = ["jsonl"]\n[plugin.jsonl]\ndirectory = 7\n', "plugin.jsonl.directory = 7"),
    ],
)
def test_settings_that_do_not_hold_are_told_before_the_run(desk: Desk, toml: str, told: str) -> None:
    desk.write(ledger__toml=toml)
    refused = desk.ledger("run", "--", "true", code=2).err
    assert told in refused
    assert "mend: " in refused


def test_what_makes_no_sense_is_refused(desk: Desk) -> None:
    desk.ledger("init")
    for words, told in {
        (): "which runs?",
        ("run-1",): "--to is missing",
        ("run-1", "--to", "nosuch"): "there is no mirror 'nosuch'",
        ("run-1", "--all", "--to", "jsonl"): "which runs?",
        ("run-1", "--to", "jsonl", "--check", "--follow"): "exclude each other",
        ("--all", "--to", "jsonl", "--follow"): "follows one run",
    }.items():
        refused = desk.ledger("mirror", *words, code=2).err
        assert told in refused
        assert "mend: " in refused
    assert "run-9" in desk.ledger("mirror", "run-9", "--to", "jsonl", code=3).err


@pytest.mark.slow
def test_differences_are_printed_and_give_1(desk: Desk, tmp_path: Path) -> None:
    desk.write(train__py=TRAIN, ledger__toml=f'[plugin.jsonl]\ndirectory = "{tmp_path}/files"\n')
    desk.commit()
    desk.ledger("run", "--", "python", "train.py", "3")
    desk.ledger("run", "--", "true")
    assert "difference" in desk.ledger("mirror", "run-1", "--to", "jsonl", "--check", code=1).out
    told = desk.ledger("mirror", "--all", "--to", "jsonl", "--json").json
    assert [each["run"] for each in told] == ["run-1", "run-2"]
    assert all(each["events"] and each["target"] == f"{tmp_path}/files" for each in told)
    assert_equal(desk)
    file = tmp_path / "files" / f"{told[0]['id']}.jsonl"
    file.write_text(file.read_text().replace('"value":"completed"', '"value":"failed"'))
    found = desk.ledger("mirror", "run-1", "--to", "jsonl", "--check", code=1)
    assert "status: expected 'completed', shown 'failed'" in found.out
    assert "remove run-1 from jsonl" in found.err
    assert "--again" in found.err
    still = desk.ledger("mirror", "run-1", "--to", "jsonl", "--again", code=1)
    assert (still.out, still.err) == (found.out, found.err)
    file.unlink()
    assert "run-1: no difference" in desk.ledger("mirror", "run-1", "--to", "jsonl", "--again").out
    assert_equal(desk)


def test_another_run_under_that_name_is_left_alone(desk: Desk, tmp_path: Path) -> None:
    desk.write(ledger__toml=f'[plugin.jsonl]\ndirectory = "{tmp_path}/files"\n')
    desk.ledger("run", "--", "true")
    desk.ledger("run", "--", "true")
    run = desk.ledger("ls", "--json").json[0]["id"]
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / f"{run}.jsonl").write_text("precious\n")
    done = desk.ledger("mirror", "--all", "--to", "jsonl", code=4)
    assert "run-2" in done.out
    assert "run-1" in done.err
    assert "not what this mirror wrote" in done.err
    assert (tmp_path / "files" / f"{run}.jsonl").read_text() == "precious\n"
    checked = desk.ledger("mirror", "--all", "--to", "jsonl", "--check", code=4)
    assert "run-2: no difference" in checked.out
    assert "run-1: " in checked.err
    assert "not what this mirror wrote" in desk.ledger("mirror", "run-1", "--to", "jsonl", code=4).err


def test_a_run_that_a_mirror_breaks_at_is_told_and_the_others_are_brought(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        desk.ledger("run", "--", "true")
    first = desk.ledger("ls", "--json").json[0]["id"]
    whole = JsonLines.deliver

    def breaking(mirror: JsonLines, batch: Sequence[Recorded]) -> None:
        if batch[0].stream.endswith(first):
            raise KeyError("unheard of")
        whole(mirror, batch)

    monkeypatch.setattr(JsonLines, "deliver", breaking)
    monkeypatch.chdir(desk.home)
    assert main(["mirror", "--all", "--to", "jsonl"], standalone_mode=False) == 4
    said = capsys.readouterr()
    assert re.findall(r"(run-\d): \d+ events brought", said.out) == ["run-2"]
    assert "run-1: the mirror jsonl failed with events 0 to " in said.err
    checked = desk.ledger("mirror", "--all", "--to", "jsonl", "--check", "--json", code=1).json
    assert [each["id"] for each in checked if each["behind"] or each["differences"]] == [first]


def test_doctor_tells_whether_a_mirror_can_be_reached(mirrored: Desk) -> None:
    mirrored.ledger("init")
    found = {each["check"]: each for each in mirrored.ledger("doctor", "--json").json}
    assert found["mirror jsonl"]["state"] == "ok"
    lock_out(mirrored)
    found = {each["check"]: each for each in mirrored.ledger("doctor", "--json").json}
    assert found["mirror jsonl"]["state"] == "warn"
