"""What a ledger keeps and nobody needs any more: found first, removed when that is asked for.

A digest that stands anywhere in any fact is needed, whatever the fact means by it, and so is all that a needed manifest
names. Facts are looked through after the things were listed; what is written or put again later keeps its place.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import unquote

from ledger.book import HOST
from ledger.errors import Conflict
from ledger.events import ArtifactWritten, CheckpointDeleted, CheckpointWritten, CodeCaptured, DataCommitted
from ledger.hooks.uris import local_path, without_credentials
from ledger.objects.places import TEMPORARY
from ledger.objects.store import digest_of, find_digests
from ledger.replay.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ledger.book import Book
    from ledger.events import Stored
    from ledger.objects.places import Lying
    from ledger.read.catalogue import RunSummary

PATIENCE_S: Final = 86_400.0
"""How old something is before it may go: who writes it will soon refer to it, or its fact waits in a journal."""
_MANIFESTS: Final = {CodeCaptured.type: "tree", DataCommitted.type: "digest", ArtifactWritten.type: "digest"}
"""Where facts name manifests by their digest."""
_OF_RUNS: Final = ("consoles", "resume", "saving")
"""Folders of the scratch directory in which all names begin with a run's UUID."""
_UUID: Final = 36
_THREADS: Final = 8


@dataclass(frozen=True)
class Waste:
    """Something that nobody needs."""

    place: Literal["objects", "checkpoints", "scratch"]
    name: str
    """Digest, URI or path."""
    bytes: int
    reason: str


@dataclass(frozen=True)
class _Mentions:
    """What the log and the journals of this host say about digests."""

    digests: frozenset[str]
    """Of those that were asked about."""
    manifests: frozenset[str]
    """Of these the ones that are manifests for sure."""
    kept: frozenset[str]
    """Digests of checkpoints that were written and not deleted."""
    deleted: frozenset[tuple[str, str]]
    """URI and digest of checkpoints whose deletion is on record."""


