"""Checkpoints and fingerprints of all ranks, behind training."""

from __future__ import annotations

import contextlib
import socket
import time
import traceback
from functools import partial
from typing import TYPE_CHECKING, Self

import ledger
from ledger.errors import CheckpointUnavailable, LedgerError
from ledger.files import Lent
from ledger_trainer import checkpoint, ranks
from ledger_trainer.export import export_model
from ledger_trainer.fingerprint import Digests, Exporting, Fingerprinting, merge
from ledger_trainer.parts import PATIENCE_S, Part, Parts, require_shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from ledger.checkpoints import Due
    from ledger.hooks.ports import Engine
    from ledger_trainer.console import Console
    from ledger_trainer.fingerprint import ShardDigests


class Saver:
    """Takes the state after a step and lets training go on. One on every rank, and every rank makes each call.

    Behind training each rank digests and writes its part, and tells so by a file. When rank 0 has found these it
    records the fingerprint, adds the export, stores the directory and deletes what is superseded. One step's work is
    under way at a time. Leaving the ``with`` waits for it, and says what all of them have cost.
    """

    def __init__(
        self,
        run: ledger.Run,
        keeper: ledger.Keeper,
        engine: Engine,
        console: Console,
        *,
        seed: int,
        export: str = "",
        patience: float = PATIENCE_S,
    ) -> None:
        self._run = run
        self._engine = engine
        self._console = console
        self._seed = seed
        self._export = export
        self._rank = run.rank or 0
        self._patience = patience
        # What goes wrong behind other ranks than the first is theirs alone to say: the console is that of the first.
        say = None if self._rank else console.say
        self._behind = ledger.BackgroundKeeper(run, keeper, say=say, waiting=console.waiting, anyone=self._anyone)
        self._hosts = [name.decode() for name in ranks.gather(socket.gethostname().encode())]
        self._since: float | None = None
        """When only other ranks than the first were found at work."""
        self._prints = 0
        self._prints_staged = self._prints_behind = 0.0
        require_shared(run.scratch, self._rank, self._hosts)
        self._began = time.monotonic()

    @property
    def failure(self) -> Exception | None:
        """Why the newest checkpoint was not stored; None where it was, and on other ranks than the first."""
        return self._behind.failure

    def take(self, step: int, due: Sequence[Due], *, fingerprint: bool, metrics: Mapping[str, float]) -> None:
        """Take what is ``due`` after ``step``, and a fingerprint where the engine can tell one; a collective."""
        fingerprint = fingerprint and isinstance(self._engine, Fingerprinting)
        if due or fingerprint:
            self._behind.keep(
                partial(self._stage, step, due, fingerprint),
                due if self._rank == 0 else (),
                step=step,
                metrics=metrics,
                holds=checkpoint.holds(),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._behind.__exit__(kind, error, trace)
        if error is None:
            self._console.say(self._summary())

    def _stage(self, step: int, due: Sequence[Due], fingerprint: bool, directory: Path) -> Callable[[], Lent]:
        """What training stands still for; returns what is done behind it."""
        write = digest = None
        export = bool(self._export) and any(one.best for one in due)
        if due:
            # Others than rank 0 tell it of their parts by files, and so does rank 0 who reads them for an export.
            lend = self._rank == 0 and not export
            write = checkpoint.save(directory, self._engine, step=step, seed=self._seed, rank=self._rank, lend=lend)
        if fingerprint and isinstance(self._engine, Fingerprinting):
            began = time.monotonic()
            digest = self._engine.fingerprint()
            self._prints_staged += time.monotonic() - began
        return partial(self._work, step, directory, write, digest, export=export)

    def _anyone(self, busy: bool) -> bool:
        """Whether any rank is at work; a collective. Names a rank that works on when rank 0 has long finished."""
        world = len(self._hosts)
        (worst,) = ranks.agree((self._rank or world) if busy else 0)
        if worst in (0, world):
            self._since = None
            return worst > 0
        self._since = self._since or time.monotonic()
        if time.monotonic() - self._since > self._patience:
            raise CheckpointUnavailable(f"rank {worst} on {self._hosts[worst]} does not come to an end with its part")
        return True

    # --- behind training --------------------------------------------------------------------------------------

    def _work(
        self,
        step: int,
        directory: Path,
        write: Callable[[], Lent] | None,
        digest: Callable[[], ShardDigests] | None,
        *,
        export: bool,
    ) -> Lent:
        own, lent = self._part(write, digest)
        parts = Parts(directory, self._hosts, patience=self._patience)
        if self._rank:
            parts.tell(self._rank, own)
            return Lent()
        told = parts.collect(own)
        if digest:
            self._record(step, [part.digests for part in told if part.digests])
        for rank, part in enumerate(told):
            if part.failure:
                raise CheckpointUnavailable(f"rank {rank} on {self._hosts[rank]}: {part.failure}")
        if export and isinstance(self._engine, Exporting):
            export_model(self._engine.export(directory), directory, self._export)
        return lent

    def _part(self, write: Callable[[], Lent] | None, digest: Callable[[], ShardDigests] | None) -> tuple[Part, Lent]:
        """Write and digest; a failure is told to rank 0, which knows what to do about it."""
        failures: list[str] = []
        digests = None
        lent = Lent()
        if write:
            with _told_to(failures):
                lent = write()
        if digest:
            began = time.monotonic()
            with _told_to(failures):
                found = digest()
                digests = Digests(dict(found.parameters), dict(found.optimizer))
            self._prints_behind += time.monotonic() - began
        return Part("; ".join(failures), digests), lent

    def _record(self, step: int, digests: Sequence[Digests]) -> None:
        if len(digests) < len(self._hosts):
            return  # whose is missing has a failure to tell
        found = merge(digests)
        self._run.fingerprint(step, found.parameters, found.optimizer, found.tensors, found.shards)
        self._prints += 1
        if found.disagreements:
            first, *more = found.disagreements
            text = f"warning: at step {step} ranks disagree about what they share: {first}"
            text += f", and {len(more)} more" if more else ""
            self._console.say(text)
            self._run.annotate(text, ["fingerprint"])

    def _summary(self) -> str:
        """``checkpoints: 5 written, training stood still for 0.42 s (0.2 %), 3.1 s behind it; fingerprints: …``."""
        costs, trained = self._behind.costs, max(time.monotonic() - self._began, 1e-9)
        stalled = costs.staged - self._prints_staged + costs.waited
        written = _cost(f"checkpoints: {costs.written} written", stalled, costs.behind - self._prints_behind, trained)
        taken = _cost(f"fingerprints: {self._prints} taken", self._prints_staged, self._prints_behind, trained)
        return f"{written}; {taken}"


def _cost(what: str, stalled: float, behind: float, trained: float) -> str:
    return f"{what}, training stood still for {stalled:.2f} s ({stalled / trained:.1%}), {behind:.2f} s behind it"


@contextlib.contextmanager
def _told_to(failures: list[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - rank 0 is told, and decides what comes of it
        if not isinstance(error, LedgerError | OSError):
            traceback.print_exc()
        mend = f" ({error.mend})" if isinstance(error, LedgerError) and error.mend else ""
        failures.append(f"{error}{mend}" if isinstance(error, LedgerError) else f"{type(error).__name__}: {error}")
