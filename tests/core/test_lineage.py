"""What came from what, on a real ledger: facts appended, manifests kept as objects."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import open_ledger
from ledger.codec import new_id
from ledger.errors import NotFound
from ledger.events import (
    ArtifactWritten,
    CheckpointDeleted,
    CheckpointWritten,
    DataCommitted,
    FileDigest,
    TrainingResumed,
)
from ledger.objects.manifest import Entry, Manifest
from ledger.read.lineage import Affected, Ancestry, Cause, Impact, checkpoint_named, spans, spread
from ledger.testing.builders import logged, run_started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.book import Book

EMPTY = hashlib.sha256(b"").hexdigest()


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def tree(files: dict[str, str]) -> Manifest:
    """Of files with these contents by path."""
    return Manifest.of(Entry(path, digest(text), len(text)) for path, text in files.items())


@dataclass
class Lab:
    """Runs that read and write."""

    book: Book
    runs: dict[str, str] = field(default_factory=dict)
    """UUID by name."""

    def run(
        self, name: str, *, replay_of: str | None = None, segment: tuple[float | None, float | None] | None = None
    ) -> str:
        uuid = self.runs[name] = new_id()
        original = self.runs[replay_of] if replay_of else None
        kind = "replay" if original else "train"
        self.book.append(uuid, run_started(name=name, kind=kind, replay_of=original, segment=segment), attempt=1)
        return name

    def read(
        self,
        run: str,
        files: dict[str, str],
        *,
        name: str = "base",
        uri: str = "",
        path: Path | None = None,
        kept: bool = True,
    ) -> str:
        manifest = tree(files)
        if kept:
            self.book.objects.put_bytes(manifest.content)
        fact = DataCommitted(
            name=name, role=name, uri=uri or f"file:{name}", provider="local", provider_version="1",
            path=str(path or f"/{name}"),
            commit=manifest.digest[::-1], digest=manifest.digest, files=manifest.files, bytes=manifest.bytes,
        )  # fmt: skip
        self.book.append(self.runs[run], fact, attempt=1)
        return manifest.digest

    def checkpoint(self, run: str, files: dict[str, str], *, name: str = "step-5") -> CheckpointWritten:
        manifest = tree(files)
        listed = tuple(FileDigest(path=e.path, digest=e.digest, bytes=e.bytes) for e in manifest.entries)
        fact = CheckpointWritten(
            uri=f"file:///checkpoints/{run}/{name}", digest=manifest.digest, bytes=manifest.bytes, stored_bytes=1,
            files=listed, step=5, attempt=1, name=name, seconds=0.1,
        )  # fmt: skip
        self.book.append(self.runs[run], fact, attempt=1)
        return fact

    def artifact(self, run: str, files: dict[str, str]) -> str:
        manifest = tree(files)
        self.book.objects.put_bytes(manifest.content)
        fact = ArtifactWritten(path="out", digest=manifest.digest, bytes=manifest.bytes)
        self.book.append(self.runs[run], fact, attempt=1)
        return manifest.digest

    def ancestry(self, run: str) -> Ancestry:
        return self.book.ancestry(self.runs[run])

    def behind(self, run: str) -> list[str]:
        """Names of the runs that a run goes back to."""
        return [state.name for state in self.ancestry(run).runs.values()][1:]

    def after(self, target: str) -> list[str]:
        return [affected.run for affected in self.book.impact(target).runs.values()]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with open_ledger(str(tmp_path / "ledger")) as book:
        yield Lab(book)


def causes(impact: Impact, run: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Of a run: what another wrote, who that is, and the files of the data; or what it replays."""
    (affected,) = (each for each in impact.runs.values() if each.run == run)
    return [
        (c.origin.name, c.origin.run, c.use.files) if c.origin and c.use else (c.replay_of or "", "", ())
        for c in affected.causes
    ]


# --- both ways -------------------------------------------------------------------------------------------------


def test_a_run_goes_back_to_the_run_whose_checkpoint_it_read(lab: Lab) -> None:
    lab.read(lab.run("run-1"), {"a.txt": "words"}, name="train")
    written = lab.checkpoint("run-1", {"model": "weights", "state": "optimizer"})
    lab.read(lab.run("run-2"), {"base/model": "weights", "readme": "hello"})
    ancestry = lab.ancestry("run-2")
    assert [state.name for state in ancestry.runs.values()] == ["run-2", "run-1"]
    (descent,) = ancestry.descents
    assert (descent.origin.written, descent.use.files, descent.use.data.name) == (written, ("base/model",), "base")
    impact = lab.book.impact(digest("words"))
    assert causes(impact, "run-2") == [("step-5", "run-1", ("base/model",))]
    assert [o.name for o in impact.runs[lab.runs["run-1"]].written] == ["step-5"]