class Garbage:
    """One look through a ledger.

    ``older_than`` is in seconds. ``unshared`` says that no other ledger keeps things in the same places; of places in
    this ledger's own folder that is known. Nothing is removed unless ``apply``.
    """

    def __init__(
        self, book: Book, *, apply: bool = False, older_than: float = PATIENCE_S, unshared: bool = False
    ) -> None:
        self._book = book
        self._apply = apply
        self._before = time.time() - older_than
        self._unshared = unshared
        self._store = book.checkpoints()
        self.notes: list[str] = []
        """What was left alone, and why; complete once ``waste`` has ended."""

    def waste(self) -> Iterator[Waste]:
        """What nobody needs, removed before it is told where that was asked for.

        Raises ``DigestMismatch`` where a manifest is damaged: then it is not known what it names. Raises what the
        stores raise; what was told until then is gone.
        """
        book = self._book
        lying = book.objects.lying() if self._ours("objects", book.settings.objects) else []
        stored = list(self._store.list(""))
        asked = {digest for each in lying if (digest := digest_of(each.key))} | {each.digest for each in stored}
        runs = {run.name: run for run in book.catalogue().runs}
        self._warn_of_far_journals(runs.values())
        mentions = self._mentions(asked)
        yield from self._objects(lying, mentions)
        yield from self._checkpoints(stored, mentions, runs)
        yield from self._leftovers_of_the_store()
        yield from self._scratch({run.id: run for run in runs.values()})

    # --- what is needed ---------------------------------------------------------------------------------------

    def _mentions(self, asked: set[str]) -> _Mentions:
        """Those of ``asked`` that any fact mentions, in the log or still in a journal."""
        mentioned: set[str] = set()
        manifests: set[str] = set()
        kept: dict[tuple[str, str], bool] = {}
        for journal in self._book.settings.journals.glob("*"):
            with suppress(FileNotFoundError):  # carried into the log meanwhile, which is read after it
                mentioned |= find_digests(journal.read_bytes()) & asked
        for recorded in self._book.store.read_all():
            found = find_digests(recorded.payload) & asked
            if not found:
                continue
            mentioned |= found
            if named := _MANIFESTS.get(recorded.type):
                manifests.add(json.loads(recorded.payload).get(named, ""))
            elif recorded.type in (CheckpointWritten.type, CheckpointDeleted.type):
                payload = json.loads(recorded.payload)
                kept[payload["uri"], payload["digest"]] = recorded.type == CheckpointWritten.type
        return _Mentions(
            digests=frozenset(mentioned),
            manifests=frozenset(manifests & mentioned),
            kept=frozenset(digest for (_, digest), still in kept.items() if still),
            deleted=frozenset(name for name, still in kept.items() if not still),
        )

    def _warn_of_far_journals(self, runs: Iterable[RunSummary]) -> None:
        """Name the runs that were cut off elsewhere: their last words may wait in a journal there."""
        far = {run.host for run in runs if run.status == "interrupted" and run.ended_at is None} - {HOST}
        if far:
            hosts = ", ".join(sorted(far))
            self.notes.append(f"runs were cut off on {hosts}: a command of Ledger there brings in what they still said")

    def _ours(self, what: str, url: str) -> bool:
        """Whether all that lies at ``url`` is this ledger's."""
        if self._unshared:
            return True
        place, database = local_path(url), _database(self._book.settings.url)
        if place and database and place.is_relative_to(database.parent):
            others = {path for path in database.parent.glob("*.db") if path != database}
            if not others:
                return True
        shown = without_credentials(url)
        self.notes.append(f"{what} at {shown} may be another ledger's, too, and stay: --unshared says they are not")
        return False

    # --- objects ----------------------------------------------------------------------------------------------

    def _objects(self, lying: list[Lying], mentions: _Mentions) -> Iterator[Waste]:
        by_digest = {digest: each for each in lying if (digest := digest_of(each.key))}
        # Young ones are kept, and what they name with them: a run that is starting has not mentioned them yet.
        needed = {d for d, each in by_digest.items() if d in mentions.digests or not self._old(each.since)}
        with ThreadPoolExecutor(_THREADS) as pool:
            for named in pool.map(partial(self._named_by, manifests=mentions.manifests), list(needed)):
                needed |= named
        waste = {
            each.key: Waste("objects", digest, each.bytes, "no fact refers to it")
            for digest, each in by_digest.items()
            if digest not in needed and self._old(each.since)
        }
        waste |= {
            each.key: Waste("objects", each.key, each.bytes, "its writing was never finished")
            for each in lying
            if each.key.startswith(f"{TEMPORARY}/") and self._old(each.since)
        }
        if unknown := sum(each.since is None for each in lying):
            self.notes.append(f"{unknown} objects stay: their place does not tell how old they are")
        gone = self._book.objects.remove(waste, before=self._before) if self._apply else waste
        yield from (waste[key] for key in gone)

    def _named_by(self, digest: str, *, manifests: frozenset[str]) -> frozenset[str]:
        if digest in manifests:
            return frozenset(entry.digest for entry in self._book.objects.get_manifest(digest).entries)
        return self._book.objects.named_by(digest)

    # --- checkpoints ------------------------------------------------------------------------------------------

    def _checkpoints(
        self, stored: Iterable[Stored], mentions: _Mentions, runs: dict[str, RunSummary]
    ) -> Iterator[Waste]:
        """Checkpoints that no fact mentions, as their writer died before it could, and those that should be gone."""
        unmentioned: dict[str, Stored] = {}
        foreign: list[str] = []
        far: set[str] = set()
        for each in stored:
            run = runs.get(_run_name(each.uri))
            deleted = (each.uri, each.digest) in mentions.deleted and each.digest not in mentions.kept
            if each.digest in mentions.digests and not deleted:
                continue
            if run is None:
                foreign.append(each.uri)
            elif run.status == "running":
                continue
            elif deleted:
                yield self._without(each, "its deletion is on record")
            elif run.host == HOST:
                unmentioned[each.uri] = each
            else:
                far.add(run.host)
        if foreign:
            more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
            self.notes.append(f"{foreign[0]}{more} stays: this ledger knows no run of that name")
        if far:
            self.notes.append(f"checkpoints that no fact mentions stay until this is run on {', '.join(sorted(far))}")
        if unmentioned and self._ours("checkpoints", self._book.settings.checkpoints):
            yield from (self._without(each, "no fact mentions it") for each in unmentioned.values())

    def _without(self, stored: Stored, reason: str) -> Waste:
        if self._apply:
            self._store.delete(stored)
        return Waste("checkpoints", stored.uri, stored.stored_bytes, reason)

    def _leftovers_of_the_store(self) -> Iterator[Waste]:
        try:
            for found in self._store.sweep(dry=not self._apply):
                yield Waste("checkpoints", found.path, found.bytes, found.reason)
        except Conflict as error:  # trainings write all the time: the next look finds the same
            self.notes.append(str(error))

    # --- scratch ----------------------------------------------------------------------------------------------

    def _scratch(self, runs: dict[str, RunSummary]) -> Iterator[Waste]:
        """What processes that were killed have left on this host."""
        scratch = self._book.settings.scratch
        for folder in _OF_RUNS:
            for path in _inside(scratch / folder):
                run = runs.get(path.name[:_UUID])
                if run is not None and run.status != "running":
                    yield from self._leftover(path, "its run has ended", _remove)
        busy = [Path(self._book.run(run.id).started.directory) for run in runs.values() if run.status == "running"]
        for path in _inside(scratch / "replays"):
            if not any(directory.is_relative_to(path) for directory in busy):
                yield from self._leftover(path, "its replay has ended", _discard)
        for path in scratch.glob("verify-*"):
            yield from self._leftover(path, "its check has ended", _remove)

    def _leftover(self, path: Path, reason: str, remove: Callable[[Path], None]) -> Iterator[Waste]:
        try:
            size, since = _measured(path)
        except FileNotFoundError:  # whoever left it, or another look, has just removed it
            return
        if self._old(since):
            if self._apply:
                remove(path)
            yield Waste("scratch", str(path), size, reason)

    def _old(self, since: float | None) -> bool:
        return since is not None and since <= self._before


