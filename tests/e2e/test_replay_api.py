"""Runs recorded, rebuilt, run again and judged: real processes, real repositories, nothing stubbed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ledger
from ledger.errors import CommandFailed, UsageError
from ledger.events import Check, RunInterrupted
from ledger.hooks.manager import load_plugins
from ledger.record.resume import resume_command
from ledger.replay.describe import describe
from ledger.replay.execute import make_plan, rebuild, replay

if TYPE_CHECKING:
    from ledger.book import Book
    from ledger.codec import Recorded
    from ledger.events import Divergence
    from ledger.read.state import RunState
    from tests.e2e.project import Project

SEEDED = """
    import random, ledger
    random.seed(7)
    with ledger.current_run() as run:
        for step in range(20):
            run.log({"loss": random.random()}, step=step)
"""


def test_a_repeatable_run_is_identical_and_both_streams_say_so(project: Project) -> None:
    project.write("train.py", SEEDED)
    original = project.record()
    seen: list[Recorded] = []
    compared = replay(project.book, original.name, observe=lambda recorded, _: seen.append(recorded))

    assert compared.verdict == "identical"
    assert compared.first_divergence is None
    again = project.replayed(compared)
    assert (again.started.kind, again.started.replay_of) == ("replay", original.run_id)
    assert again.code == project.book.run(original.run_id).code
    assert again.verdicts == project.book.run(original.run_id).verdicts == [compared]
    assert seen[0].type == "run.started"
    assert [e.type for e in seen].count("run.started") == 1
    assert list((project.book.settings.scratch / "replays").iterdir()) == []
    assert replay(project.book, again.name).verdict == "identical"


@pytest.mark.parametrize("source", ["random.random()", "time.time()", "os.urandom(1)[0] + random.random()"])
def test_a_run_without_a_seed_or_that_reads_the_clock_diverges_and_is_stopped(project: Project, source: str) -> None:
    project.write(
        "train.py",
        f"""
        import os, random, time, ledger
        with ledger.current_run() as run:
            run.log({{"constant": 1.0}}, step=0)
            run.log({{"loss": {source}}}, step=1)
            run.flush()
            if {os.fspath(project.root)!r} != os.getcwd():
                time.sleep(600)  # the replay: only whoever stops it ends it
        """,
    )
    original = project.record()
    compared = replay(project.book, original.name)

    assert compared.verdict == "diverged"
    found = compared.first_divergence
    assert found is not None
    assert (found.what, found.step) == ("loss", 1.0)
    assert found.expected == repr(project.book.run(original.name).series("loss").value[0])
    assert float(found.actual) != float(found.expected)
    assert project.replayed(compared).status == "interrupted"


def test_keep_going_compares_to_the_end(project: Project) -> None:
    project.write(
        "train.py",
        """
        import random, ledger
        with ledger.current_run() as run:
            for step in range(5):
                run.log({"same": step, "loss": random.random()}, step=step)
        """,
    )
    compared = replay(project.book, project.record().name, keep_going=True)
    assert compared.verdict == "diverged"
    assert project.replayed(compared).status == "completed"
    told = {check.name: check for check in compared.checks}
    assert told["same"].passed
    assert told["loss"].actual.startswith("0 equal bit for bit; 5 not")
    assert told["exit status"].passed


def test_a_tolerance_covers_what_lies_within_it(project: Project) -> None:
    project.write(
        "train.py",
        """
        import os, ledger
        with ledger.current_run() as run:
            run.log({"loss": 1.0 + int.from_bytes(os.urandom(4)) * 2.0**-50}, step=1)
        """,
    )
    name = project.record().name
    assert replay(project.book, name, tolerance=1e-5).verdict == "within-tolerance"
    assert replay(project.book, name, tolerance=1e-16).verdict == "diverged"
    with pytest.raises(UsageError):
        replay(project.book, name, tolerance=float("nan"))


def test_a_script_that_fails_is_expected_to_fail(project: Project) -> None:
    project.write("train.py", SEEDED + "    raise SystemExit(3)\n")
    original = project.record()
    assert original.status == "failed"
    compared = replay(project.book, original.name)
    assert compared.verdict == "identical"
    assert project.replayed(compared).status == "failed"


def test_a_crash_of_the_replay_is_named_with_its_last_line(project: Project) -> None:
    project.write(
        "train.py",
        f"""
        import os, ledger
        with ledger.current_run() as run:
            for step in range(10):
                run.log({{"loss": step}}, step=step)
                if step == 4 and os.getcwd() != {os.fspath(project.root)!r}:
                    raise ValueError("only elsewhere")
        """,
    )
    compared = replay(project.book, project.record().name)
    assert compared.verdict == "diverged"
    found = compared.first_divergence
    assert found is not None
    assert (found.what, found.step, found.expected) == ("exit status", 4.0, "exit code 0")
    assert found.actual.endswith("ValueError: only elsewhere")


KILLED_ONCE = """
    import os, pathlib, random, signal, time, ledger
    random.seed(7)
    killed = pathlib.Path({marker!r})
    with ledger.current_run() as run:
        for step in range(100_000):
            run.log({{"loss": random.random()}}, step=step)
            if step == 10 and not killed.exists():
                killed.touch()
                run.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.005)