def test_data_that_are_the_whole_checkpoint_need_no_manifest(lab: Lab) -> None:
    lab.checkpoint(lab.run("run-1"), {"model": "weights"})
    whole = lab.read(lab.run("run-2"), {"model": "weights"}, kept=False)
    ancestry = lab.ancestry("run-2")
    assert [(d.origin.run, d.use.files) for d in ancestry.descents] == [("run-1", ())]
    assert [gap for gap in ancestry.gaps if "data file:base of run-2" in gap and whole[:12] in gap]


def test_a_manifest_that_is_gone_is_said(lab: Lab) -> None:
    lab.checkpoint(lab.run("run-1"), {"model": "weights"})
    lab.read(lab.run("run-2"), {"model": "weights", "more": "x"}, kept=False)
    assert lab.behind("run-2") == []
    assert "is not known" in lab.ancestry("run-2").gaps[0]
    with pytest.raises(NotFound, match="which files data file:base of run-2 holds is not known"):
        lab.book.impact(digest("weights"))


def test_artifacts_tie_runs_together_too(lab: Lab) -> None:
    whole = lab.artifact(lab.run("run-1"), {".": "a model"})
    lab.artifact("run-1", {"x/model": "another", "x/log": "text"})
    lab.read(lab.run("run-2"), {"m": "a model"})
    lab.read(lab.run("run-3"), {"m": "another"})
    assert lab.behind("run-2") == lab.behind("run-3") == ["run-1"]
    assert [o.written.digest for o in lab.book.origins(whole)] == [whole]
    (found,) = lab.book.origins(digest("another"))
    assert (found.run, found.name, found.file) == ("run-1", "out", "x/model")
    assert lab.book.origins(digest("another")[:10]) == [found]


def test_a_file_is_found_in_artifacts_and_checkpoints_the_first_to_hold_it_first(lab: Lab) -> None:
    lab.artifact(lab.run("run-1"), {"x/model": "weights", "x/log": "text"})
    lab.checkpoint(lab.run("run-2"), {"model": "weights"})
    told = [(o.run, o.name, o.file) for o in lab.book.origins(digest("weights"))]
    assert told == [("run-1", "out", "x/model"), ("run-2", "step-5", "model")]


def test_a_chain_of_runs_is_followed_to_its_end_and_a_circle_ends(lab: Lab) -> None:
    lab.read(lab.run("run-1"), {"a": "words"})
    lab.checkpoint("run-1", {"m": "first"})
    lab.read(lab.run("run-2"), {"m": "first"})
    lab.checkpoint("run-2", {"m": "second"})
    lab.read(lab.run("run-3"), {"m": "second"})
    lab.read("run-1", {"m": "second"}, name="late")
    assert lab.behind("run-3") == ["run-2", "run-1"]
    assert lab.behind("run-1") == ["run-2"]
    assert sorted(lab.after(digest("words"))) == ["run-1", "run-2", "run-3"]


def test_what_was_written_later_was_not_read(lab: Lab) -> None:
    lab.read(lab.run("run-2"), {"m": "weights", "w": "words"})
    lab.checkpoint(lab.run("run-1"), {"m": "weights"})
    assert lab.behind("run-2") == []
    lab.read("run-1", {"w": "other words"}, name="train")
    assert lab.after(digest("other words")) == ["run-1"]


def test_a_file_that_was_only_passed_on_was_not_made(lab: Lab) -> None:
    for run in ("run-1", "run-2"):
        lab.read(lab.run(run), {"vocabulary": "abc", "text": run}, name="train")
        lab.checkpoint(run, {"model": f"weights {run}", "vocabulary": "abc"})
    lab.read(lab.run("run-3"), {"vocabulary": "abc", "text": "run-3"}, name="train")
    assert lab.behind("run-2") == lab.behind("run-3") == []
    assert lab.after(digest("run-1")) == ["run-1"]
    assert lab.after(digest("abc")) == ["run-1", "run-2", "run-3"]


def test_who_reads_its_own_model_again_has_made_it_all_the_same(lab: Lab) -> None:
    lab.read(lab.run("run-1"), {"a": "words"}, name="train")
    lab.checkpoint("run-1", {"m": "weights"})
    lab.read("run-1", {"m": "weights"}, name="to-evaluate")
    lab.read(lab.run("run-2"), {"m": "weights", "notes": "mine"})
    assert lab.behind("run-2") == ["run-1"]
    assert lab.after(digest("words")) == ["run-1", "run-2"]


