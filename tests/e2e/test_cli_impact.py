"""`ledger impact` on a run, its replay, and a run that read its checkpoint."""

from __future__ import annotations

import re
import shutil
from contextlib import chdir
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from ledger.cli import main
from tests.e2e.desk import Desk, Done

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import pathlib, sys
import ledger

run = ledger.current_run()
read = run.data("train").fetch()
run.log({"loss": 1.0}, step=1)
state = pathlib.Path("state")
state.mkdir(exist_ok=True)
(state / "weights.bin").write_text(sys.argv[1] + (read / sys.argv[2]).read_text())
run.checkpoint(state, step=1, best=True)
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """run-1 read data/, run-2 replays it, run-3 read its checkpoint; run-4 read other data, and data/ anew."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    desk.git("init", "--quiet", "--initial-branch", "main")
    desk.write(train__py=SCRIPT, __gitignore="state/\ndata/\nother/\nbase/\n")
    for folder, text in (("data", "some data"), ("other", "other data")):
        (desk.home / folder).mkdir()
        (desk.home / folder / "a.txt").write_text(text)
    desk.ledger("init")
    desk.commit()
    desk.ledger("run", "--data", "train=file:data", "--", "python", "train.py", "1", "a.txt")
    desk.ledger("replay", "run-1")
    desk.ledger("fetch", "run-1", "best", "base")
    (desk.home / "base" / "notes").write_text("by hand")
    desk.ledger("run", "--data", "train=file:base", "--", "python", "train.py", "2", "weights.bin")
    (desk.home / "data" / "a.txt").write_text("newer data")
    desk.ledger(
        "run", "--data", "train=file:other", "--data", "more=file:data", "--", "python", "train.py", "3", "a.txt"
    )
    (desk.home / "data" / "a.txt").write_text("some data")
    return desk


def impact(desk: Desk, *words: str, code: int = 0) -> Done:
    """The command, in this process: it only reads, and need not import everything anew."""
    with chdir(desk.home):
        ended = CliRunner().invoke(main, ["impact", *words], env={"LEDGER_URL": None})
    assert ended.exit_code == code, ended.output
    return Done(ended.exit_code, ended.stdout, ended.stderr)


def runs(desk: Desk, *words: str) -> list[str]:
    """Names of those that are listed."""
    return [affected["run"] for affected in impact(desk, *words, "--json").json]


def test_every_run_and_checkpoint_is_listed_with_the_reason(desk: Desk) -> None:
    done = desk.ledger("impact", "data/a.txt")
    rows = done.out.splitlines()[1:]
    for row, (run, why) in zip(
        rows,
        [("run-1", "read a.txt in train: file:data at"), ("run-2", "; replay of run-1"),
         ("run-3", "read weights.bin in train: step-1 of run-1")],
        strict=True,
    ):  # fmt: skip
        assert row.startswith(run)
        assert why in row
        assert re.search(r"step-1 +best +[0-9a-f]{64}$", row)
    assert "1 state of data, 3 runs, 3 things written" in done.err


def test_json_has_one_run_on_a_line_with_what_it_wrote(desk: Desk) -> None:
    first, replay, after = impact(desk, "data/a.txt", "--json").json
    assert first["because"][0]["data"]["files"] == ["a.txt"]
    assert [cause["replay_of"] for cause in replay["because"]] == [None, "run-1"]
    (cause,) = after["because"]
    assert (cause["from"]["run"], cause["from"]["checkpoint"]) == ("run-1", "step-1")
    assert cause["data"]["files"] == ["weights.bin"]
    assert [written["checkpoint"] for written in after["wrote"]] == ["step-1"]
    assert first["wrote"][0]["digest"] == replay["wrote"][0]["digest"] != after["wrote"][0]["digest"]


def test_a_uri_means_every_version_and_where_it_lies(desk: Desk) -> None:
    whole = desk.ledger("show", "run-1", "--json").json[0]["data"]["train"]["digest"]
    assert runs(desk, "file:data") == runs(desk, f"file:{desk.home}/data") == ["run-1", "run-2", "run-4", "run-3"]
    assert runs(desk, whole) == runs(desk, whole[:8]) == ["run-1", "run-2", "run-3"]
    assert runs(desk, "other") == runs(desk, "file:other/") == ["run-4"]


@pytest.mark.skipif(not shutil.which("dot"), reason="the program dot of Graphviz is not here")
def test_a_picture(desk: Desk, tmp_path: Path) -> None:
    impact(desk, "data", "--graph", str(tmp_path / "impact.svg"))
    words = " ".join(ElementTree.parse(tmp_path / "impact.svg").getroot().itertext())
    for word in ("run-1", "replay of run-1", "run-3", "file:data", "file:base", "step-1", "weights.bin"):
        assert word in words


@pytest.mark.parametrize("target", ["file:nowhere", "train.py", "0123456789abcdef", "lakefs://a/b/c"])
def test_what_nobody_read(desk: Desk, target: str) -> None:
    done = impact(desk, target, code=3)
    assert f"no run of this ledger read {target}" in done.err
    assert "mend: name data by the URI" in done.err
    assert done.out == ""


def test_a_manifest_that_is_gone_is_said_and_the_rest_is_found(desk: Desk) -> None:
    whole = desk.ledger("show", "run-3", "--json").json[0]["data"]["train"]["digest"]
    (place,) = (desk.home / ".ledger").rglob(whole[2:])
    kept = place.rename(desk.home / "kept")
    done = impact(desk, "data")
    kept.rename(place)
    assert "note: which files data file:base of run-3 holds is not known" in done.err
    assert "run-3" not in done.out
    assert "run-2" in done.out


def test_where_there_is_no_ledger(tmp_path: Path) -> None:
    assert "there is no ledger in" in Desk(tmp_path).ledger("impact", "file:data", code=3).err
