"""One ledger, opened: its log, its objects, its plugins and its settings, and the questions one asks it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Final

from ledger import __version__
from ledger.codec import Codec, Metadata
from ledger.errors import LedgerError, RunNotFound
from ledger.hooks.ports import Probing
from ledger.processes import lives, start_of
from ledger.settings import FOLDER, Settings, find_settings
from ledger.store import open_store
from ledger.store.base import ANY, run_id, run_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from ledger.codec import Draft, Recorded
    from ledger.events import Event, Process
    from ledger.hooks.manager import Plugins
    from ledger.hooks.ports import CheckpointStore
    from ledger.journal.carry import Recovered
    from ledger.objects import Hasher, ObjectStore
    from ledger.read.catalogue import Catalogue, RunSummary
    from ledger.read.contents import Progress
    from ledger.read.gpu_hours import By, DeviceHours
    from ledger.read.lineage import Ancestry, Impact, Origin, Use
    from ledger.read.state import RunState
    from ledger.read.tracing import Tracer
    from ledger.store.base import JournalSpan
    from ledger.store.projections.query import Unended

HOST: Final = socket.gethostname()


class Book:
    """An open ledger. Use it as a context manager, or close it."""

    def __init__(self, settings: Settings, plugins: Plugins | None = None) -> None:
        self.settings = settings
        self.codec = Codec(lambda: self.plugins.event_types())
        self.store = open_store(settings.url, self.codec)
        self.recovered: list[Recovered] = []
        """What has become of journals that dead writers left on this host."""
        if plugins:
            self.plugins = plugins

    # Most commands need few of these, and what they import takes as long as many a command.

    @cached_property
    def plugins(self) -> Plugins:
        """The installed plugins, or those that the ledger was opened with."""
        from ledger.hooks.manager import load_plugins

        return load_plugins(self.settings)

    @cached_property
    def objects(self) -> ObjectStore:
        """Files by what they contain."""
        from ledger.objects import ObjectStore

        return ObjectStore(self.settings.objects, scratch=self.settings.scratch)

    @cached_property
    def hasher(self) -> Hasher:
        """Digests of files, remembered from one run to the next."""
        from ledger.objects import Hasher

        return Hasher(self.settings.scratch / "hashes.db")

    # --- reading ----------------------------------------------------------------------------------------------

    def find(self, reference: str) -> str:
        """UUID of the run that ``reference`` means: ``run-42``, a UUID, a unique prefix of one, ``latest``.

        Raises ``RunNotFound``, naming the candidates where there are several.
        """
        streams = self.store.find_streams(reference)
        if len(streams) == 1:
            return run_id(streams[0])
        if streams:
            shown = ", ".join(run_id(stream) for stream in streams[:5])
            raise RunNotFound(f"{reference!r} may mean {len(streams)} runs: {shown}", mend="give more of the UUID")
        raise RunNotFound(f"this ledger has no run {reference!r}", mend="`ledger ls` lists the runs")

    def run(self, reference: str) -> RunState:
        """Everything that is known about a run. One whose writer is dead, though it never said so, is interrupted.

        Its series are read from the ledger when they are asked for.
        """
        from ledger.read.stored import read_run

        state = read_run(self.store, run_stream(self.find(reference)))
        if state.status == "running" and not self.lives(state.id, state.attempt.process):
            state.status = "interrupted"
        return state

    def follow(self, run: str, *, after: int = -1, poll: float = 0.1) -> Iterator[Recorded | None]:
        """Events of the run with this UUID above position ``after`` and those to come; None whenever it has caught up.

        Ends when the latest attempt has, or when its process is dead. ``poll`` is that of ``EventStore.subscribe``.
        """
        from ledger.read.life import LIFE, life_of

        stream, start = run_stream(run), 0
        if after >= 0:
            start = next(self.store.read(stream, after=after - 1, limit=1)).global_position
        life = life_of(each for each in self.store.read(stream, types=LIFE) if each.position <= after)
        for each in self.store.subscribe(after=start, stream=stream, poll=poll):
            yield each
            if each is not None:
                life.see(each)
            elif life.over:
                return
            elif life.process is not None and not self.lives(run, life.process):
                # Once more: the last events may have come between the look at the log and this one.
                self.recover()
                life.over = True

    def runs(self, *, where: str | None = None, sort: str | None = None, limit: int | None = None) -> list[RunSummary]:
        """Runs with the last value of each of their metrics, filtered and sorted as `ledger ls` does it.

        ``where`` is a condition such as ``val/loss < 2.1 and lr >= 1e-3 and status = completed``. ``sort`` is a metric,
        a configured value or a fact about the run, with a ``-`` before it for highest first; without it runs come in
        the order in which they started, and ``limit`` keeps the latest. Raises ``UsageError``.
        """
        return self.catalogue(where=where, sort=sort, limit=limit, all_metrics=True).runs

    def catalogue(
        self,
        *,
        where: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
        tag: str | None = None,
        all_metrics: bool = False,
    ) -> Catalogue:
        """What :meth:`runs` finds, with what it was asked by; of each run one metric, unless ``all_metrics``."""
        from ledger.read.catalogue import consult

        return consult(
            self.store.projections,
            self._living(),
            where=where,
            sort=sort,
            limit=limit,
            tag=tag,
            all_metrics=all_metrics,
        )

    def gpu_hours(self, *, by: By = "run", where: str | None = None) -> list[DeviceHours]:
        """Device time of all runs, or of those that ``where`` finds as in :meth:`runs`, with its cost.

        Grouped ``by`` run, user, project, or model: the task of a recipe, else the program that was started. Raises
        ``UsageError``.
        """
        from ledger.read.gpu_hours import account

        return account(self.store, self._living(), self.settings.prices, by=by, where=where)

    def names(self) -> dict[str, str]:
        """The name of each run by its UUID, in the order in which they started."""
        return {run_id(stream): name for stream, name in self.store.projections.run_names().items()}

    def origins(self, target: str | Path, progress: Progress | None = None) -> list[Origin]:
        """The checkpoints and artifacts that ``target`` is: a directory, a file, or a digest of 8 characters or more.

        Originals come before replays, which write the same bytes. Raises ``NotFound`` where nothing that a run of this
        ledger wrote has that content.
        """
        from ledger.read.targets import find_origins

        return find_origins(self._tracer(progress), self.hasher, target)

    def uses(self, target: str | Path, progress: Progress | None = None) -> list[Use]:
        """The data that runs read and that ``target``, as in :meth:`origins`, is, or is a file of; none where none."""
        from ledger.read.targets import find_uses

        return find_uses(self._tracer(progress), self.hasher, target)

    def ancestry(self, reference: str, progress: Progress | None = None) -> Ancestry:
        """A run, and through the checkpoints and artifacts that its data hold all the runs that it goes back to."""
        return self._tracer(progress).ancestry(self.find(reference), self.run)

    def impact(self, target: str, progress: Progress | None = None) -> Impact:
        """Every run that some data went into, also through checkpoints and artifacts of such runs.

        ``target`` is a URI (any version of it), a commit, a digest of 8 characters or more, or a path: a directory
        means the data that are all of it or, without such, those that hold a file of it. Raises ``NotFound``.
        """
        from ledger.read.targets import find_impact

        return find_impact(self._tracer(progress), self.hasher, target)

    def _tracer(self, progress: Progress | None) -> Tracer:
        from ledger.read.tracing import Tracer

        return Tracer(self.store, self.objects, progress)

    def lives(self, run: str, process: Process) -> bool:
        """Whether the writer of a run without an end lives.

        The process itself tells, where it can be seen, else its lease.
        """
        alive = self.alive(process)
        if alive is not None:
            return alive
        lease = self.store.lease(run_stream(run))
        return _believed(process.host, lease.left if lease else None)

    def _living(self) -> frozenset[str]:
        """Streams of the runs without an end whose writers live, as ``lives`` tells it."""
        living = set()
        for run in self.store.projections.unended():
            alive = self.alive(run)
            if _believed(run.host, run.lease) if alive is None else alive:
                living.add(run.stream)
        return frozenset(living)

    def alive(self, process: Process | Unended) -> bool | None:
        """Whether a process still runs; None for one that cannot be seen from here, as on another host."""
        return lives(process.pid, process.started) if process.host == HOST else None

    # --- writing ----------------------------------------------------------------------------------------------

    def append(
        self,
        run: str,
        *events: Event,
        writer: str = "ledger",
        rank: int | None = None,
        attempt: int | None = None,
        expected_version: int = ANY,
    ) -> list[Recorded]:
        """Append facts to the stream of the run with this UUID, all or none, and tell the plugins."""
        metadata = self.metadata(writer, rank=rank, attempt=attempt)
        drafts = [self.codec.draft(event, metadata) for event in events]
        return self.append_drafts(run_stream(run), drafts, expected_version=expected_version)

    def append_drafts(
        self,
        stream: str,
        drafts: Sequence[Draft],
        *,
        expected_version: int = ANY,
        span: JournalSpan | None = None,
    ) -> list[Recorded]:
        """Append what is encoded already, as ``EventStore.append`` does, and tell the plugins."""
        recorded = self.store.append(stream, drafts, expected_version=expected_version, span=span)
        self.plugins.events_appended(recorded)
        return recorded

    def recover(self) -> None:
        """Take over the journals that dead writers left on this host; what came of it is added to ``recovered``.

        A log that cannot be written leaves them where they are, for a command that can.
        """
        if not any(self.settings.journals.glob("*")):
            return
        from ledger.journal.carry import Recovered, recover

        try:
            self.recovered += recover(self.settings.journals, self.store, self.codec, self.metadata("ledger"))
        except LedgerError as error:
            self.recovered.append(Recovered(None, trouble=f"facts of dead writers still wait on this host: {error}"))

    def metadata(self, writer: str, *, rank: int | None = None, attempt: int | None = None) -> Metadata:
        """Who writes: this process."""
        return Metadata(writer, HOST, os.getpid(), __version__, rank, attempt)

    def checkpoints(self) -> CheckpointStore:
        """The store that checkpoints of this ledger go to."""
        return self.plugins.checkpoint_store(self.settings.checkpoints, self.settings)

    def require_checkpoint_place(self) -> None:
        """Raise ``Unavailable``, with the mend, where it can be told that no checkpoint could be stored now."""
        store = self.checkpoints()
        if isinstance(store, Probing):
            store.check()

    # --- life -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the log; calling it twice is fine."""
        self.store.close()

    def __enter__(self) -> Book:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _believed(host: str, lease: float | None) -> bool:
    """Whether a writer that cannot be seen is taken to live, by the seconds that its lease has left.

    One that has no lease yet has only just begun; if it is of this host's name, it died then.
    """
    return host != HOST if lease is None else lease > 0


def open_ledger(url: str | None = None, *, settings: Settings | None = None, plugins: Plugins | None = None) -> Book:
    """Open the ledger at ``url``, or the one that the command line would find from here.

    A ledger is created on first use. Raises ``StoreUnavailable`` where the log cannot be opened, ``SchemaMismatch``
    where an older or newer version of Ledger made it.
    """
    settings = settings or find_settings(url)
    book = Book(settings, plugins)
    _hide_from_git(settings)
    book.recover()
    return book


def _hide_from_git(settings: Settings) -> None:
    """Keep an embedded ledger's folder out of the user's `git status`, where that can be."""
    ignore = settings.home / ".gitignore"
    if ignore.parent.name == FOLDER and ignore.parent.is_dir() and not ignore.exists():
        with suppress(OSError):  # a ledger that may only be read is read
            ignore.write_text("*\n")


def this_process() -> Process:
    """The calling process, named for the log."""
    from ledger.events import Process

    pid = os.getpid()
    return Process(host=HOST, pid=pid, started=start_of(pid) or "")