def test_who_made_a_file_is_found_past_those_who_passed_it_on(lab: Lab) -> None:
    lab.checkpoint(lab.run("run-1"), {"frozen": "layers"})
    lab.read(lab.run("run-2"), {"frozen": "layers"})
    lab.checkpoint("run-2", {"frozen": "layers", "head": "new"})
    lab.read(lab.run("run-3"), {"frozen": "layers", "head": "new", "notes": "mine"})
    told = {(d.origin.run, d.use.files) for d in lab.ancestry("run-3").descents if d.use.run == "run-3"}
    assert told == {("run-1", ("frozen",)), ("run-2", ("head",))}


def test_empty_files_tell_nothing(lab: Lab) -> None:
    lab.checkpoint(lab.run("run-1"), {"model": "weights", "__init__": ""})
    lab.artifact("run-1", {"empty": "", "log": "text"})
    lab.read(lab.run("run-2"), {"__init__": "", "a": "words"})
    assert lab.behind("run-2") == []
    with pytest.raises(NotFound):
        lab.book.impact(EMPTY)


def test_of_original_and_replay_the_original_made_it(lab: Lab) -> None:
    lab.checkpoint(lab.run("run-1"), {"m": "weights"})
    lab.checkpoint(lab.run("run-2", replay_of="run-1"), {"m": "weights"})
    lab.read(lab.run("run-3"), {"m": "weights", "more": "x"})
    assert lab.behind("run-3") == ["run-1"]


def test_replays_are_named_and_their_checkpoints_followed(lab: Lab) -> None:
    lab.read(lab.run("run-1"), {"a": "words"})
    lab.run("run-2", replay_of="run-1")
    lab.checkpoint("run-2", {"m": "only the replay has it"})
    lab.read(lab.run("run-3"), {"m": "only the replay has it"})
    impact = lab.book.impact(digest("words"))
    assert causes(impact, "run-2") == [("run-1", "", ())]
    assert causes(impact, "run-3") == [("step-5", "run-2", ())]


def test_the_nearest_checkpoint_is_named_once(lab: Lab) -> None:
    lab.checkpoint(lab.run("run-1"), {"m": "weights", "o": "early"}, name="step-1")
    lab.checkpoint("run-1", {"m": "weights", "o": "late"}, name="step-2")
    lab.checkpoint("run-1", {"m": "weights", "o": "late"}, name="best")
    lab.read("run-1", {"a": "words"}, name="train")
    lab.read(lab.run("run-2"), {"m": "weights", "o": "late"})
    assert [d.origin.name for d in lab.ancestry("run-2").descents] == ["step-2"]
    assert causes(lab.book.impact(digest("words")), "run-2") == [("step-2", "run-1", ())]


def test_runs_that_start_meanwhile_do_no_harm(lab: Lab) -> None:
    lab.read(lab.run("run-1"), {"a": "words"})
    lab.artifact("run-1", {"m": "weights"})

    def meanwhile(_what: str, _done: int, _total: int) -> None:
        name = lab.run(f"run-{len(lab.runs) + 1}", replay_of="run-1")
        lab.read(name, {"a": "words", "n": name})
        lab.artifact(name, {"m": name})

    assert "run-1" in [affected.run for affected in lab.book.impact(digest("words"), meanwhile).runs.values()]
    assert [origin.run for origin in lab.book.origins(digest("weights"), meanwhile)] == ["run-1"]


def test_attempts_and_deleted_checkpoints_are_told(lab: Lab) -> None:
    lab.read(lab.run("run-1"), {"a": "words"})
    written = lab.checkpoint("run-1", {"m": "weights"})
    gone = CheckpointDeleted(step=5, name="step-5", uri=written.uri, digest=written.digest, reason="old")
    process = run_started(name="x").process
    again = TrainingResumed(attempt=2, step=5, checkpoint=written.digest, uri=written.uri, process=process)
    lab.book.append(lab.runs["run-1"], gone, again, attempt=2)
    (affected,) = lab.book.impact(digest("words")).runs.values()
    assert (affected.attempts, affected.deleted) == (2, {(written.uri, written.digest)})


# --- what is asked about ---------------------------------------------------------------------------------------