"""


def test_an_interrupted_run_is_compared_as_far_as_it_came(project: Project, tmp_path: Path) -> None:
    project.write("train.py", KILLED_ONCE.format(marker=os.fspath(tmp_path / "killed")))
    original = project.record()
    assert original.status == "interrupted"
    compared = replay(project.book, original.name)

    assert compared.verdict == "identical"
    loss = next(check for check in compared.checks if check.name == "loss")
    assert "interruption at step 10" in loss.expected
    assert loss.actual.startswith("11 equal bit for bit")
    assert isinstance(project.replayed(compared).ended, RunInterrupted)


def test_a_run_that_always_kills_itself_is_judged_by_what_it_did_before(project: Project) -> None:
    project.write(
        "train.py",
        """
        import os, signal, ledger
        with ledger.current_run() as run:
            run.log({"loss": 1.0}, step=0)
            run.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert replay(project.book, project.record().name).verdict == "identical"


def test_a_replay_that_is_killed_from_outside_gets_no_verdict(project: Project) -> None:
    project.write(
        "train.py",
        f"""
        import os, signal, ledger
        with ledger.current_run() as run:
            run.log({{"loss": 1.0}}, step=0)
            run.flush()
            if os.getcwd() != {os.fspath(project.root)!r}:
                os.kill(os.getpid(), signal.SIGKILL)
            run.log({{"loss": 1.0}}, step=1)
        """,
    )
    original = project.record()
    with pytest.raises(CommandFailed, match="SIGKILL"):
        replay(project.book, original.name)
    assert project.book.run(original.name).verdicts == []


