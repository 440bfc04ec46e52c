"""Parts of runs, repeated from a checkpoint and judged: scripts of a user's own, and the bundled trainer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from click.testing import CliRunner

from ledger.cli import main
from ledger.errors import CheckpointUnavailable, LedgerError, Unavailable, UsageError
from ledger.record.resume import resume_command
from ledger.replay.execute import make_plan, rebuild, replay
from ledger.replay.part import Scope
from ledger.trust.verify import verify

if TYPE_CHECKING:
    from ledger.codec import Recorded
    from ledger.events import Divergence, ReplayCompared
    from tests.e2e.desk import Desk
    from tests.e2e.project import Project

GOES_ON = """
    import json, os, pathlib, random, signal, time, ledger
    saved = pathlib.Path("state.json")
    with ledger.current_run() as run:
        random.seed(7)
        first = 0
        if run.resumed_from:
            first, state = json.loads((run.resumed_from / "state.json").read_text())
            random.setstate((state[0], tuple(state[1]), state[2]))
        for step in range(first + 1, 13):
            run.log({{"loss": random.random()}}, step=step)
            {after_each}
            if step % 4 == 0:
                saved.write_text(json.dumps([step, random.getstate()]))
                run.checkpoint(saved, step=step)
"""


STORES_BEHIND = """
    import pathlib, time, ledger
    hold = pathlib.Path({hold!r})
    with ledger.current_run() as run:
        keeper = ledger.Keeper(run, ledger.Policy(every=4))
        def save(directory):
            return lambda: (directory / "state").write_text("kept")
        with ledger.BackgroundKeeper(run, keeper, backoff=()) as background:
            for step in range(1, 5):
                run.log({{"loss": 1 / step}}, step=step)
                while hold.exists():
                    time.sleep(0.01)
                if due := keeper.due(step, {{}}, last=step == 4):
                    background.keep(save, due, step=step, metrics={{}})
