"""The run: what training code holds while it trains."""

from __future__ import annotations

import atexit
import math
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, SupportsFloat

from ledger.book import Book, open_ledger, this_process
from ledger.errors import FencedAttempt, LedgerError, NotFound, UsageError
from ledger.events import (
    NOT_STORED,
    CheckpointDeleted,
    CheckpointWritten,
    EnvironmentCaptured,
    ParametersFingerprinted,
    RunAnnotated,
    RunCompleted,
    RunInterrupted,
    RunStarted,
    World,
)
from ledger.files import write_out
from ledger.hooks.guard import Terminated
from ledger.hooks.ports import Borrowing
from ledger.record.capture.family import Speakers
from ledger.record.capture.gpu_time import Meter
from ledger.record.capture.secrets import Redactor
from ledger.record.data import Data, pin_data
from ledger.record.facts import begin, capture, failure, new_run, resolved_config, written_artifact
from ledger.record.heartbeat import Heartbeat
from ledger.record.mirroring import require_mirrors, start_mirrors
from ledger.record.restart import launched_attempt, restarted, restarts
from ledger.record.saving import saving_place
from ledger.record.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType, TracebackType

    from ledger.events import Event, Trigger
    from ledger.files import Lent
    from ledger.read.state import RunState


_STOPS: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Run:
    """A run that is being recorded. Get one from ``start_run`` or ``current_run``.

    As a context manager it also records how it ends: an exception as a failure with its traceback, Ctrl-C and
    SIGTERM as an interruption. Used without ``with`` it ends when the interpreter does, and cannot tell
    ``sys.exit(1)`` from success. A run that was started by `ledger run` or `ledger train` is ended by them.
    """

    def __init__(self, book: Book, state: RunState, *, attempt: int, rank: int | None, owned: bool) -> None:
        self.id = state.id
        self.name = state.name
        self.attempt = attempt
        self.rank = rank
        self.seed = state.seed
        self.config: Mapping[str, Any] = state.config
        self.resumed_from: Path | None = None
        """Directory with the checkpoint to go on from, fetched and verified; None at a fresh start."""
        self.resumed_step: float | None = None
        self._book = book
        self._started_here = owned
        self._data = {name: Data(book, committed) for name, committed in state.data.items()}
        self._kept = list(state.checkpoints)
        self._unstored: dict[str, None] = {}
        self._last: dict[str, float] = {}
        self._step: float | None = None
        self._redactor = Redactor(os.environ)
        self._writer = Writer(book, self.id, attempt=attempt, rank=rank)
        self._ended = False
        self._signal: str | None = None
        self._process = os.getpid()
        self._speakers = Speakers(book.settings.scratch, self.id)
        self._speakers.announce()
        self._meter = Meter(self._writer.append, self._speakers, step=lambda: self._step)
        if owned:
            self._heartbeat = Heartbeat(book, self.id, attempt)
            _on_sigterm(self._terminated)
        atexit.register(self._at_exit)

    # --- facts ------------------------------------------------------------------------------------------------

    def set_config(self, config: Mapping[str, Any], overrides: Sequence[str] = (), *, seed: int | None = None) -> None:
        """Record the whole configuration. Values must be what JSON and TOML can say; secrets are withheld."""
        seed = self.seed if seed is None else seed
        self._writer.append(resolved_config(config, overrides, self._redactor, seed=seed))
        self.config = dict(config)
        self.seed = seed

    def use_data(self, name: str, uri: str, *, role: str | None = None) -> Data:
        """Pin ``uri`` to an immutable commit and record it; in a replay, what the original pinned.

        Raises ``DataUnavailable`` where the data cannot be read.
        """
        known = self._data.get(name)
        if known is None:
            committed = pin_data(self._book, name, uri, role=role)
            self._writer.append(committed)
            known = self._data[name] = Data(self._book, committed)
        return known

    def data(self, name: str) -> Data:
        """A data set of this run by its name. Raises ``NotFound``."""
        if name not in self._data:
            raise NotFound(
                f"{self.name} has no data set {name!r}",
                mend=f"it has {', '.join(self._data) or 'none'}; declare it with --data {name}=URI or run.use_data",
            )
        return self._data[name]

    def log(self, metrics: Mapping[str, SupportsFloat], step: float | None = None) -> None:
        """Record values of metrics at ``step``; without one, at the step after the last.

        What has been logged survives SIGKILL when this returns, and is in the log within two seconds. NaN and
        infinities are kept; NumPy scalars and tensors with one element are accepted. Raises ``UsageError`` for what is
        no number, ``FencedAttempt`` where a newer attempt has taken over the run.
        """
        if step is None:
            step = 0 if self._step is None else int(self._step) + 1
        elif type(step) is not int:
            step = _number("step", step)
            if not math.isfinite(step):
                raise UsageError(f"{step} is no step", mend="give a finite number; values may be NaN or infinite")
        values = {name: value if type(value) is float else _number(name, value) for name, value in metrics.items()}
        try:
            self._writer.log(step, values)
        except TypeError as error:
            raise UsageError(
                f"step {step} of {', '.join(map(str, values))} cannot be recorded: {error}",
                mend="names are text, steps are below 2**63",
            ) from error
        self._step = step
        self._last.update(values)

    def fingerprint(
        self,
        step: float,
        parameters: str,
        optimizer: str | None = None,
        tensors: Mapping[str, str] | None = None,
        shards: Mapping[str, str] | None = None,
    ) -> None:
        """Record digests of the model's parameters and of the optimizer's state at ``step``.

        They are of the whole training: of several ranks the first one calls it. Raises ``UsageError`` on another.
        """
        if self.rank:
            raise UsageError(
                f"rank {self.rank} cannot fingerprint the training: two that speak at once would contradict each other",
                mend="gather the digests on rank 0, give those of each rank as `shards`, and call it there only",
            )
        self._writer.append(
            ParametersFingerprinted(
                step=step,
                parameters=parameters,
                optimizer=optimizer,
                tensors=dict(tensors or {}),
                shards=dict(shards or {}),
            )
        )

    def checkpoint(
        self,
        directory: Path | str,
        *,
        step: float,
        metrics: Mapping[str, SupportsFloat] | None = None,
        name: str | None = None,
        best: bool = False,
        holds: Sequence[str] = (),
        trigger: Trigger = "steps",
        base: CheckpointWritten | None = None,
        lent: Lent | None = None,
    ) -> CheckpointWritten:
        """Store a checkpoint, a directory or a single file; it is a fact once it is durable and was read back.

        ``base`` is an earlier one that it may be stored as the difference to. ``lent`` are files of the directory that
        were never written: buffers of bytes by relative path, which nobody changes before this returns.

        Everything logged before is in the log before it. Raises what the checkpoint store raises.
        """
        name = name or f"step-{step:g}"
        # Attempts apart: what an earlier attempt left under this name may be half a checkpoint.
        key = f"{self.name}/{name}" if self.attempt == 1 else f"{self.name}/attempt-{self.attempt}/{name}"
        began = time.monotonic()
        self._unstored[name] = None
        with tempfile.TemporaryDirectory() as alone:
            source = Path(directory)
            if source.is_file():
                source = Path(shutil.copy2(source, alone)).parent
            store = self._book.checkpoints()
            if lent and isinstance(store, Borrowing):
                stored = store.write_lent(source, lent, key, base)
            else:
                if lent:
                    write_out(lent, source)
                stored = store.write(source, key, base)
        written = CheckpointWritten(
            **stored.model_dump(),
            step=step,
            attempt=self.attempt,
            name=name,
            best=best,
            seconds=time.monotonic() - began,
            metrics={metric: _number(metric, value) for metric, value in (metrics or {}).items()},
            holds=tuple(holds),
            trigger=trigger,
            processes=int(os.environ.get("WORLD_SIZE", "1")),
        )
        self._writer.append(written)
        self._kept.append(written)
        del self._unstored[name]
        return written

    @property
    def scratch(self) -> Path:
        """Where this attempt's checkpoints lie until they are stored; processes on several hosts must all see it.

        ``LEDGER_SCRATCH`` says where.
        """
        return saving_place(self._book, self.id, self.attempt)

    def checkpoints(self) -> list[CheckpointWritten]:
        """Checkpoints of this run that are kept, all attempts, in the order in which they were written."""
        return list(self._kept)

    def delete_checkpoint(self, written: CheckpointWritten, reason: str) -> None:
        """Record that a checkpoint goes and why, then remove it from its store.

        Where the store failed it can be called again: the fact is recorded once.
        """
        # In this order: who dies in between leaves files that nobody needs, and no log that names what is gone.
        if any(kept.uri == written.uri for kept in self._kept):
            self._writer.append(
                CheckpointDeleted(
                    step=written.step, name=written.name, uri=written.uri, digest=written.digest, reason=reason
                )
            )
        self._kept = [kept for kept in self._kept if kept.uri != written.uri]
        self._book.checkpoints().delete(written)

    def environment(self, **sections: Any) -> None:
        """Add to what is recorded of the environment from inside the training process: sections of the event."""
        self._writer.append(EnvironmentCaptured(**sections))

    def artifact(self, path: Path | str) -> None:
        """Keep a file, or a directory, that the run produced."""
        self._writer.append(written_artifact(self._book, Path.cwd(), Path(path)))

    def annotate(self, text: str, tags: Sequence[str] = ()) -> None:
        """Say something about the run."""
        self._writer.append(RunAnnotated(text=self._redactor.text(text), tags=tuple(tags)))

    # --- the end ----------------------------------------------------------------------------------------------

    @property
    def _owned(self) -> bool:
        """Whether this process started the run and so must end it: no child that was forked since."""
        return self._started_here and self._process == os.getpid()

    def flush(self) -> None:
        """Return when everything logged so far is in the log. Raises ``StoreUnavailable``; nothing is lost then."""
        self._writer.flush()

    def finish(self) -> None:
        """End the run as completed; one that a command started is only flushed, its command ends it."""
        self._end(RunCompleted(step=self._step, metrics=self._last) if self._owned else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._finish_with(error)
        except LedgerError as unrecorded:
            if error is None:
                raise
            # What ended the run must not be hidden behind the failure to record it.
            warnings.warn(f"how {self.name} ended is not on record: {unrecorded}", RuntimeWarning, stacklevel=2)

    def _finish_with(self, error: BaseException | None) -> None:
        """End the run as ``error``, or its absence, tells."""
        succeeded = error is None or (isinstance(error, SystemExit) and error.code in (None, 0))
        interruption = self._signal or _interruption(error)
        if isinstance(error, FencedAttempt):
            self._ended = True  # another attempt has the run now: there is nothing left for this one to say
            self._let_go()
        elif interruption:
            # Rank 0 of several tells it as well: its launcher makes one exit code of whatever ended them.
            said = self._owned or self.rank == 0
            self._end(RunInterrupted(signal=interruption, step=self._step) if said else None)
        elif succeeded:
            self.finish()
        else:
            assert error is not None  # noqa: S101 - mypy cannot see it through `succeeded`
            # Under a command as well: the process that fails knows why, its parent sees only an exit code.
            self._end(failure(error, self._step, self._redactor) if _is_failure(error) or self._owned else None)

    def _end(self, event: Event | None) -> None:
        if self._ended:
            return
        self._ended = True
        if event is not None:
            self._book.recover()  # what children of this process logged that are dead by now
        facts: list[Event] = [*self._not_stored(), *self._meter.stop(), *([event] if event else [])]
        try:
            if facts:
                self._writer.append(*facts)
        except FencedAttempt:
            self._let_go()
            raise
        self._close()

    def _let_go(self) -> None:
        with suppress(FencedAttempt):
            self._close()

    def _not_stored(self) -> Iterator[RunAnnotated]:
        if self._unstored:
            told = f"warning: not stored, and so missing here: checkpoint {', '.join(self._unstored)}"
            yield RunAnnotated(text=told, tags=("checkpoint", NOT_STORED))

    def _close(self) -> None:
        try:
            self._meter.stop()  # where how the run ended could not be recorded, so cannot this
            self._writer.close()
        finally:
            self._speakers.withdraw()
            if self._owned:
                self._heartbeat.stop()
                _no_more_on_sigterm(self._terminated)

    def _at_exit(self) -> None:
        # Reached with the run still open only where it was used without `with`, or where its end failed.
        try:
            if self._ended:
                self._close()
            elif self._owned:
                self._finish_with(getattr(sys, "last_value", None))
            else:
                self._end(None)
        except LedgerError as error:
            warnings.warn(f"the last facts of {self.name} did not reach the log: {error}", RuntimeWarning, stacklevel=2)

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name
        raise Terminated(128 + number)


def start_run(
    config: Mapping[str, Any] | None = None,
    *,
    seed: int | None = None,
    tags: Sequence[str] = (),
    project: str | None = None,
    book: Book | None = None,
) -> Run:
    """Start a run in this process and capture what it runs with; inside a recorded command, join its run.

    Raises ``StoreUnavailable`` where the log cannot be written: a run that cannot be recorded does not start.
    """
    joined = "LEDGER_RUN" in os.environ
    run = current_run(book=book) if joined else _own_run(book or open_ledger(), seed=seed, tags=tags, project=project)
    asked = dict(run.config if config is None else config)
    # A replay, and every attempt after the first, finds its configuration in the log already.
    if asked != dict(run.config) or seed not in (None, run.seed):
        run.set_config(asked, seed=seed)
    if joined and tags:
        run.annotate("", tags)
    return run


def current_run(*, book: Book | None = None, rank: int | None = None) -> Run:
    """The run of the recorded command that this process belongs to.

    ``rank`` is that of a process that no launcher has given one (``RANK``).

    Where torchrun has started the processes again after one of them died (``--max-restarts``), they are a new attempt,
    which goes on from the newest whole checkpoint: ``resumed_from`` has it, as after `ledger resume`.

    Raises ``UsageError`` outside of `ledger run`, `ledger train`, `ledger resume` and `ledger replay`.
    """
    run_id = os.environ.get("LEDGER_RUN")
    if run_id is None:
        raise UsageError(
            "no run is being recorded in this process",
            mend="start it with `ledger run -- COMMAND`, or call ledger.start_run()",
        )
    book = book or open_ledger()
    rank = int(os.environ["RANK"]) if "RANK" in os.environ else rank
    if restarts():
        begun = restarted(book, run_id, leads=rank == 0)
        run = Run(book, book.run(run_id), attempt=begun.attempt, rank=rank, owned=False)
        run.resumed_from, run.resumed_step = begun.resumed_from, begun.step
        return run
    run = Run(book, book.run(run_id), attempt=launched_attempt(), rank=rank, owned=False)
    if resumed := os.environ.get("LEDGER_RESUME_FROM"):
        run.resumed_from = Path(resumed)
        run.resumed_step = float(os.environ["LEDGER_RESUME_STEP"])
    return run


def _own_run(book: Book, *, seed: int | None, tags: Sequence[str], project: str | None) -> Run:
    require_mirrors(book)
    run_id, name = new_run(book)
    redactor = Redactor(os.environ)
    command = redactor.argv(sys.orig_argv)
    started = RunStarted(
        name=name,
        kind="command",
        invocation=command,
        command=command,
        world=World(),
        directory=str(Path.cwd()),
        seed=seed,
        tags=tuple(tags),
        project=project or book.settings.project,
        user=book.settings.user,
        process=this_process(),
    )
    begin(book, started, run_id, *capture(book, Path.cwd(), entry_point=sys.argv[0] or None, command=command))
    run = Run(book, book.run(run_id), attempt=1, rank=None, owned=True)
    start_mirrors(book, run_id, follow=True)
    return run


def _interruption(error: BaseException | None) -> str | None:
    """The signal that ended a program: Ctrl-C, or one that it turns into its exit code, 128 and its number."""
    if isinstance(error, KeyboardInterrupt):
        return "SIGINT"
    code = error.code if isinstance(error, SystemExit) else None
    return next((number.name for number in _STOPS if code == 128 + number), None)


def _is_failure(error: BaseException) -> bool:
    """Whether a process that a command started should report this itself; an exit code its parent sees as well."""
    return not isinstance(error, SystemExit)


def _number(name: str, value: Any) -> float:
    try:
        # .item() first: float() of a tensor with requires_grad warns.
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"metric {name!r} is {type(value).__name__}, not a number: {error}", mend="log one number for each metric"
        ) from error


def _on_sigterm(handler: Any) -> None:
    """Install ``handler`` for SIGTERM unless the program, or an earlier run, has one of its own."""
    with suppress(ValueError):  # signals can be set in the main thread only
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, handler)


def _no_more_on_sigterm(handler: Any) -> None:
    """Undo that, in whatever order runs end."""
    with suppress(ValueError):
        if signal.getsignal(signal.SIGTERM) == handler:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