@pytest.fixture
def versions(lab: Lab) -> Lab:
    lab.read(lab.run("run-1"), {"a": "one"}, uri="lakefs://corpus/main/clean/")
    lab.read(lab.run("run-2"), {"a": "two"}, uri="lakefs://corpus/main/clean/")
    lab.read(lab.run("run-3"), {"a": "two"}, uri="lakefs://other/main/")
    return lab


def test_a_uri_means_every_version(versions: Lab) -> None:
    assert versions.after("lakefs://corpus/main/clean/") == versions.after("lakefs://corpus/main/clean")
    assert versions.after("lakefs://corpus/main/clean/") == ["run-1", "run-2"]


@pytest.mark.parametrize(
    ("asked", "targets"),
    [
        ("dvc://data/train@release/1.2", ["dvc://data/train", "dvc://data/train@release/1.2"]),
        ("delta+s3://lake/table@12", ["delta+s3://lake/table/"]),
        ("s3://lake/table/?keep=no", ["s3://lake/table", "s3://key:secret@lake/table?keep=yes"]),
    ],
)
def test_a_uri_is_told_without_options_and_its_version_can_be_left_out(
    lab: Lab, asked: str, targets: list[str]
) -> None:
    lab.read(lab.run("run-1"), {"a": "one"}, uri=asked)
    lab.read(lab.run("run-2"), {"a": "two"}, uri="file:table@12")
    for target in targets:
        assert lab.after(target) == ["run-1"]
    for other in ("dvc://data/train@v1", "delta+s3://lake/table@1", "file:table"):
        with pytest.raises(NotFound):
            lab.after(other)


def test_a_file_uri_means_the_place_here(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, yours = tmp_path / "mine", tmp_path / "yours"
    for run, home in (("run-1", mine), ("run-2", yours)):
        home.mkdir()
        lab.read(lab.run(run), {"a": run}, uri="file:data", path=home / "data")
        monkeypatch.chdir(home)
        assert lab.after("file:data") == lab.after(f"file:{home}/data?snapshot=no") == [run]
        assert lab.book.impact("file:data").gaps == []
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound, match=f"file:data, which is {tmp_path}/data here"):
        lab.after("file:data")