"""


def goes_on(project: Project, after_each: str = "pass") -> str:
    """Record a run of 12 steps with checkpoints at 4, 8 and 12; its name."""
    project.write("train.py", GOES_ON.format(after_each=after_each))
    project.write(".gitignore", "state.json\n")
    outcome = project.record()
    assert outcome.status == "completed"
    return outcome.name


def loss(compared: ReplayCompared) -> str:
    return next(check.actual for check in compared.checks if check.name == "loss")


def test_a_part_is_repeated_from_its_checkpoint_and_stopped_where_it_ends(project: Project) -> None:
    # Elsewhere, behind step 11, only whoever stops it ends it.
    elsewhere = f"step > 11 and os.getcwd() != {os.fspath(project.root)!r} and (run.flush(), time.sleep(600))"
    name = goes_on(project, elsewhere)
    steps: list[float] = []
    compared = replay(
        project.book,
        name,
        Scope(from_step=9, until_step=11),
        observe=lambda recorded, _: (
            steps.extend(getattr(recorded.event, "step", None) or ()) if recorded.type == "metrics.logged" else None
        ),
    )
    assert (compared.verdict, compared.segment) == ("identical", (8.0, 11.0))
    assert loss(compared) == "3 equal bit for bit"
    assert min(steps) == 9
    state = project.book.run(name)
    assert state.verdicts == project.replayed(compared).verdicts == [compared]
    assert list((project.book.settings.scratch / "replays").iterdir()) == []
    # What holds of a part says nothing of the run.
    assert [run.verdict for run in project.book.runs()] == [None, None]


def test_which_part_it_is_is_known_before_there_is_a_verdict(project: Project, tmp_path: Path) -> None:
    name = goes_on(project)

    def press(recorded: Recorded, _: Divergence | None) -> None:
        if recorded.type == "run.started":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        replay(project.book, name, Scope(from_step=9, until_step=11), observe=press)
    again = project.book.run("latest")
    assert (again.status, again.verdicts, again.started.segment) == ("interrupted", [], (8.0, 11.0))
    assert [run.segment for run in project.book.runs()] == [None, (8.0, 11.0)]
    told = f"replay of {name}, steps 9 to 11"
    for words in (["ls"], ["show", "latest"]):
        assert told in CliRunner().invoke(main, [*words, "--ledger", str(tmp_path / "ledger")]).stdout
    for words in (["ls"], ["show", "latest"]):
        shown = CliRunner().invoke(main, [*words, "--json", "--ledger", str(tmp_path / "ledger")]).stdout
        assert json.loads(shown.splitlines()[-1])["segment"] == [8.0, 11.0]
    with pytest.raises(LedgerError, match="run-2 is a replay") as refused:
        resume_command(project.book, "run-2")
    assert f"`ledger replay {name} --from-step 8 --until-step 11`" in str(refused.value.mend)


def test_a_part_to_the_end_is_compared_with_the_end(project: Project) -> None:
    compared = replay(project.book, goes_on(project), Scope(from_step=4))
    assert (compared.verdict, compared.segment) == ("identical", (4.0, 12.0))
    told = {check.name: check for check in compared.checks}
    assert {"loss", "checkpoint step-8", "checkpoint step-12", "exit status"} == told.keys()
    assert told["exit status"].actual == "exit code 0"


def test_a_part_that_differs_is_named_with_its_step(project: Project) -> None:
    name = goes_on(project, f"step == 10 and os.getcwd() != {os.fspath(project.root)!r} and random.random()")
    assert replay(project.book, name, Scope(from_step=4, until_step=10)).verdict == "identical"
    compared = replay(project.book, name, Scope(from_step=8))
    assert compared.verdict == "diverged"
    assert compared.first_divergence is not None
    assert (compared.first_divergence.what, compared.first_divergence.step) == ("loss", 11.0)


def test_a_checkpoint_that_is_not_whole_is_passed_over_for_an_older_one(project: Project) -> None:
    name = goes_on(project)
    newest = project.book.run(name).checkpoints[1]
    project.book.checkpoints().delete(newest)  # behind the log's back
    plans = []
    compared = replay(project.book, name, Scope(from_step=9), announce=plans.append)
    assert (compared.verdict, compared.segment) == ("identical", (4.0, 12.0))
    (planned,) = plans
    assert planned.part.passed_over[0].startswith("step-8: ")
    assert any("passed over step-8" in warning for warning in planned.warnings)


def test_a_lost_base_is_found_and_what_is_based_on_it_is_passed_over(project: Project) -> None:
    project.write(
        "train.py",
        """
        import pathlib, random, ledger
        random.seed(7)
        content, base = bytearray(random.randbytes(200_000)), None
        with ledger.current_run() as run:
            for step in (1, 2, 3):
                run.log({"a": step}, step=step)
                content[step] ^= 1
                pathlib.Path("state").write_bytes(content)
                base = run.checkpoint("state", step=step, base=base)
        """,
    )
    project.write(".gitignore", "state\n")
    name = project.record().name
    first, second, _ = project.book.run(name).checkpoints
    assert second.bases == (first.digest,)
    assert not verify(project.book).problems
    place = Path(url2pathname(urlsplit(project.book.settings.checkpoints).path))
    large = [path for path in place.rglob("*") if path.stat().st_size > 150_000]
    assert len(large) == 1  # the second and the third are differences to it
    large[0].unlink()

    problems = {problem.where: problem.why for problem in verify(project.book).problems}
    assert problems.keys() >= {first.uri, second.uri}
    assert "step-1" in problems[second.uri]
    planned = []
    replay(project.book, name, Scope(from_step=2), announce=planned.append)
    assert [lost.partition(":")[0] for lost in planned[0].part.passed_over] == ["step-2", "step-1"]


def test_where_checkpoints_cannot_be_stored_nothing_is_replayed_and_nothing_judged(project: Project) -> None:
    name = goes_on(project)
    place = Path(url2pathname(urlsplit(project.book.settings.checkpoints).path))
    place.rename(place.with_name("aside"))
    place.write_text("in the way")
    with pytest.raises(Unavailable, match="checkpoints") as refused:
        replay(project.book, name)
    assert refused.value.mend
    assert [run.name for run in project.book.runs()] == [name]
    assert project.book.run(name).verdicts == []
    place.unlink()
    place.with_name("aside").rename(place)
    assert replay(project.book, name).verdict == "identical"


def test_a_replay_whose_checkpoints_cannot_be_stored_any_more_is_not_judged(project: Project, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    project.write("train.py", STORES_BEHIND.format(hold=str(hold)))
    name = project.record().name
    place = Path(url2pathname(urlsplit(project.book.settings.checkpoints).path))

    def spoil(recorded: Recorded, _: Divergence | None) -> None:
        if recorded.type == "run.started":
            place.rename(place.with_name("aside"))
            place.write_text("in the way")
            hold.unlink()

    hold.touch()
    with pytest.raises(CheckpointUnavailable, match="no verdict") as refused:
        replay(project.book, name, observe=spoil)
    assert "`ledger show run-2` tells why" in str(refused.value.mend)
    assert [project.book.run(run).verdicts for run in (name, "run-2")] == [[], []]
    place.unlink()
    place.with_name("aside").rename(place)
    assert replay(project.book, name).verdict == "identical"


def test_a_replay_that_ends_for_a_checkpoint_that_it_could_not_store_is_not_judged(project: Project) -> None:
    """Without a keeper, what the store raises ends a script: all that comes after it is missing."""
    name = goes_on(project)
    place = Path(url2pathname(urlsplit(project.book.settings.checkpoints).path))

    def spoil(recorded: Recorded, _: Divergence | None) -> None:
        if recorded.type == "run.started":
            place.rename(place.with_name("aside"))
            place.write_text("in the way")

    with pytest.raises(CheckpointUnavailable, match="no verdict"):
        replay(project.book, name, observe=spoil)
    replayed = project.book.run("run-2")
    assert replayed.status == "failed"
    assert "warning: not stored, and so missing here: checkpoint step-4" in [note.text for note in replayed.notes]
    assert [project.book.run(run).verdicts for run in (name, "run-2")] == [[], []]
    place.unlink()
    place.with_name("aside").rename(place)
    assert replay(project.book, name).verdict == "identical"


def test_a_replay_that_stores_nothing_and_computes_otherwise_has_diverged(project: Project, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    project.write("train.py", STORES_BEHIND.format(hold=str(hold)).replace("1 / step", "1 / step + hold.exists()"))
    name = project.record().name
    place = Path(url2pathname(urlsplit(project.book.settings.checkpoints).path))

    def spoil(recorded: Recorded, _: Divergence | None) -> None:
        if recorded.type == "metrics.logged" and hold.exists():
            place.rename(place.with_name("aside"))
            place.write_text("in the way")
            hold.unlink()

    hold.touch()
    compared = replay(project.book, name, observe=spoil, keep_going=True)
    assert compared.verdict == "diverged"
    assert compared.first_divergence
    assert compared.first_divergence.what == "loss"


def test_before_the_first_checkpoint_it_starts_at_the_beginning(project: Project) -> None:
    compared = replay(project.book, goes_on(project), Scope(from_step=2, until_step=6))
    assert (compared.verdict, compared.segment) == ("identical", (None, 6.0))
    assert loss(compared) == "6 equal bit for bit"


def test_what_cannot_be_is_said_before_anything_starts(project: Project) -> None:
    name = goes_on(project)
    project.write("bare.py", "import ledger; ledger.current_run().log({'a': 1}, step=3)")
    bare = project.record("bare.py").name
    before = len(project.book.runs())
    with pytest.raises(UsageError, match="nothing to compare after step 12"):
        replay(project.book, name, Scope(from_step=12))
    with pytest.raises(UsageError, match="checkpoint of step 8"):
        replay(project.book, name, Scope(from_step=8, until_step=8))
    with pytest.raises(CheckpointUnavailable, match="it has no checkpoints"):
        replay(project.book, bare, Scope(from_step=1))
    with pytest.raises(UsageError, match="was not trained from a recipe"):
        replay(project.book, name, Scope(processes=2))
    assert len(project.book.runs()) == before


def test_a_command_that_ignores_the_checkpoint_starts_over_and_that_is_said(project: Project) -> None:
    project.write("train.py", GOES_ON.format(after_each="pass").replace("if run.resumed_from", "if False"))
    name = project.record().name
    scope = Scope(from_step=4, until_step=8)
    assert any("run.resumed_from" in warning for warning in make_plan(project.book, name, scope).warnings)
    compared = replay(project.book, name, scope)
    went = next(check for check in compared.checks if check.name == "went on")
    assert went.actual == "it logged step 1: the command may have started over"


def test_parts_of_a_run_that_was_killed_and_resumed(project: Project, tmp_path: Path) -> None:
    killed = f"pathlib.Path({os.fspath(tmp_path / 'killed')!r})"
    once = (
        f"if step == 7 and not {killed}.exists(): {killed}.touch(); run.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    project.write("train.py", GOES_ON.format(after_each=once))
    project.write(".gitignore", "state.json\n")
    name = project.record().name
    assert resume_command(project.book, name).status == "completed"
    for scope, segment in (
        (Scope(until_step=6), (None, 6.0)),
        (Scope(from_step=4, until_step=7), (4.0, 7.0)),
        (Scope(from_step=6, until_step=10), (4.0, 10.0)),
        (Scope(from_step=8), (8.0, 12.0)),
    ):
        compared = replay(project.book, name, scope)
        assert (compared.verdict, compared.segment) == ("identical", segment)


def test_a_rebuilt_part_holds_its_checkpoint_and_its_script_goes_on_from_it(project: Project, tmp_path: Path) -> None:
    project.write(
        "train.py",
        """
        import os, pathlib, ledger
        if "LEDGER_RUN" in os.environ:
            with ledger.current_run() as run:
                for step in (1, 2):
                    run.log({"a": step}, step=step)
                    pathlib.Path("state").write_text(f"of step {step}")
                    run.checkpoint("state", step=step)
        else:
            print(open(os.environ["LEDGER_RESUME_FROM"] + "/state").read(), os.environ["LEDGER_RESUME_STEP"])
        """,
    )
    project.write(".gitignore", "state\n")
    project.git("add", ".")
    project.git("commit", "--quiet", "--message", "work")
    name = project.record().name
    dest = tmp_path / "rebuilt"
    rebuild(project.book, name, dest, Scope(from_step=1))
    done = subprocess.run(
        [dest / ".ledger-replay/replay.sh"], capture_output=True, text=True, check=True, cwd="/", timeout=60
    )
    assert done.stdout == "of step 1 1.0\n"
    status = subprocess.run(["git", "status", "--porcelain"], cwd=dest, capture_output=True, text=True, check=True)
    assert status.stdout == ""


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="fewer CPUs than two cannot be taken away")
def test_a_changed_number_of_threads_is_told_before_and_explains_the_verdict(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    project.write(
        "train.py",
        """
        import torch, ledger
        with ledger.current_run() as run:
            torch.manual_seed(1)
            run.log({"sum": torch.randn(3_000_001).sum().item()}, step=1)
        """,
    )
    name = project.record().name
    assert make_plan(project.book, name).inexact == ()
    assert replay(project.book, name).verdict == "identical"
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    try:
        (told,) = make_plan(project.book, name).inexact
        compared = replay(project.book, name)
    finally:
        os.sched_setaffinity(0, usable)
    assert f"computed with {len(usable)}" in told
    assert "may use 1" in told
    assert compared.verdict == "diverged"
    assert compared.inexact == (told,)


RECIPE = """
task = "ledger_trainer.tasks.kjv:gpt"
seed = 7
steps = 12
[data.train]
uri = "file:data/kjv.txt"
[task_options]
n_layer = 1
n_head = 2
n_embd = 32
block_size = 32
dropout = 0.2
[batch]
size = 8
[log]
every = 1
[evaluate]
every = 4
batches = 2
[checkpoint]
every = 4
best = "val/loss"
[determinism]
threads = 1
"""


@pytest.fixture
def trained(desk: Desk) -> Desk:
    desk.write(recipe__toml=RECIPE, __gitignore="data/\n")
    desk.run("python", "-m", "ledger_trainer.tasks.kjv", "data/whole.txt")
    text = (desk.home / "data/whole.txt").read_text()[:50_000]
    (desk.home / "data/whole.txt").unlink()
    (desk.home / "data/kjv.txt").write_text(text)
    desk.commit()
    desk.ledger("init")
    return desk


@pytest.mark.parametrize(
    "processes", [pytest.param("1", marks=pytest.mark.slow), pytest.param("2", marks=pytest.mark.thorough)]
)
def test_a_training_from_a_recipe_is_repeated_in_parts(trained: Desk, processes: str) -> None:
    trained.ledger("train", "recipe.toml", "--nproc", processes)
    plan = trained.ledger("replay", "run-1", "--from-step", "9", "--until-step", "11", "--plan").out
    assert "to go on from" in plan
    assert "after step 8, up to step 11" in plan

    done = trained.ledger("replay", "run-1", "--from-step", "9", "--until-step", "11")
    assert done.out.startswith("identical, steps 9 to 11\n")
    assert "goes on from checkpoint" in done.err
    (compared,) = trained.ledger("replay", "run-1", "--from-step", "4", "--json").json
    assert (compared["verdict"], compared["segment"]) == ("identical", [4.0, 12.0])
    names = {check["name"] for check in compared["checks"]}
    assert {"train/loss", "val/loss", "fingerprints", "checkpoint step-8", "exit status"} <= names
    assert trained.ledger("replay", "run-1", "--until-step", "5").out.startswith("identical, up to step 5\n")
    assert "identical, steps 9 to 11 (run-2)" in trained.ledger("show", "run-1").out
    audited = trained.ledger("audit", "run-1", "--graph", "run-1.dot").out
    assert "replayed as run-2: identical, steps 9 to 11" in audited
    assert "identical, steps 9 to 11 · " in audited.partition("\nreplays\n")[2]
    assert "identical (a part)" in (trained.home / "run-1.dot").read_text()
    assert "nothing to compare after step 12" in trained.ledger("replay", "run-1", "--from-step", "12", code=2).err
    assert "steps" in trained.ledger("checkpoints", "run-1").out


@pytest.mark.thorough
def test_a_replay_with_other_processes_says_what_not_to_expect(trained: Desk) -> None:
    trained.ledger("train", "recipe.toml", "--nproc", "2")
    (plan,) = trained.ledger("replay", "run-1", "--nproc", "1", "--plan", "--json").json
    assert "1 process is asked for and 2 trained" in plan["inexact"][0]
    done = trained.ledger("replay", "run-1", "--nproc", "1", code=1)
    assert done.out.startswith("diverged")
    assert "was to be expected" in done.out
    (compared,) = trained.ledger("replay", "run-1", "--nproc", "1", "--tolerance", "0.2", "--json").json
    assert compared["verdict"] == "within-tolerance"
    told = {check["name"]: check["actual"] for check in compared["checks"]}
    assert "not compared" in told["checkpoint step-4"]
    facts = trained.ledger("log", "run-3", "--json").json
    assert facts[0]["payload"]["world"]["processes"] == 1


@pytest.mark.thorough
def test_parts_within_one_world_are_exact_where_the_whole_run_cannot_be(trained: Desk) -> None:
    rarely = ("checkpoint.every=20", "evaluate.every=20")
    trained.kill_at(50, "train", "recipe.toml", "steps=300", *rarely, "--nproc", "2", run="run-1")
    trained.ledger("resume", "run-1", "--nproc", "1")
    (shown,) = trained.ledger("show", "run-1", "--json").json
    assert [attempt["processes"] for attempt in shown["attempts"]] == [2, 1]
    moved = f"{shown['attempts'][1]['from_step']:g}"
    (plan,) = trained.ledger("replay", "run-1", "--plan", "--json").json
    assert len(plan["inexact"]) == 1
    for part in (f"--until-step {moved}", f"--from-step {moved}"):
        assert f"`ledger replay run-1 {part}`" in plan["inexact"][0]
        (compared,) = trained.ledger("replay", "run-1", *part.split(), "--json").json
        assert compared["verdict"] == "identical"
        assert compared["inexact"] == []
    done = trained.ledger("replay", "run-1", code=1)
    assert done.out.startswith("diverged")
    assert "was to be expected" in done.out
