"""One ledger, opened: its log, its objects, its plugins and its settings, and the questions one asks it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from ledger import __version__
from ledger.codec import Codec, Metadata
from ledger.errors import LedgerError, NotFound, RunNotFound
from ledger.events import Process
from ledger.hooks.manager import Plugins, load_plugins
from ledger.journal.carry import Recovered, recover
from ledger.objects import ObjectStore
from ledger.objects.hashing import Hasher
from ledger.read.catalogue import LINEAGE_TYPES, TYPES, RunSummary, summarise
from ledger.read.lineage import Origin, origins
from ledger.read.state import RunState, fold
from ledger.settings import FOLDER, Settings, find_settings
from ledger.store import open_store
from ledger.store.base import ANY, run_id, run_stream

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from ledger.codec import Draft, Recorded
    from ledger.events import Event
    from ledger.hooks.ports import CheckpointStore
    from ledger.store.base import EventStore, JournalSpan

HOST: Final = socket.gethostname()


class Book:
    """An open ledger. Use it as a context manager, or close it."""

    def __init__(self, settings: Settings, store: EventStore, plugins: Plugins, codec: Codec) -> None:
        self.settings = settings
        self.store = store
        self.plugins = plugins
        self.codec = codec
        self.objects = ObjectStore(settings.objects, scratch=settings.scratch)
        self.hasher = Hasher(settings.scratch / "hashes.db")
        self.recovered: list[Recovered] = []
        """What has become of journals that dead writers left on this host."""

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
        """Everything that is known about a run. One whose writer is dead, though it never said so, is interrupted."""
        state = fold(self.store.read(run_stream(self.find(reference))))
        if state.status == "running" and not self.lives(state.id, state.attempt.process):
            state.status = "interrupted"
        return state

    def runs(self) -> list[RunSummary]:
        """All runs in the order in which they started."""
        return self._summaries(TYPES)

    def origins(self, target: str | Path) -> list[Origin]:
        """The runs that produced ``target``: a checkpoint directory, a file of one, or a digest.

        Raises ``NotFound`` where no checkpoint in this ledger has that content.
        """
        path = Path(target)
        digests = self._digests(path) if path.exists() else [str(target)]
        found = origins(self._summaries(LINEAGE_TYPES), digests)
        if not found:
            raise NotFound(
                f"no run of this ledger wrote {target} (digest {digests[-1][:12]}…)",
                mend="it was made elsewhere, or altered since: even one changed byte makes another digest",
            )
        return found

    def lives(self, run: str, process: Process) -> bool:
        """Whether the writer of a run without an end lives.

        On this host the process itself tells. Of one on another host its lease does; without one it is believed.
        """
        alive = self.alive(process)
        if alive is not None:
            return alive
        lease = self.store.lease(run_stream(run))
        return lease is None or lease.left > 0

    def alive(self, process: Process) -> bool | None:
        """Whether a process still runs; None for one on another host, which cannot be seen from here."""
        if process.host != HOST:
            return None
        try:
            found = psutil.Process(process.pid)
            # A pid is used again in time, and the operating system rounds the time of a start.
            same = abs(found.create_time() - process.started) < 1
            return bool(same and found.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True

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

    def _summaries(self, types: tuple[str, ...]) -> list[RunSummary]:
        runs = summarise(self.store.read_all(types=types))
        for run in runs:
            if run.status == "running" and not self.lives(run.id, run.process):
                run.status = "interrupted"
        return runs

    def _digests(self, path: Path) -> list[str]:
        """Digests that content on disk may be known under, without what a checkpoint store adds beside it."""
        manifest = self.hasher.tree(path)
        content = type(manifest).of(e for e in manifest.entries if e.path != "manifest.json")
        whole = [content.digest, manifest.digest]
        return whole + ([manifest.entries[0].digest] if path.is_file() else [])


def open_ledger(url: str | None = None, *, settings: Settings | None = None, plugins: Plugins | None = None) -> Book:
    """Open the ledger at ``url``, or the one that the command line would find from here.

    An embedded ledger is created, or upgraded, on first use. Raises ``StoreUnavailable`` where the log cannot be
    opened, ``SchemaMismatch`` where it is newer than this version of Ledger.
    """
    settings = settings or find_settings(url)
    plugins = plugins or load_plugins(settings)
    codec = Codec(plugins.event_types())
    book = Book(settings, open_store(settings.url, codec), plugins, codec)
    _hide_from_git(settings)
    book.recover()
    return book


def _hide_from_git(settings: Settings) -> None:
    """Keep an embedded ledger's folder out of the user's `git status`, where that can be."""
    ignore = settings.scratch.parent / ".gitignore"
    if ignore.parent.name == FOLDER and ignore.parent.is_dir() and not ignore.exists():
        with suppress(OSError):  # a ledger that may only be read is read
            ignore.write_text("*\n")


def this_process() -> Process:
    """The calling process, named for the log."""
    return Process(host=HOST, pid=os.getpid(), started=psutil.Process().create_time())