def test_a_run_that_was_killed_and_resumed_is_replayed_in_one_go(project: Project, tmp_path: Path) -> None:
    project.write(
        "train.py",
        f"""
        import json, os, pathlib, random, signal, ledger
        killed = pathlib.Path({os.fspath(tmp_path / "killed")!r})
        saved = pathlib.Path("state.json")
        with ledger.current_run() as run:
            random.seed(7)
            first = 0
            if run.resumed_from:
                first, state = json.loads((run.resumed_from / "state.json").read_text())
                random.setstate((state[0], tuple(state[1]), state[2]))
            for step in range(first, 12):
                run.log({{"loss": random.random()}}, step=step)
                if step % 4 == 3:
                    saved.write_text(json.dumps([step + 1, random.getstate()]))
                    run.checkpoint(saved, step=step)
                if step == 6 and not killed.exists():
                    killed.touch()
                    run.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    project.write(".gitignore", "state.json\n")
    original = project.record()
    assert original.status == "interrupted"
    assert resume_command(project.book, original.name).status == "completed"
    state = project.book.run(original.name)
    assert [a.number for a in state.attempts] == [1, 2]

    compared = replay(project.book, original.name)
    assert compared.verdict == "identical"
    told = {check.name: check.actual for check in compared.checks}
    assert told["loss"] == "12 equal bit for bit"
    assert {"checkpoint step-3", "checkpoint step-7", "checkpoint step-11"} <= told.keys()


READS_DATA = """
    import os, pathlib, sys, ledger
    with ledger.current_run() as run:
        place = pathlib.Path(sys.argv[1])
        for step, path in enumerate(sorted(place.iterdir())):
            run.log({"sum": sum(path.read_bytes())}, step=step)
        run.log({"declared": sum(p.stat().st_size for p in pathlib.Path(os.environ["LEDGER_DATA_TRAIN"]).iterdir())})
"""


@pytest.mark.parametrize("where", ["inside", "outside", "outside, relative"])
def test_data_that_changed_since_comes_back_from_its_snapshot(project: Project, tmp_path: Path, where: str) -> None:
    data = project.root / "data" if where == "inside" else tmp_path / "elsewhere" / "data"
    data.mkdir(parents=True)
    (data / "a.bin").write_bytes(b"abc")
    (data / "b.bin").write_bytes(b"xyz")
    project.write("train.py", READS_DATA)
    word = {"inside": "data", "outside": str(data), "outside, relative": os.path.relpath(data, project.root)}[where]
    original = project.record("train.py", word, data={"train": data.as_uri()})
    assert original.status == "completed"

    (data / "a.bin").write_bytes(b"abd")
    (data / "c.bin").write_bytes(b"new")
    compared = replay(project.book, original.name)
    assert compared.verdict == "identical"
    assert project.replayed(compared).data["train"].digest == project.book.run(original.name).data["train"].digest
    assert (data / "a.bin").read_bytes() == b"abd"


def test_pinned_data_that_changed_by_one_byte_is_named_and_nothing_runs(project: Project) -> None:
    project.write("data/a.bin", "abc")
    project.write("data/b.bin", "xyz")
    project.write("train.py", READS_DATA)
    original = project.record("train.py", "data", data={"train": (project.root / "data").as_uri()}, snapshot=False)
    assert original.status == "completed"
    assert replay(project.book, original.name).verdict == "identical"

    project.write("data/b.bin", "xyy")
    before = len(project.book.runs())
    compared = replay(project.book, original.name)
    assert (compared.verdict, compared.replay) == ("not-replayable", None)
    assert "changed b.bin" in compared.reasons[0]
    assert len(project.book.runs()) == before
    assert project.book.run(original.name).verdicts[-1] == compared


def test_a_dirty_tree_comes_back_whatever_became_of_it(project: Project) -> None:
    project.write("train.py", SEEDED)
    project.write("package/__init__.py", "SCALE = 1\n")
    project.git("add", ".")
    project.git("commit", "--quiet", "--message", "first")
    project.write("package/__init__.py", "SCALE = 2\n")
    project.write("untracked.py", "OFFSET = 3\n")
    project.write("train.py", SEEDED.replace("random.random()", "random.random() * SCALE + OFFSET").replace(
        "import random", "from package import SCALE; from untracked import OFFSET; import random"))  # fmt: skip
    original = project.record()
    assert original.status == "completed"

    project.git("switch", "--quiet", "--create", "other")
    (project.root / "untracked.py").unlink()
    project.write("package/__init__.py", "SCALE = 4\n")
    project.git("add", ".")
    project.git("commit", "--quiet", "--message", "second")
    project.write("train.py", "raise SystemExit('the wrong one')\n")
    project.write("staged.txt", "staged")
    project.git("add", "staged.txt")
    before = [
        project.git(*a) for a in (["status", "--porcelain=v2", "--branch"], ["stash", "list"], ["worktree", "list"])
    ]

    assert replay(project.book, original.name).verdict == "identical"
    after = [
        project.git(*a) for a in (["status", "--porcelain=v2", "--branch"], ["stash", "list"], ["worktree", "list"])
    ]
    assert before == after


def test_the_working_directory_is_the_same_part_of_the_tree(project: Project) -> None:
    project.write("library.py", "FACTOR = 2\n")
    project.write("jobs/settings.txt", "3")
    project.write(
        "jobs/train.py",
        """
        import sys, ledger
        sys.path.insert(0, "..")
        from library import FACTOR
        with ledger.current_run() as run:
            run.log({"x": FACTOR * int(open("settings.txt").read())}, step=0)
        """,
    )
    original = project.record(os.fspath(project.root / "jobs" / "train.py"), directory="jobs")
    assert original.status == "completed"
    project.write("library.py", "FACTOR = 5\n")
    project.write("jobs/train.py", "raise SystemExit('the wrong one')")
    compared = replay(project.book, original.name)
    assert compared.verdict == "identical"
    assert Path(project.replayed(compared).started.directory).name == "jobs"


def test_an_unmodified_script_is_judged_by_its_outputs(project: Project, tmp_path: Path) -> None:
    target = tmp_path / "results" / "model.bin"
    target.parent.mkdir()
    project.write(
        "train.py", "import sys; open(sys.argv[1], 'wb').write(b'weights'); open('log.txt', 'w').write('1')\n"
    )
    original = project.record("train.py", f"--save={target}"[7:], outputs=(str(target), "log.txt"))
    assert original.status == "completed"
    target.write_bytes(b"precious")

    compared = replay(project.book, original.name)
    assert compared.verdict == "identical"
    assert {check.name for check in compared.checks} == {"exit status", f"artifact {target}", "artifact log.txt"}
    assert target.read_bytes() == b"precious"


def test_outputs_that_differ_diverge(project: Project) -> None:
    project.write("train.py", "import os; open('out.bin', 'wb').write(os.urandom(8))\n")
    compared = replay(project.book, project.record(outputs=("out.bin",)).name)
    assert compared.verdict == "diverged"
    assert compared.first_divergence is not None
    assert compared.first_divergence.what == "artifact out.bin"


def test_what_it_printed_is_no_witness(project: Project) -> None:
    project.write("train.py", "print('loss 0.5')\n")
    compared = replay(project.book, project.record().name)
    assert compared.verdict == "not-replayable"
    assert "nothing is on record" in compared.reasons[0]


def test_a_missing_object_is_a_reason_and_a_damaged_one_too(project: Project) -> None:
    project.write("train.py", SEEDED)
    original = project.record()
    state = project.book.run(original.name)
    assert state.code is not None
    entry = project.book.objects.get_manifest(state.code.tree).entries[0]
    (stored,) = Path(project.book.settings.objects.removeprefix("file://")).rglob(entry.digest[2:])
    content = stored.read_bytes()

    stored.chmod(0o644)
    stored.write_bytes(content[:-1] + b"!")
    compared = replay(project.book, original.name)
    assert compared.verdict == "not-replayable"
    assert entry.digest in compared.reasons[0]
    assert list((project.book.settings.scratch / "replays").iterdir()) == []

    stored.unlink()
    compared = replay(project.book, original.name)
    assert compared.verdict == "not-replayable"
    assert "train.py" in compared.reasons[0]


def test_ctrl_c_interrupts_the_replay_and_leaves_no_verdict(project: Project) -> None:
    project.write(
        "train.py",
        f"""
        import os, time, ledger
        with ledger.current_run() as run:
            run.log({{"loss": 1.0}}, step=0)
            run.flush()
            if os.getcwd() != {os.fspath(project.root)!r}:
                time.sleep(600)
        """,
    )
    original = project.record()

    def press(recorded: Recorded, first: Divergence | None) -> None:
        if recorded.type == "metrics.logged":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        replay(project.book, original.name, observe=press)
    assert project.book.run(original.name).verdicts == []
    again = project.book.run("latest")
    assert (again.started.kind, again.status) == ("replay", "interrupted")
    assert list((project.book.settings.scratch / "replays").iterdir()) == []


def test_the_replay_gets_the_variables_of_the_original(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write(
        "train.py",
        """
        import os, ledger
        with ledger.current_run() as run:
            run.log({"threads": int(os.environ["OMP_NUM_THREADS"]), "hash": hash("ledger")}, step=0)
        """,
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("PYTHONHASHSEED", "5")
    original = project.record()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("PYTHONHASHSEED")
    compared = replay(project.book, original.name)
    assert compared.verdict == "identical"
    assert compared.differences == ()


def test_modules_are_imported_from_the_tree_of_then(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("src/model.py", "WIDTH = 8\n")
    project.write("jobs/train.py", "import ledger, model\nledger.current_run().log({'width': model.WIDTH}, step=0)\n")
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(project.root / "src"), *filter(None, [before])]))
    original = project.record("jobs/train.py")
    assert original.status == "completed"
    project.write("src/model.py", "WIDTH = 9\n")
    assert replay(project.book, original.name).verdict == "identical"
    monkeypatch.setenv("PYTHONPATH", before)
    assert replay(project.book, original.name).verdict == "identical"


def test_what_was_not_set_then_is_not_set_now(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write(
        "train.py",
        """
        import os, ledger
        with ledger.current_run() as run:
            run.log({"set": "NCCL_ALGO" in os.environ}, step=0)
        """,
    )
    monkeypatch.delenv("NCCL_ALGO", raising=False)
    original = project.record()
    monkeypatch.setenv("NCCL_ALGO", "Ring")
    compared = replay(project.book, original.name)
    assert compared.verdict == "identical"
    assert compared.differences == ()


def test_a_plugin_can_veto_and_can_check_more(project: Project, tmp_path: Path) -> None:
    project.write("train.py", SEEDED)
    original = project.record()

    class Veto:
        @ledger.hookimpl
        def before_replay(self) -> None:
            raise ledger.errors.ReplayRefused("the licence has run out")

    class Strict:
        @ledger.hookimpl
        def compare_runs(self, original: RunState) -> list[Check]:
            return [Check(name="strict", expected="a", actual="b", passed=False)]

    def with_plugin(plugin: object) -> Book:
        plugins = load_plugins(project.book.settings)
        plugins._manager.register(plugin, "extra")
        return ledger.open_ledger(settings=project.book.settings, plugins=plugins)

    with with_plugin(Veto()) as book:
        compared = replay(book, original.name)
    assert (compared.verdict, compared.reasons) == ("not-replayable", ("the licence has run out",))

    with with_plugin(Strict()) as book:
        compared = replay(book, original.name)
    assert compared.verdict == "diverged"
    assert compared.first_divergence is not None
    assert compared.first_divergence.what == "strict"


def test_a_plan_starts_nothing_and_a_rebuilt_directory_runs_by_hand(project: Project, tmp_path: Path) -> None:
    project.write("data/a.txt", "1")
    project.write("train.py", "import os, sys; print(open(sys.argv[1]).read(), os.environ['LEDGER_DATA_TRAIN'])\n")
    original = project.record("train.py", "data/a.txt", data={"train": (project.root / "data").as_uri()})
    before = project.book.store.head(f"run-{original.run_id}")
    lines = "\n".join(describe(make_plan(project.book, original.name)))
    assert "fetch data train" in lines
    assert "not replayable" in lines
    assert project.book.store.head(f"run-{original.run_id}") == before

    project.write("data/a.txt", "2")
    dest = tmp_path / "it's rebuilt"
    rebuild(project.book, original.name, dest)
    assert (dest / "data" / "a.txt").read_text() == "1"
    assert project.git("worktree", "list").count("\n") == 1  # nothing was committed: there is no commit to stand on
    script = dest / ".ledger-replay" / "replay.sh"
    done = subprocess.run([script], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.split(" ", 1) == ["1", f"{dest}/data\n"]
    assert (dest / ".ledger-replay" / "requirements.txt").read_text().count("==") > 5
    with pytest.raises(UsageError, match="not empty"):
        rebuild(project.book, original.name, dest)


def test_a_fingerprint_that_comes_after_the_stop_still_shows_the_earlier_divergence(project: Project) -> None:
    project.write(
        "train.py",
        f"""
        import os, signal, sys, time, ledger
        with ledger.current_run() as run:
            def behind(digest):
                run.fingerprint(1, digest * 64)
                run.flush()
            run.log({{"loss": 1.0}}, step=1)
            if os.getcwd() == {os.fspath(project.root)!r}:
                behind("a")
                run.log({{"loss": 1.0}}, step=2)
            else:
                signal.signal(signal.SIGTERM, lambda *_: (behind("b"), sys.exit(143)))
                run.log({{"loss": 2.0}}, step=2)
                run.flush()
                time.sleep(600)  # only whoever stops it ends it
        """,
    )
    compared = replay(project.book, project.record().name)
    found = compared.first_divergence
    assert found is not None
    assert (found.what, found.step, found.expected, found.actual) == ("parameters", 1.0, "a" * 64, "b" * 64)
