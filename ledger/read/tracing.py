"""What holds the same files: looked up in the log, its projections and the manifests that lie beside it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

from ledger.events import (
    ArtifactWritten,
    CheckpointDeleted,
    CheckpointWritten,
    DataCommitted,
    TrainingResumed,
)
from ledger.read.contents import Contents, beginning
from ledger.read.lineage import (
    Affected,
    Ancestry,
    Cause,
    Descent,
    Impact,
    Origin,
    Use,
    files_of,
    origin,
    product,
    spread,
)
from ledger.store.base import run_id, run_stream
from ledger.store.projections.query import RunQuery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ledger.objects import ObjectStore
    from ledger.read.contents import Progress
    from ledger.read.state import RunState
    from ledger.store.base import EventStore
    from ledger.store.projections.query import WrittenCheckpoint

_BATCH: Final = 4096
"""Digests in one question to the projections."""
_WRITTEN: Final = (CheckpointWritten.type, ArtifactWritten.type, CheckpointDeleted.type, TrainingResumed.type)


class Tracer:
    """One look through a ledger.

    What cannot be looked into is said in ``gaps``, once for each thing, and taken to hold nothing but itself.
    """

    def __init__(self, store: EventStore, objects: ObjectStore, progress: Progress | None = None) -> None:
        self._store = store
        self._progress = progress or (lambda _what, _done, _total: None)
        self._contents = Contents(objects, self._progress)
        self._known: dict[WrittenCheckpoint, Origin] = {}
        """Remembered: along a chain every run finds the same ones again that hold, say, the vocabulary."""
        self._in_artifacts: dict[str, frozenset[str]] = {}
        """Digests in the manifests of the artifacts that were looked into."""

    @property
    def gaps(self) -> list[str]:
        """What could not be looked into, and why."""
        return sorted(self._contents.gaps.values())

    # --- what was asked about ---------------------------------------------------------------------------------

    def origins(self, digests: Iterable[str]) -> list[Origin]:
        """Checkpoints and artifacts with one of these digests, as a whole or in a file; a digest may be shortened.

        Originals before replays, else as they were written.
        """
        digests = [digest.lower() for digest in digests]
        self._read_artifacts()
        found = [
            *self._checkpoints(digests),
            *(o for each in self._artifacts for o in self._in_artifact(each, digests)),
        ]
        return sorted(found, key=lambda o: (o.run_id in self._replays, o.position))

    def uses(self, digests: Iterable[str]) -> list[Use]:
        """Data sets that hold a file with one of these digests, or have it as a whole; a digest may be shortened."""
        digests = [digest.lower() for digest in digests]
        meant = {whole: beginning(names, digests) for whole, names in self._contents.each(self._data, "data sets")}
        found = (self._part(use, meant[use.data.digest]) for use in self._uses)
        return [use for use in found if use]

    # --- backward ---------------------------------------------------------------------------------------------

    def ancestry(self, run: str, read: Callable[[str], RunState]) -> Ancestry:
        """The run with this UUID and all whose checkpoints or artifacts went into it; ``read`` gives a run by UUID."""
        found, waiting = Ancestry(), [run]
        while waiting:
            uuid = waiting.pop(0)
            if uuid in found.runs:
                continue
            found.runs[uuid] = read(uuid)
            for use in self._uses_of(uuid, found.runs[uuid].name):
                descents = list(self._descents(use))
                found.descents += descents
                waiting += [descent.origin.run_id for descent in descents]
        found.gaps = self.gaps
        return found

    def _uses_of(self, uuid: str, name: str) -> list[Use]:
        """The latest commit of each data set of a run, as ``RunState`` has it."""
        facts = self._store.read(run_stream(uuid), types=(DataCommitted.type,))
        latest = {e.event.name: (e, e.event) for e in facts if isinstance(e.event, DataCommitted)}
        return [Use(uuid, name, data, e.global_position, e.metadata.host) for e, data in latest.values()]

    def _descents(self, use: Use) -> Iterator[Descent]:
        """What the data hold that other runs made: of each file one writer, first whoever wrote most of them."""
        names = self._contents.of(use.data.digest, _data_of(use))
        writers = [o for o in self._writers(names) if o.position < use.position and o.run_id != use.run_id]
        made = names & self._made(writers)
        for writer, own in self._shared_out(use, writers, made):
            if part := self._part(use, own):
                yield Descent(part, writer)

    def _writers(self, names: frozenset[str]) -> list[Origin]:
        """All that hold one of these files, in the order of the log."""
        self._read_artifacts()
        found = [*self._checkpoints(sorted(names)), *(o for o in self._artifacts if self._files(o) & names)]
        return [writer for _, writer in sorted({o.position: o for o in found}.items())]

    def _made(self, writers: Iterable[Origin]) -> frozenset[str]:
        """Of the files of these, in the order of the log, those that the first to write them had not read before."""
        seen: set[str] = set()
        made: set[str] = set()
        for writer in writers:
            if new := self._files(writer) - seen:
                seen |= new
                made |= new - self._passed_on(writer, new)
        return frozenset(made)

    def _shared_out(
        self, use: Use, writers: Sequence[Origin], made: frozenset[str]
    ) -> Iterator[tuple[Origin, frozenset[str]]]:
        """Each of ``made`` with one writer: of equally good ones an original, else the first."""
        left = made
        for writer in sorted(writers, key=lambda o: self._rank(use, o, made)):
            if own := left & self._files(writer):
                own = own - self._passed_on(writer, own)
                left = left - own
                yield writer, own

    def _rank(self, use: Use, writer: Origin, made: frozenset[str]) -> tuple[bool, int, bool, int]:
        files = self._files(writer)
        return use.data.digest not in files, -len(files & made), writer.run_id in self._replays, writer.position

    def _passed_on(self, writer: Origin, digests: frozenset[str]) -> frozenset[str]:
        """Those of these digests that the run had read itself before it wrote this; what it reads later, it may have
        made.
        """
        uses = [use for use in self._uses_of(writer.run_id, writer.run) if use.position < writer.position]
        return frozenset().union(*(digests & self._contents.of(use.data.digest, _data_of(use)) for use in uses))

    # --- forward ----------------------------------------------------------------------------------------------

    def impact(self, meant: Callable[[DataCommitted], bool], digests: Sequence[str] = ()) -> Impact:
        """Every run that read data which are ``meant``, or hold a file with one of ``digests``, and what followed."""
        direct = [use for use in self._uses if meant(use.data)]
        wholly = {use.position for use in direct}
        direct += [use for use in self.uses(digests) if use.position not in wholly] if digests else []
        impact = Impact(commits={use.data.digest: use.data for use in direct})
        causes = [(use.run_id, use.run, Cause(use)) for use in direct]
        spread(impact, causes, self._replays_of(), self._follow)
        impact.gaps = self.gaps
        return impact

    def _follow(self, new: list[Affected]) -> Iterator[tuple[str, str, Cause]]:
        """Who read what these runs wrote."""
        for done, affected in enumerate(new, 1):
            self._fill(affected)
            self._progress("runs", done, len(new))
        by_digest: dict[str, list[Origin]] = defaultdict(list)
        for writer in (each for affected in new for each in affected.written):
            for digest in self._files(writer):
                by_digest[digest].append(writer)
        if not by_digest:
            return
        held = {whole: names.intersection(by_digest) for whole, names in self._contents.each(self._data, "data sets")}
        for use in self._uses:
            yield from self._caused(use, by_digest, held[use.data.digest])

    def _caused(
        self, use: Use, by_digest: dict[str, list[Origin]], hit: frozenset[str]
    ) -> Iterator[tuple[str, str, Cause]]:
        """Why this use is one of what affected runs made: of each file, one that wrote it."""
        writers = {o.position: o for digest in hit for o in by_digest[digest]}
        earlier = [o for o in writers.values() if o.position < use.position and o.run_id != use.run_id]
        for writer, own in self._shared_out(use, earlier, hit):
            if part := self._part(use, own):
                yield use.run_id, use.run, Cause(part, writer)

    def _fill(self, affected: Affected) -> None:
        """What the run wrote, and how often it went on."""
        deleted = set()
        for recorded in self._store.read(run_stream(affected.run_id), types=_WRITTEN):
            match recorded.event:
                case CheckpointDeleted() as gone:
                    deleted.add((gone.uri, gone.digest))
                case TrainingResumed() as resumed:
                    affected.attempts = max(affected.attempts, resumed.attempt)
                case CheckpointWritten() | ArtifactWritten():
                    affected.written.append(product(recorded, affected.run))
        affected.deleted = frozenset(deleted)

    def _replays_of(self) -> dict[str, list[tuple[str, str]]]:
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for uuid, original in self._replays.items():
            found[original].append((uuid, self._name(run_stream(uuid))))
        return found

    # --- the log, read once -----------------------------------------------------------------------------------

    def _name(self, stream: str) -> str:
        """Of a run, which may have started since the names were read."""
        if stream not in self._run_names:
            self._run_names = self._store.projections.run_names()
        return self._run_names[stream]

    @cached_property
    def _run_names(self) -> dict[str, str]:
        return self._store.projections.run_names()

    @cached_property
    def _replays(self) -> dict[str, str]:
        """UUID of the original by that of the replay."""
        runs = self._store.projections.runs(RunQuery())
        return {run.id: run.replay_of for run in runs if run.replay_of}

    @cached_property
    def _uses(self) -> list[Use]:
        """All data that any run ever read."""
        return [
            Use(run_id(e.stream), self._name(e.stream), e.event, e.global_position, e.metadata.host)
            for e in self._store.read_all(types=(DataCommitted.type,))
            if isinstance(e.event, DataCommitted)
        ]

    @cached_property
    def _artifacts(self) -> list[Origin]:
        """All artifacts that any run ever wrote."""
        facts = self._store.read_all(types=(ArtifactWritten.type,))
        return [product(e, self._name(e.stream)) for e in facts if isinstance(e.event, ArtifactWritten)]

    def _checkpoints(self, digests: list[str]) -> Iterator[Origin]:
        for start in range(0, len(digests), _BATCH):
            for match in self._store.projections.checkpoints(digests[start : start + _BATCH]):
                yield self._origin(match)
            self._progress("files looked up", min(start + _BATCH, len(digests)), len(digests))

    def _origin(self, match: WrittenCheckpoint) -> Origin:
        if match not in self._known:
            self._known[match] = origin(match, *self._store.read_all(after=match.position - 1, limit=1))
        return self._known[match]

    # --- manifests --------------------------------------------------------------------------------------------

    @cached_property
    def _data(self) -> dict[str, str]:
        """All data that any run ever read, by digest, with what to call them."""
        return {use.data.digest: _data_of(use) for use in self._uses}

    def _read_artifacts(self) -> None:
        wanted = {
            o.written.digest: _artifact_of(o) for o in self._artifacts if o.written.digest not in self._in_artifacts
        }
        self._in_artifacts.update(self._contents.each(wanted, "artifacts"))

    def _files(self, writer: Origin) -> frozenset[str]:
        """Digests that data may hold the checkpoint or artifact under."""
        whole = writer.written.digest
        if writer.checkpoint is None and whole not in self._in_artifacts:
            self._in_artifacts[whole] = self._contents.of(whole, _artifact_of(writer))
        return files_of(writer.written, self._in_artifacts.get(whole, frozenset()))

    def _in_artifact(self, artifact: Origin, digests: list[str]) -> Iterator[Origin]:
        """The artifact, if it or one of its files has one of these digests."""
        meant = beginning(self._files(artifact), digests)
        if artifact.written.digest in meant:
            yield artifact
        elif files := self._contents.paths(artifact.written.digest, meant):
            yield replace(artifact, file=files[0])

    def _part(self, use: Use, meant: frozenset[str]) -> Use | None:
        """What of the data has one of these digests: all of them, some files, or nothing."""
        if use.data.digest in meant:
            return use
        files = self._contents.paths(use.data.digest, meant)
        return replace(use, files=files) if files else None


def _data_of(use: Use) -> str:
    return f"data {use.data.uri} of {use.run}"


def _artifact_of(writer: Origin) -> str:
    return f"artifact {writer.name} of {writer.run}"
