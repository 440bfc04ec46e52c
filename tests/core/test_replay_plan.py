"""Plans of replays: what they would do, and every reason why not, from facts alone."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.events import (
    ArtifactWritten,
    CheckpointWritten,
    CodeCaptured,
    ConfigResolved,
    DataCommitted,
    EnvironmentCaptured,
    Event,
    OmittedFile,
    RunCompleted,
    RunInterrupted,
    World,
)
from ledger.hooks.ports import Availability
from ledger.objects.manifest import Entry, Manifest
from ledger.read.state import RunState, fold
from ledger.replay.describe import describe
from ledger.replay.layout import InWorkspace, spelled
from ledger.replay.part import Scope
from ledger.replay.plan import (
    CheckOutCode,
    Compare,
    Findings,
    Launch,
    MaterialiseData,
    Plan,
    RestoreCheckpoint,
    RestoreEnvironment,
    WriteConfig,
    part_of,
    plan,
)
from ledger.replay.script import script
from ledger.testing.builders import logged, resumed, run_started, stream

ROOT = "/home/u/project"
TREE = Manifest.of([Entry("train.py", "0" * 64, 1), Entry("bin/tool", "0" * 64, 1, "executable")])
SAME = EnvironmentCaptured(packages={"torch": "2.13.0", "numpy": "2.0"})
METRICS = logged({1: {"loss": 0.5}, 2: {"loss": 0.25, "val": 1.0}})
DONE = RunCompleted(step=2)


def code(**changes: Any) -> CodeCaptured:
    facts: dict[str, Any] = {
        "root": ROOT,
        "directory": ".",
        "repository": None,
        "commit": None,
        "branch": None,
        "dirty": False,
        "tree": TREE.digest,
        "files": 2,
        "bytes": 2,
        "entry_point": "train.py",
    }
    return CodeCaptured(**(facts | changes))


def data(name: str, path: str, **changes: Any) -> DataCommitted:
    digest = hashlib.sha256(path.encode()).hexdigest()
    facts: dict[str, Any] = {
        "uri": f"file:{path}",
        "commit": digest,
        "path": path,
        "digest": digest,
        "files": 1,
        "bytes": 1,
        "name": name,
        "role": name,
        "provider": "local",
        "provider_version": "0",
    }
    return DataCommitted(**(facts | changes))


def run(*facts: Event, metrics: bool = True, end: Event | None = DONE, **started: Any) -> RunState:
    """A run in ROOT, with code unless ``facts`` bring their own."""
    codes = [] if any(isinstance(fact, CodeCaptured) for fact in facts) else [code()]
    body = [*codes, *facts, *([METRICS] if metrics else []), *([end] if end else [])]
    return fold(stream([run_started(**({"directory": ROOT} | started)), *body]))


def findings(**changes: Any) -> Findings:
    facts: dict[str, Any] = {
        "environment": SAME,
        "interpreter": "/usr/bin/python3",
        "executable": True,
        "tree": TREE,
    }
    return Findings(**(facts | changes))


def step(planned: Plan, kind: type) -> Any:
    return next(step for step in planned.steps if isinstance(step, kind))


def words(planned: Plan) -> list[str]:
    """The command as it will be in the workspace /ws."""
    return [spelled(word, "/ws") for word in step(planned, Launch).command]


# --- steps ---------------------------------------------------------------------------------------------


def test_the_steps_come_in_their_order_and_say_what_is_compared() -> None:
    config = ConfigResolved(config={"lr": 0.1}, digest="0" * 64)
    state = run(SAME, data("train", f"{ROOT}/data"), config, seed=7, world=World(processes=2))
    planned = plan(state, findings())
    assert planned.reasons == planned.warnings == planned.differences == ()
    assert [type(s) for s in planned.steps] == [
        CheckOutCode,
        RestoreEnvironment,
        MaterialiseData,
        WriteConfig,
        Launch,
        Compare,
    ]
    assert step(planned, Launch).seed == 7
    assert step(planned, Launch).world.processes == 2
    assert step(planned, Compare) == Compare(
        metrics=2, points=3, fingerprints=0, checkpoints=0, artifacts=0, exit_status="exit code 0", until=2.0
    )


def test_an_interrupted_run_is_compared_up_to_its_last_step_and_not_by_its_end() -> None:
    planned = plan(run(end=RunInterrupted(signal="SIGTERM")), findings())
    assert step(planned, Compare).exit_status is None
    assert step(planned, Compare).until == 2.0


def test_variables_are_given_back_and_those_of_now_are_taken_away() -> None:
    then = EnvironmentCaptured(
        variables={
            "OMP_NUM_THREADS": "4",
            "HF_TOKEN": "[withheld]",
            "CUDA_VISIBLE_DEVICES": "3",
            "PYTHONPATH": f"{ROOT}/lib:/opt/shared",
        }
    )
    now = EnvironmentCaptured(variables={"OMP_NUM_THREADS": "1", "NCCL_ALGO": "Ring", "CUDA_VISIBLE_DEVICES": "0"})
    planned = plan(run(then, code(python_path=("src", "."))), findings(environment=now))
    restored = step(planned, RestoreEnvironment)
    assert restored.variables == {"OMP_NUM_THREADS": "4"}
    assert restored.unset == ("NCCL_ALGO",)
    assert [spelled(word, "/ws") for word in restored.python_path] == ["/ws/src", "/ws", "/ws/lib", "/opt/shared"]
    assert not any("OMP_NUM_THREADS" in line or "NCCL_ALGO" in line for line in planned.differences)
    assert any("CUDA_VISIBLE_DEVICES" in line for line in planned.differences)


def test_other_packages_are_differences_and_no_reason() -> None:
    now = EnvironmentCaptured(packages={"torch": "2.14.0", "numpy": "2.0"})
    planned = plan(run(SAME), findings(environment=now))
    assert planned.reasons == ()
    assert planned.differences == ("torch 2.13.0 → 2.14.0",)
    assert step(planned, RestoreEnvironment).other_packages == {"torch": "2.13.0"}


# --- places --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (f"{ROOT}/data", "data"),
        (f"{ROOT}/deep/er/train.csv", "deep/er/train.csv"),
        ("/mnt/corpus/train.csv", ".ledger-data/train/train.csv"),
        (ROOT, ".ledger-data/train/project"),
        ("/home/u", ".ledger-data/train/u"),
    ],
)
def test_data_come_back_to_where_they_lay_if_that_was_beside_the_code(path: str, to: str) -> None:
    assert step(plan(run(data("train", path)), findings()), MaterialiseData).to == to


def test_data_of_other_places_than_files_get_a_place_of_their_own() -> None:
    remote = data("train", f"{ROOT}/looks/local", uri="lakefs://corpus/main/clean/")
    assert step(plan(run(remote), findings()), MaterialiseData).to == ".ledger-data/train/local"


def test_data_behind_a_link_of_the_tree_are_not_written_through_it() -> None:
    tree = Manifest.of([Entry("data", "0" * 64, 4, "link")])
    planned = plan(run(data("train", f"{ROOT}/data/train")), findings(tree=tree))
    assert step(planned, MaterialiseData).to == ".ledger-data/train/train"


def test_data_within_other_data_get_a_place_of_their_own() -> None:
    state = run(data("all", f"{ROOT}/data"), data("part", f"{ROOT}/data/part"))
    assert [s.to for s in plan(state, findings()).steps if isinstance(s, MaterialiseData)] == [
        "data",
        ".ledger-data/part/part",
    ]


@given(st.text(min_size=1), st.text(min_size=1).map(lambda name: f"/mnt/{name}"))
def test_no_name_of_data_leads_out_of_the_workspace(name: str, path: str) -> None:
    to = step(plan(run(data(name, path)), findings()), MaterialiseData).to
    place = InWorkspace(to).at("/ws")
    assert place.startswith("/ws/")
    assert place == f"/ws/{to}"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (f"{ROOT}/train.py", "/ws/train.py"),
        ("train.py", "train.py"),
        ("/mnt/corpus", "/ws/.ledger-data/train/corpus"),
        ("/mnt/corpus/a/b.txt", "/ws/.ledger-data/train/corpus/a/b.txt"),
        ("--data=/mnt/corpus/a", "--data=/ws/.ledger-data/train/corpus/a"),
        ("data.path=/mnt/corpus", "data.path=/ws/.ledger-data/train/corpus"),
        ("../../../mnt/corpus", "/ws/.ledger-data/train/corpus"),
        ("/mnt/corpus2", "/mnt/corpus2"),
        ("/dev/null", "/dev/null"),
        (f"--out={ROOT}/out", "--out=/ws/out"),
        ("/results/model.bin", "/ws/.ledger-out/results/model.bin"),
        ("", ""),
        ("--lr=0.1", "--lr=0.1"),
    ],
)
def test_words_that_name_a_moved_place_are_rewritten(word: str, expected: str) -> None:
    output = ArtifactWritten(path="/results/model.bin", digest="0" * 64, bytes=1)
    state = run(data("train", "/mnt/corpus"), output, command=("python", word))
    assert words(plan(state, findings())) == ["python", expected]


def test_a_working_directory_reached_through_a_link_is_understood() -> None:
    state = run(code(directory="jobs"), directory="/link/jobs", command=("python", "/link/jobs/a.py", "/link/b.py"))
    planned = plan(state, findings())
    assert step(planned, Launch).directory == "jobs"
    assert words(planned)[1:] == ["/ws/jobs/a.py", "/ws/b.py"]


def test_a_working_directory_outside_of_the_code_keeps_its_place_beside_it() -> None:
    state = run(code(directory="../work"), directory="/home/u/work", command=("python", "../project/train.py"))
    planned = plan(state, findings())
    assert step(planned, CheckOutCode).to == "project"
    assert step(planned, Launch).directory == "work"
    assert words(planned) == ["python", "../project/train.py"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("python", "python"),
        ("bin/tool", "/ws/bin/tool"),
        (f"{ROOT}/bin/tool", "/ws/bin/tool"),
        (".venv/bin/python", f"{ROOT}/.venv/bin/python"),
        ("/usr/bin/env", "/usr/bin/env"),
    ],
)
def test_the_program_is_moved_only_if_it_was_captured(word: str, expected: str) -> None:
    assert words(plan(run(command=(word,)), findings())) == [expected]


def test_a_python_that_is_gone_is_replaced_by_this_one_and_that_is_said() -> None:
    planned = plan(run(command=("/gone/bin/python3.11", "train.py")), findings(executable=False))
    assert planned.reasons == ()
    assert words(planned)[0] == "/usr/bin/python3"
    assert any("/gone/bin/python3.11 is not here" in warning for warning in planned.warnings)


# --- why not -------------------------------------------------------------------------------------------


def omitted(path: str, size: int = 5, reason: str = "over the limit") -> CodeCaptured:
    return code(omitted=(OmittedFile(path=path, bytes=size, reason=reason),))


SECRET = ConfigResolved(config={}, digest="0" * 64, withheld=("api.token",))


@pytest.mark.parametrize(
    ("state", "found", "said"),
    [
        (run(end=None), {"alive": True}, "still running, as process 4242 on testhost"),
        (run(omitted("big.bin")), {}, "1 of its files were not captured (big.bin: over the limit)"),
        (run(), {"tree": None}, "the list of its files is gone"),
        (run(), {"missing": (TREE.entries[1],)}, "1 of its files are gone (train.py)"),
        (run(data("train", "/d")), {"data": {"train": Availability(False, "changed a.bin")}}, "changed a.bin"),
        (run(command=("tool",)), {"executable": False}, "the command tool is not there"),
        (run(command=()), {"executable": False}, "no command is on record"),
        (run(command=("tool", "--token=[withheld]")), {}, "--token=[withheld]"),
        (run(world=World(processes=2)), {"launcher": "no torch"}, "2 processes cannot be launched: no torch"),
        (run(metrics=False), {}, "nothing is on record that a replay could be compared with"),
        (run(SECRET, kind="train"), {}, "secrets of its configuration (api.token)"),
    ],
)
def test_each_reason_is_told_and_its_mend(state: RunState, found: dict[str, Any], said: str) -> None:
    planned = plan(state, findings(**found))
    assert len(planned.reasons) == 1
    assert said in planned.reasons[0]
    assert f"- {planned.reasons[0]}" in describe(planned)


def test_all_reasons_are_told_at_once() -> None:
    state = run(omitted("big.bin"), data("train", "/d"), metrics=False, end=None)
    found = findings(alive=True, tree=None, executable=False, data={"train": Availability(False, "gone")})
    assert len(plan(state, found).reasons) == 5


def test_without_code_there_are_no_steps() -> None:
    state = fold(stream([run_started(), METRICS, DONE]))
    planned = plan(state, findings(tree=None))
    assert planned.steps == ()
    assert planned.reasons == ("its code was not captured: record a new run",)


@pytest.mark.parametrize(
    "state",
    [
        run(omitted("data/big.bin"), data("train", f"{ROOT}/data")),
        run(omitted(".venv", 0, "a virtual environment: recorded as its packages")),
        run(omitted(".env", 20, "withheld: looks like a secret")),
        run(SECRET),
        run(end=None),
        run(data("train", "/d")),
    ],
    ids=["in data", "environment", "secret file", "secret of a command", "dead writer", "data at hand"],
)
def test_what_is_no_reason(state: RunState) -> None:
    assert plan(state, findings(data={"train": Availability(True)})).reasons == ()


def test_what_may_matter_is_said() -> None:
    planned = plan(
        run(omitted(".env", 20, "withheld"), end=None, seed=None), findings(alive=None, uncaptured=("cache/x.bin",))
    )
    told = "\n".join(planned.warnings)
    for part in (".env was not captured", "taken as interrupted", "cache/x.bin lies beside the code", "no seed"):
        assert part in told


# --- text ----------------------------------------------------------------------------------------------


def test_a_plan_is_described_step_by_step() -> None:
    then = EnvironmentCaptured(packages={"torch": "2.13.0"}, variables={"OMP_NUM_THREADS": "2"})
    state = run(
        then,
        code(commit="a" * 40, dirty=True),
        data("train", "/mnt/corpus"),
        command=("python", "a b.py", "/mnt/corpus"),
    )
    lines = describe(plan(state, findings()))
    assert lines[0].startswith("1. rebuild the code: tree ")
    assert lines[0].endswith("commit aaaaaaaaaaaa with changes")
    assert "OMP_NUM_THREADS=2" in lines[1]
    assert lines[2].endswith("to WORKSPACE/.ledger-data/train/corpus")
    assert lines[3] == "4. run, in WORKSPACE: python 'a b.py' WORKSPACE/.ledger-data/train/corpus"
    assert lines[4] == "5. compare 2 metrics (3 values), how it ends (exit code 0)"


HOSTILE = 'a\'b "c" $(touch pwned) `x` ;&|\n#'


def test_the_script_is_a_script_whatever_the_names(tmp_path: Path) -> None:
    """Everything that came from the run arrives as it was, and nothing of it is executed."""
    then = EnvironmentCaptured(
        packages={"torch": "2.13.0+cpu"}, variables={"OMP_PLACES": HOSTILE, f"TORCH{HOSTILE}": "x"}
    )
    state = run(
        then,
        code(python_path=("src",)),
        data("train", f"{ROOT}/{HOSTILE}"),
        command=("printf", "%s\\0", HOSTILE, f"--in={ROOT}/{HOSTILE}"),
    )
    text = script(plan(state, findings(executable=False, data={"train": Availability(False, HOSTILE)})))
    assert f"# python -m pip install {shlex.quote('torch==2.13.0+cpu')}" in text
    path = tmp_path / "replay.sh"
    path.write_text(text)
    work = tmp_path / "it's there"
    work.mkdir()
    done = subprocess.run(["sh", path, work], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split("\0")[:-1] == [HOSTILE, f"--in={work}/{HOSTILE}"]
    assert sorted(os.listdir(tmp_path)) == ["it's there", "replay.sh"]
    assert os.listdir(work) == []


def test_the_script_of_a_training_types_what_the_user_typed() -> None:
    typed = ("ledger", "train", "recipe.toml", "optim.lr=1e-3", "--nproc", "2")
    launch = Launch(("python", "-m", "trainer"), ".", World(processes=2), 7, (), typed)
    assert script(Plan("0190", "run-1", (launch,))).endswith(
        'cd -- "$DIR"\nledger train recipe.toml optim.lr=1e-3 --nproc 2\n'
    )


# --- parts ---------------------------------------------------------------------------------------------


def checkpoint(at: float, **changes: Any) -> CheckpointWritten:
    facts: dict[str, Any] = {
        "uri": f"memory://{at}", "digest": "c" * 64, "bytes": 1, "stored_bytes": 1, "files": (), "step": at,
        "attempt": 1, "name": f"step-{at:g}", "seconds": 0.0,
    }  # fmt: skip
    return CheckpointWritten(**(facts | changes))


def part_plan(state: RunState, scope: Scope, **found: Any) -> Plan:
    return plan(state, findings(**found), part_of(state, scope))


def test_a_part_restores_its_checkpoint_before_it_launches() -> None:
    state = run(SAME, checkpoint(1), kind="train")
    planned = part_plan(state, Scope(from_step=1))
    kinds = [type(s) for s in planned.steps]
    assert kinds.index(RestoreCheckpoint) == kinds.index(Launch) - 1
    assert step(planned, RestoreCheckpoint).checkpoint.step == 1
    assert planned.segment == (1.0, 2.0)
    compare = step(planned, Compare)
    assert (compare.after, compare.until, compare.points, compare.checkpoints) == (1.0, 2.0, 2, 0)
    assert any("step-1" in line and "to go on from" in line for line in describe(planned))
    assert planned.warnings == planned.reasons == planned.inexact == ()


def test_where_a_part_begins_is_said_aloud() -> None:
    told = part_plan(run(SAME, checkpoint(2)), Scope(from_step=1)).warnings
    assert told == ("there is no checkpoint at or before step 1: it starts at the beginning",)
    assert any(
        "LEDGER_RESUME_FROM" in line for line in part_plan(run(SAME, checkpoint(1)), Scope(from_step=1)).warnings
    )


def test_a_part_with_nothing_in_it_is_not_replayable() -> None:
    planned = part_plan(run(SAME, checkpoint(1)), Scope(from_step=1, until_step=1.5))
    assert planned.reasons == (
        "nothing is on record in this part that a replay could be compared with: ask for more steps",
    )


def test_a_part_has_the_world_the_configuration_and_the_environment_of_those_who_made_it() -> None:
    then = EnvironmentCaptured(variables={"OMP_NUM_THREADS": "1"})
    later = EnvironmentCaptured(variables={"OMP_NUM_THREADS": "2"})
    configs = [ConfigResolved(config={"processes": n}, digest=f"{n}" * 64) for n in (2, 4)]
    moved = resumed(2, 1).model_copy(update={"world": World(processes=4, nodes=2, options=("--rdzv-id=x",))})
    metrics = logged({1: {"loss": 0.5}}), logged({2: {"loss": 0.25}})
    facts = [then, configs[0], metrics[0], checkpoint(1, processes=2), moved, later, configs[1], metrics[1]]
    state = run(*facts, metrics=False, world=World(processes=2))

    before, after = part_plan(state, Scope(until_step=1)), part_plan(state, Scope(from_step=1))
    assert step(before, Launch).world == World(processes=2)
    assert step(after, Launch).world == World(processes=4, nodes=1)
    assert step(before, WriteConfig).resolved == configs[0]
    assert step(after, WriteConfig).resolved == configs[1]
    assert step(before, RestoreEnvironment).variables == {"OMP_NUM_THREADS": "1"}
    assert step(after, RestoreEnvironment).variables == {"OMP_NUM_THREADS": "2"}
    assert before.inexact == ()
    assert len(after.inexact) == 1
    assert "2 nodes" in after.inexact[0]

    whole = plan(state, findings())
    assert step(whole, Launch).world == World(processes=2)
    told = "\n".join(whole.inexact)
    assert "attempt 2 went on from step 1 with 4 processes, and 2 trained before" in told
    assert "`ledger replay run-1 --until-step 1`" in told
    assert "`ledger replay run-1 --from-step 1`" in told
    assert "OMP_NUM_THREADS was 2 and will be 1 (attempt 2)" in told


def test_the_script_of_a_part_goes_on_from_its_checkpoint() -> None:
    scope = Scope(from_step=1, until_step=1.75)
    state = run(SAME, checkpoint(1), logged({1.5: {"loss": 1.0}}))
    text = script(part_plan(state, scope))
    assert "--from-step 1 --until-step 1.75 --to" in text
    assert 'export LEDGER_RESUME_FROM="$DIR"/.ledger-checkpoint/state\nexport LEDGER_RESUME_STEP=1' in text
    trained = run(SAME, checkpoint(1), kind="train", invocation=("ledger", "train", "r.toml"))
    assert script(part_plan(trained, Scope(from_step=1))).endswith("ledger replay 0190aaaa --from-step 1\n")


# --- what cannot be exact ------------------------------------------------------------------------------

HERE: dict[str, Any] = {
    "packages": {"torch": "2.13.0", "numpy": "2.0", "rich": "1"},
    "cpu": {"flags": ["avx2", "avx512f", "fma", "fpu"]},
    "determinism": {"default_threads": 2},
    "libraries": {"torch": {"version": "2.13.0", "git": "a", "cuda": None}},
    "accelerators": ({"name": "H100"},),
}


def changed(**sections: Any) -> EnvironmentCaptured:
    return EnvironmentCaptured(**(HERE | sections))


THEN = changed()


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (changed(determinism={"default_threads": 1}), "it computed with 2, one for each CPU"),
        (changed(cpu={"flags": ["avx2", "fma"]}), "this CPU has other instructions (-avx512f)"),
        (changed(packages=HERE["packages"] | {"torch": "2.14.0"}), "torch is 2.14.0 here and was 2.13.0"),
        (changed(libraries={"torch": {"version": "2.13.0", "git": "b"}}), "another build here (git)"),
        (changed(accelerators=()), "it had H100, and here there is no accelerator"),
    ],
)
def test_what_moves_bits_here_is_told_before_anything_runs(now: EnvironmentCaptured, said: str) -> None:
    planned = plan(run(THEN), findings(environment=now))
    assert len(planned.inexact) == 1
    assert said in planned.inexact[0]
    assert f"- {planned.inexact[0]}" in describe(planned)
    assert planned.reasons == ()
    assert f"# inexact: {planned.inexact[0]}" in script(planned)


def test_nondeterministic_algorithms_are_told() -> None:
    then = changed(determinism=HERE["determinism"] | {"deterministic_algorithms": False})
    assert "not deterministic" in plan(run(then), findings(environment=THEN)).inexact[0]


ONE_CPU = changed(determinism={"default_threads": 1})


@pytest.mark.parametrize(
    "state",
    [
        run(THEN.model_copy(update={"variables": {"OMP_NUM_THREADS": "2"}})),
        run(changed(determinism={"default_threads": 2, "threads": 1})),
        run(THEN, ConfigResolved(config={"determinism": {"threads": 2}}, digest="0" * 64)),
        run(THEN, command=("torchrun", "--nproc-per-node=2", "train.py")),
        run(changed(packages={"rich": "1"})),
    ],
    ids=["variable", "program", "configuration", "torchrun", "nothing that computes in threads"],
)
def test_threads_that_are_pinned_do_not_depend_on_the_cpus(state: RunState) -> None:
    now = ONE_CPU if "torch" in (state.environment or THEN).packages else changed(
        packages={"rich": "1"}, determinism={"default_threads": 1}
    )  # fmt: skip
    assert plan(state, findings(environment=now)).inexact == ()


@pytest.mark.parametrize(
    "now",
    [
        changed(cpu={"flags": ["avx2", "avx512f", "fma", "ht"], "model": "other"}),
        changed(packages=HERE["packages"] | {"rich": "2"}),
        changed(accelerators=({"name": "H100"}, {"name": "H100"})),
        EnvironmentCaptured(accelerators=HERE["accelerators"]),
    ],
    ids=["flags that decide nothing", "other packages", "more of the same", "nothing known"],
)
def test_what_moves_no_bit_is_not_told(now: EnvironmentCaptured) -> None:
    assert plan(run(THEN), findings(environment=now)).inexact == ()


def test_checkpoints_that_tell_of_other_processes_are_believed() -> None:
    facts = [checkpoint(1, processes=2), checkpoint(2, processes=4, uri="memory://b")]
    (told,) = plan(run(SAME, *facts), findings()).inexact
    assert "2 processes at step 1, 4 processes at step 2" in told


def test_processes_that_are_asked_for_are_told_and_launched() -> None:
    config = ConfigResolved(config={"processes": 4}, digest="4" * 64)
    state = run(SAME, kind="train", world=World(processes=2, launcher="torchrun"))
    planned = part_plan(state, Scope(processes=4), resized=config)
    assert step(planned, Launch).world == World(processes=4, launcher="torchrun")
    assert step(planned, WriteConfig).resolved == config
    assert "4 processes are asked for and 2 trained" in planned.inexact[0]
    assert "within a --tolerance" in planned.inexact[0]
    assert part_plan(state, Scope(processes=2)).inexact == ()
