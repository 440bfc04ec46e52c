"""The run that training code holds, on a real ledger."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import ledger
from ledger.book import Book
from ledger.errors import FencedAttempt, NotFound, StoreUnavailable, UsageError
from ledger.events import RunCompleted, RunFailed, RunInterrupted, TrainingResumed
from ledger.record.run import start_run
from ledger.testing.builders import PROCESS


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("LEDGER_")]:
        monkeypatch.delenv(name)
    return ledger.open_ledger()


def test_what_is_logged_is_read_back(book: Book) -> None:
    with start_run({"lr": 0.1}, seed=7, tags=["baseline"], book=book) as run:
        run.log({"loss": 2.0, "lr": 0.1}, step=1)
        run.log({"loss": math.nan}, step=2)
        run.log({"loss": math.inf}, step=2.5)
    state = book.run(run.name)
    assert state.status == "completed"
    assert state.config == {"lr": 0.1}
    assert state.started.seed == 7
    assert state.tags == ("baseline",)
    assert state.series("loss").step == (1, 2, 2.5)
    assert state.series("loss").value[0] == 2.0
    assert math.isnan(state.series("loss").value[1])
    assert state.series("lr").value == (0.1,)
    assert state.code is not None
    assert state.environment is not None


def test_names_count_up_and_are_never_the_same(book: Book) -> None:
    names = []
    for _ in range(3):
        with start_run(book=book) as run:
            names.append(run.name)
    assert names == ["run-1", "run-2", "run-3"]
    assert book.find("latest") == run.id
    assert book.run(run.id[:18]).name == "run-3"


def test_without_a_step_the_next_one_counts(book: Book) -> None:
    with start_run(book=book) as run:
        run.log({"a": 1})
        run.log({"a": 2})
        run.log({"a": 3}, step=10)
        run.log({"a": 4})
    assert book.run(run.name).series("a").step == (0, 1, 10, 11)


@pytest.mark.parametrize("step", [math.nan, math.inf, -math.inf])
def test_a_step_that_is_no_place_is_refused_and_nothing_else_is_lost(book: Book, step: float) -> None:
    with start_run(book=book) as run:
        with pytest.raises(UsageError, match="no step") as told:
            run.log({"a": 1}, step=step)
        assert told.value.mend
        run.log({"a": 2}, step=1)
    assert book.run(run.name).series("a").step == (1,)


def test_arrays_and_tensors_of_one_element_are_numbers(book: Book) -> None:
    np, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    with start_run(book=book) as run:
        run.log({"a": np.float32(0.1), "b": torch.tensor(0.5, requires_grad=True), "c": np.int64(3), "d": True}, step=1)
        with pytest.raises(UsageError, match="'e' is ndarray"):
            run.log({"e": np.zeros(3)})
        with pytest.raises(UsageError, match="'f' is str"):
            run.log({"f": "much"})
    state = book.run(run.name)
    assert state.series("a").value == (float(np.float32(0.1)),)
    assert [state.series(m).value[0] for m in "bcd"] == [0.5, 3.0, 1.0]


def test_many_points_come_through_in_order(book: Book) -> None:
    with start_run(book=book) as run:
        for step in range(25_000):
            run.log({"a": step}, step=step)
    assert book.run(run.name).series("a").value == tuple(float(n) for n in range(25_000))


def test_a_crash_is_on_record_with_its_traceback(book: Book) -> None:
    with pytest.raises(ZeroDivisionError), start_run(book=book) as run:
        run.log({"a": 1}, step=3)
        1 / 0  # noqa: B018
    ended = book.run(run.name).ended
    assert isinstance(ended, RunFailed)
    assert ended.exception.startswith("ZeroDivisionError")
    assert "1 / 0" in (ended.traceback or "")
    assert ended.step == 3


def test_what_ledger_itself_refuses_is_on_record_with_its_mend(book: Book) -> None:
    with pytest.raises(UsageError), start_run(book=book) as run:
        raise UsageError("two sizes do not fit", mend="change one")
    ended = book.run(run.name).ended
    assert isinstance(ended, RunFailed)
    assert ended.exception == "two sizes do not fit (change one)"
    assert "UsageError" in (ended.traceback or "")


def test_a_keyboard_interrupt_is_an_interruption(book: Book) -> None:
    with pytest.raises(KeyboardInterrupt), start_run(book=book) as run:
        raise KeyboardInterrupt
    assert book.run(run.name).ended == RunInterrupted(signal="SIGINT")


@pytest.mark.parametrize(("code", "status"), [(0, "completed"), (None, "completed"), (3, "failed")])
def test_an_exit_is_judged_by_its_code(book: Book, code: int | None, status: str) -> None:
    with pytest.raises(SystemExit), start_run(book=book) as run:
        sys.exit(code)
    assert book.run(run.name).status == status


def test_sigterm_is_an_interruption(book: Book, tmp_path: Path) -> None:
    script = tmp_path / "wait.py"
    script.write_text(
        textwrap.dedent(
            """
            import ledger, time
            with ledger.start_run() as run:
                run.log({"a": 1}, step=1)
                run.flush()
                print("ready", flush=True)
                time.sleep(60)
            """
        )
    )
    child = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 128 + signal.SIGTERM
    assert book.run("latest").ended == RunInterrupted(signal="SIGTERM", step=1)


def test_a_killed_run_is_interrupted_although_it_never_said_so(book: Book, tmp_path: Path) -> None:
    script = tmp_path / "die.py"
    script.write_text(
        "import ledger, os\nrun = ledger.start_run()\nrun.log({'a': 1})\nrun.flush()\nos.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=False)
    state = book.run("latest")
    assert state.status == "interrupted"
    assert state.ended is None
    assert state.series("a").value == (1.0,)
    assert book.runs()[-1].status == "interrupted"


@pytest.mark.parametrize(("ending", "expected"), [("", RunCompleted), ("1 / 0", RunFailed)])
def test_a_run_without_with_is_ended_at_exit(book: Book, tmp_path: Path, ending: str, expected: type) -> None:
    script = tmp_path / "plain.py"
    script.write_text(f"import ledger\nrun = ledger.start_run()\nrun.log({{'a': 1}})\n{ending}\n")
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=False, capture_output=True)
    assert isinstance(book.run("latest").ended, expected)


def test_a_checkpoint_is_a_fact_once_it_can_be_read_back(book: Book, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "weights.bin").write_bytes(b"w" * 1000)
    with start_run(book=book) as run:
        written = run.checkpoint(out, step=10, metrics={"val/loss": 2.1}, holds=["model"])
        single = run.checkpoint(out / "weights.bin", step=11)
    first, second = book.run(run.name).checkpoints
    assert (first, second) == (written, single)
    assert first.name == "step-10"
    assert first.metrics == {"val/loss": 2.1}
    copy = tmp_path / "copy"
    book.checkpoints().read(first, copy)
    assert (copy / "weights.bin").read_bytes() == b"w" * 1000
    for target in (copy, copy / "weights.bin", first.digest, first.files[0].digest[:12]):
        assert book.origins(target)[0].run == run.name
    (copy / "weights.bin").write_bytes(b"x" * 1000)
    with pytest.raises(NotFound):
        book.origins(copy)


def test_data_is_pinned_once_and_read_in_place(book: Book, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.txt").write_text("hello")
    with start_run(book=book) as run:
        train = run.use_data("train", "file:data/")
        assert train.fetch() == tmp_path / "data"
        filesystem, path = train.open()
        assert filesystem.cat_file(f"{path}/a.txt") == b"hello"
        assert run.use_data("train", "file:data/") is train is run.data("train")
        with pytest.raises(NotFound, match="valid"):
            run.data("valid")
    committed = book.run(run.name).data["train"]
    assert (committed.files, committed.bytes, committed.provider) == (1, 5, "local")
    assert committed.snapshot


def test_secrets_do_not_reach_the_log(book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdefSECRET")
    with pytest.raises(RuntimeError), start_run({"db": {"password": "hunter2hunter2"}, "lr": 1}, book=book) as run:
        run.annotate("the key is 0123456789abcdefSECRET")
        raise RuntimeError("cannot log in with 0123456789abcdefSECRET")
    assert book.run(run.name).config["lr"] == 1
    everything = b"".join(recorded.payload for recorded in book.store.read_all())
    assert b"0123456789abcdefSECRET" not in everything
    assert b"hunter2hunter2" not in everything


def test_artifacts_and_notes(book: Book, tmp_path: Path) -> None:
    with start_run(book=book) as run:
        (tmp_path / "plot.txt").write_text("plot")
        run.artifact("plot.txt")
        run.annotate("looks unstable", tags=["suspicious"])
        with pytest.raises(NotFound):
            run.artifact("nothing.txt")
    state = book.run(run.name)
    assert state.artifacts["plot.txt"].bytes == 4
    assert state.tags == ("suspicious",)


def test_a_fenced_attempt_is_told_so(book: Book) -> None:
    run = start_run(book=book)
    run.log({"a": 1}, step=1)
    run.flush()
    book.append(run.id, TrainingResumed(attempt=2, step=None, checkpoint=None, uri=None, process=PROCESS), attempt=2)
    with pytest.raises(FencedAttempt), run:
        run.log({"a": 2}, step=2)
        run.flush()
    assert book.run(run.id).series("a", effective=False).value == (1.0,)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_runs_that_end_in_the_order_in_which_they_began_leave_no_handler(book: Book) -> None:
    first, second = start_run(book=book), start_run(book=book)
    first.finish()
    second.finish()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_after_the_end_nothing_more_is_taken(book: Book) -> None:
    with start_run(book=book) as run:
        run.log({"a": 1})
    with pytest.raises(UsageError, match="has ended"):
        run.log({"a": 2})


def test_what_ended_a_run_is_not_hidden_by_a_log_that_cannot_be_written(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run(book=book)

    def full(*_: object, **__: object) -> None:
        raise StoreUnavailable("the disk is full")

    with pytest.warns(RuntimeWarning, match="wait in .*: the disk is full"), pytest.raises(ZeroDivisionError), run:
        run.log({"a": 1})
        monkeypatch.setattr(book.store, "append", full)
        1 / 0  # noqa: B018
    monkeypatch.undo()
    # As soon as there is room everything is in the log, the failure too.
    book.recover()
    [recovered] = book.recovered
    assert (recovered.events, recovered.trouble) == (3, None)
    state = book.run(run.id)
    assert state.series("a").value == (1.0,)
    assert isinstance(state.ended, RunFailed)


def test_current_run_outside_of_one_says_how_to_start(book: Book) -> None:
    with pytest.raises(UsageError) as caught:
        ledger.current_run()
    assert "ledger run" in str(caught.value.mend)


def test_a_program_under_a_command_may_state_its_seed_and_configuration(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = start_run(book=book)
    monkeypatch.setenv("LEDGER_RUN", outer.id)
    with start_run({"lr": 0.1}, seed=7, tags=["inner"], book=book) as run:
        assert (run.id, run.seed, run.config) == (outer.id, 7, {"lr": 0.1})
    with start_run({"lr": 0.1}, seed=7, book=book):
        pass
    outer.finish()
    state = book.run(outer.id)
    assert (state.seed, state.config, state.tags) == (7, {"lr": 0.1}, ("inner",))
    assert [r.type for r in book.store.read(f"run-{outer.id}")].count("config.resolved") == 1


def test_only_the_first_rank_speaks_for_the_parameters_of_all(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    with ledger.start_run(book=book) as run:
        monkeypatch.setenv("LEDGER_RUN", run.id)
        monkeypatch.setenv("RANK", "1")
        with ledger.current_run(book=book) as second, pytest.raises(UsageError, match="rank 1 cannot fingerprint"):
            second.fingerprint(1, "0" * 64)
        monkeypatch.setenv("RANK", "0")
        with ledger.current_run(book=book) as first:
            first.fingerprint(1, "0" * 64, shards={"0": "a" * 64, "1": "b" * 64})
    assert [f.shards for f in book.run(run.id).fingerprints] == [{"0": "a" * 64, "1": "b" * 64}]