def test_where_a_path_led_then_is_not_claimed(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for run, name in (("run-1", "link"), ("run-2", "link"), ("run-3", "data")):
        lab.read(lab.run(run), {"a": run}, uri=f"file:{name}", path=tmp_path / name)
    found = lab.book.impact(f"file:{tmp_path}/data")
    assert [affected.run for affected in found.runs.values()] == ["run-1", "run-2", "run-3"]
    (doubt,) = found.gaps
    assert f"{tmp_path}/link" in doubt
    assert doubt.endswith("read by run-1, run-2")
    monkeypatch.setattr("ledger.read.targets.gethostname", lambda: "elsewhere")
    assert len(lab.book.impact(f"file:{tmp_path}/data").gaps) == 2


@pytest.mark.parametrize("target", ["https://me:pass-word@host/data?signature=pass-word", "s3://pass-word@bucket/key"])
def test_no_key_in_a_uri_is_repeated(versions: Lab, target: str) -> None:
    for ask in (versions.book.impact, versions.book.origins):
        with pytest.raises(NotFound) as told:
            ask(target)
        assert "pass-word" not in f"{told.value} {told.value.mend}"


def test_a_commit_or_a_digest_means_one(versions: Lab) -> None:
    whole = tree({"a": "two"}).digest
    for target in (whole, whole[:8], whole[:8].upper(), whole[::-1], whole[::-1][:9], digest("two"), digest("two")[:8]):
        assert versions.after(target) == ["run-2", "run-3"]


def test_a_path_means_its_content(versions: Lab, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "b").write_text("one")
    assert versions.after(str(tmp_path / "copy" / "b")) == ["run-1"]
    assert versions.after(str(tmp_path / "copy")) == ["run-1"]
    (tmp_path / "copy" / "b").write_text("changed")
    with pytest.raises(NotFound, match="no run of this ledger read"):
        versions.after(str(tmp_path / "copy" / "b"))
    assert [use.run for use in versions.book.uses(digest("two"))] == ["run-2", "run-3"]


@pytest.mark.parametrize("target", ["lakefs://corpus/", "abc", "run-1", digest("three")])
def test_what_nobody_read(versions: Lab, target: str) -> None:
    with pytest.raises(NotFound) as told:
        versions.after(target)
    assert told.value.mend


def test_a_checkpoint_by_its_name(lab: Lab) -> None:
    lab.run("run-1")
    written = [lab.checkpoint("run-1", {"m": name}, name=name) for name in ("step-1", "best_model_step_1", "step-2")]
    written[1] = written[1].model_copy(update={"best": True})
    for which, index in {"last": 2, "best": 1, "step-1": 0, "5": 2, "5.0": 2}.items():
        assert checkpoint_named(written, which) is written[index]
    assert checkpoint_named(written, "6") is checkpoint_named(written, "x") is checkpoint_named([], "last") is None


# --- any history -----------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_both_ways_are_the_closure_of_who_read_whose_files(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Each run reads some of what others made, and one text that is nobody's; each makes files of its own."""
    with open_ledger(str(tmp_path_factory.mktemp("lab"))) as book:
        lab, parents = Lab(book), dict[str, set[str]]()
        for number in range(data.draw(st.integers(1, 5))):
            name = lab.run(f"run-{number}")
            bases = data.draw(st.sets(st.sampled_from(sorted(parents)), max_size=2)) if parents else set()
            files = {f"from-{base}": f"made by {base}" for base in bases}
            lab.read(name, {**files, "text": f"text of {name}"})
            make = lab.checkpoint if data.draw(st.booleans()) else lab.artifact
            make(name, {"new": f"made by {name}", **({k: v for k, v in files.items() if data.draw(st.booleans())})})
            parents[name] = bases
        above = {name: _closure(name, parents) for name in parents}
        for name in parents:
            assert set(lab.behind(name)) == above[name]
            below = {other for other in parents if name in above[other]}
            assert set(lab.after(digest(f"text of {name}"))) == {name} | below


def _closure(name: str, parents: dict[str, set[str]]) -> set[str]:
    return parents[name].union(*(_closure(parent, parents) for parent in parents[name]))


@given(st.dictionaries(st.integers(0, 9), st.sets(st.integers(0, 9)), min_size=1), st.integers(0, 9))
def test_spread_reaches_all_and_asks_about_each_once(follows: dict[int, set[int]], start: int) -> None:
    asked: list[str] = []

    def follow(new: list[Affected]) -> Iterator[tuple[str, str, Cause]]:
        for affected in new:
            asked.append(affected.run_id)
            yield from ((str(n), f"run-{n}", Cause()) for n in sorted(follows.get(int(affected.run_id), ())))

    impact = Impact()
    spread(impact, [(str(start), f"run-{start}", Cause())], {}, follow)
    reached, waiting = set(), [start]
    while waiting:
        one = waiting.pop()
        if one not in reached:
            reached.add(one)
            waiting += follows.get(one, ())
    assert set(asked) == set(impact.runs) == {str(n) for n in reached}
    assert len(asked) == len(set(asked))


# --- which steps count -----------------------------------------------------------------------------------------


def resumed(lab: Lab, run: str, attempt: int, step: float | None) -> None:
    process = run_started(name="x").process
    fact = TrainingResumed(attempt=attempt, step=step, checkpoint=None, uri=None, process=process)
    lab.book.append(lab.runs[run], fact, attempt=attempt)


def steps(lab: Lab, run: str, attempt: int, first: int, last: int) -> None:
    lab.book.append(lab.runs[run], logged({s: {"loss": 1.0} for s in range(first, last + 1)}), attempt=attempt)


def made(lab: Lab, run: str) -> list[tuple[int, float, float]]:
    return [(span.attempt.number, span.after, span.until) for span in spans(lab.book.run(lab.runs[run]))]


def test_steps_belong_to_the_attempt_whose_result_counts(lab: Lab) -> None:
    lab.run("run-1")
    assert made(lab, "run-1") == []
    steps(lab, "run-1", 1, 1, 9)
    assert made(lab, "run-1") == [(1, 0, 9)]
    resumed(lab, "run-1", 2, 6)
    steps(lab, "run-1", 2, 7, 12)
    resumed(lab, "run-1", 3, 4)
    steps(lab, "run-1", 3, 5, 8)
    assert made(lab, "run-1") == [(1, 0, 4), (3, 4, 8)]
    resumed(lab, "run-1", 4, None)
    steps(lab, "run-1", 4, 1, 2)
    assert made(lab, "run-1") == [(4, 0, 2)]


def test_a_replay_of_a_part_did_not_make_the_steps_before_it(lab: Lab) -> None:
    lab.run("run-1")
    lab.run("run-2", replay_of="run-1", segment=(6, None))
    for run, first in (("run-1", 1), ("run-2", 7)):
        steps(lab, run, 1, first, 9)
    assert (made(lab, "run-1"), made(lab, "run-2")) == ([(1, 0, 9)], [(1, 6, 9)])