def _database(url: str) -> Path | None:
    """The file of an embedded ledger."""
    path = url.removeprefix("sqlite:///")
    return Path(path) if path != url else None


def _run_name(uri: str) -> str:
    """The run that wrote a checkpoint: ``…/run-7/step-500`` or ``…/run-7/attempt-2/step-500``."""
    *_, above, folder, _ = ["", "", *unquote(uri).split("/")]
    return above if folder.startswith("attempt-") else folder


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _measured(path: Path) -> tuple[int, float]:
    """Size of all that is at and below ``path``, and the last time that any of it changed."""
    size, newest = 0, path.lstat().st_mtime
    for directory, _, names in os.walk(path):
        for place in (directory, *(os.path.join(directory, name) for name in names)):
            with suppress(FileNotFoundError):
                status = os.lstat(place)
                size += status.st_size if place != directory else 0
                newest = max(newest, status.st_mtime)
    return size if path.is_dir() else path.lstat().st_size, newest


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _discard(path: Path) -> None:
    """Remove a workspace, with the note that its repository has of it."""
    worktree = next((place.parent for place in path.rglob(".git") if place.is_file()), None)
    Workspace(path, worktree, _repository(worktree) if worktree else None).discard()


def _repository(worktree: Path) -> Path:
    """The repository that a worktree belongs to: its ``.git`` says ``gitdir: REPOSITORY/worktrees/NAME``."""
    return Path((worktree / ".git").read_text().removeprefix("gitdir:").strip()).parent.parent
