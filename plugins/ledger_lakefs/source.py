"""The data source behind ``lakefs:`` URIs.

``lakefs://corpus/main/clean/`` is what lies below ``clean/`` at the last commit of the branch ``main``; a tag, the id
of a commit and expressions such as ``main~1`` are understood, too, and a path without a final slash may name a
single object. Percent-encoding in the path is decoded; a question mark in a name is written ``%3F``. Options:
``?commit=MESSAGE`` commits what is uncommitted on the branch before it is pinned, ``?keep=no`` keeps no copy of what
is read to be digested.

What a pin costs: lakeFS knows no SHA-256, so each object is read once, in full, the first time that this ledger's
scratch directory sees it. What was read is kept there until ``fetch`` moves it to where it is wanted: a run that is
started and read on one machine downloads each byte once. Pinning unchanged objects again reads none of them.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson

from ledger import Entry, Manifest, __version__
from ledger.codec import canonical_json
from ledger.errors import DataUnavailable, IntegrityError, ObjectNotFound, Unavailable, UsageError, some
from ledger.events import DataCommit
from ledger.files import appearing
from ledger.hooks.ports import Availability
from ledger.objects.kept import Digests, Kept, Seen, digest_of, write
from ledger_lakefs.access import find_access
from ledger_lakefs.lake import Lake
from ledger_lakefs.server import THREADS, Server
from ledger_lakefs.uris import Asked, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from lakefs_sdk.models import Commit

    from ledger import ObjectStore
    from ledger_lakefs.lake import Object

_SHOWN: Final = 5
_PROBES: Final = 16
"""Objects of which ``check`` reads a byte: enough to see that a garbage collection went through them."""
_Done = TypeVar("_Done")
_EMPTY: Final = hashlib.sha256().hexdigest()


class UncommittedData(DataUnavailable):
    """The branch holds changes that are not committed: nothing immutable to pin."""


class LakefsSource:
    """A ``DataSource``: the commit is lakeFS's, the digest that of the manifest, which is kept as an object."""

    name = "lakefs"
    version = __version__

    def __init__(self, objects: ObjectStore, scratch: Path) -> None:
        self._objects = objects
        self._scratch = scratch
        self._kept = Kept(scratch / "content")

    def pin(self, uri: str) -> DataCommit:
        """See ``DataSource``. Raises ``UncommittedData`` where the branch holds changes at that path."""
        asked = Asked.parse(uri)
        commit = self._commit(asked)
        place = Place(asked.repository, commit.id, asked.path)
        if not place.is_directory and not self._lake.is_file(place):
            place = replace(place, path=f"{place.path}/")
        found = self._list(place)
        manifest = self._digest(place, found, keep=asked.keep)
        if not manifest.files:
            raise DataUnavailable(
                f"there are no files at {asked.path or 'the root'} in {asked.ref} of the repository {asked.repository}",
                mend="check the path with `lakectl fs ls`, and that the data are committed",
            )
        self._objects.put_bytes(manifest.content)
        return DataCommit(
            uri=uri,
            commit=commit.id,
            path=str(place),
            digest=manifest.digest,
            files=manifest.files,
            bytes=manifest.bytes,
            details={
                "endpoint": self._lake.endpoint,
                "repository": asked.repository,
                "ref": asked.ref,
                "message": commit.message,
                "committer": commit.committer,
                "created": commit.creation_date,
                "metadata": commit.metadata or {},
                "checksums": self._objects.put_bytes(canonical_json({each.name: each.checksum for each in found})),
            },
        )

    def commit(self, uri: str, message: str) -> None:
        """See ``Committing``."""
        self._commit_changes(Asked.parse(uri), message)

    def fetch(self, commit: DataCommit, dest: Path) -> None:
        """See ``DataSource``; what ``pin`` has read on this machine is moved, the rest comes from lakeFS."""
        if os.path.lexists(dest):
            raise UsageError(f"{dest} exists already", mend="name a path that does not")
        place = Place.parse(commit.path)
        found = self._list(place)
        pinned = self._pinned(commit)
        digests = {entry.path: entry.digest for entry in pinned.entries} if pinned else {}
        with appearing(dest) as root:
            manifest = _manifest(found, list(self._each(partial(self._place, place, root, digests), _files(found))))
            for entry in manifest.entries:
                if entry.mode == "directory":
                    (root / entry.path).mkdir(parents=True)
            if manifest.digest != commit.digest:
                raise DataUnavailable(
                    some(f"{place} is no longer what was pinned:", pinned.changes(manifest))
                    if pinned
                    else f"{place} is no longer what was pinned; its manifest is gone, so what changed cannot be named",
                    mend="somebody changed the data behind lakeFS: put them back, or start a new run on what is there",
                )

    def open(self, commit: DataCommit) -> tuple[Any, str]:
        """See ``DataSource``; a read-only file system of this one commit, which asks the server when it is read."""
        from ledger_lakefs.filesystem import CommitFileSystem

        find_access(os.environ)
        place = Place.parse(commit.path)
        return CommitFileSystem(place.repository, place.commit), str(place).removeprefix("lakefs://").rstrip("/")

    def check(self, commit: DataCommit) -> Availability:
        """See ``DataSource``; lists the objects and reads a byte of some of them."""
        place = Place.parse(commit.path)
        try:
            found = self._list(place)
            changes = self._changes(commit, found)
            if changes:
                return Availability(False, some(f"{place} is no longer what was pinned:", changes))
            probed = [each for each in _files(found) if each.bytes]
            probed = probed[:: max(1, len(probed) // _PROBES)][:_PROBES]
            for _ in self._each(lambda each: self._lake.read(place, each, 0, 1), probed):
                pass
        except Unavailable as error:
            return Availability(False, f"{error}: {error.mend}" if error.mend else str(error))
        return Availability(True)

    @cached_property
    def _lake(self) -> Lake:
        return Lake(Server(find_access(os.environ)))

    def _commit(self, asked: Asked) -> Commit:
        if asked.message is not None:
            self._commit_changes(asked, asked.message)
        else:
            self._refuse_changes(asked)
        return self._lake.commit_at(asked.repository, asked.ref)

    def _changes_on_branch(self, asked: Asked) -> list[str]:
        """The first few that are uncommitted at the path."""
        if not asked.may_be_branch or not self._lake.is_branch(asked.repository, asked.ref):
            return []
        return list(islice(self._lake.uncommitted(asked.repository, asked.ref, asked.path), _SHOWN + 1))

    def _commit_changes(self, asked: Asked, message: str) -> None:
        if not self._changes_on_branch(asked):
            return
        try:
            self._lake.commit(asked.repository, asked.ref, message)
        except DataUnavailable:  # of several runs that are started together, one is the first
            if self._changes_on_branch(asked):
                raise

    def _refuse_changes(self, asked: Asked) -> None:
        changes = self._changes_on_branch(asked)
        if changes:
            more = " and more" if len(changes) > _SHOWN else ""
            raise UncommittedData(
                f"the branch {asked.ref} of the repository {asked.repository} holds changes that are not "
                f"committed: {', '.join(changes[:_SHOWN])}{more}",
                mend='commit them first: --commit "message" does it (in a program, ?commit=MESSAGE at the end of the '
                f"URI), or take the last commit as it is: lakefs://{asked.repository}/{asked.ref}@/{asked.path}",
            )

    def _list(self, place: Place) -> list[Object]:
        """The objects of a place. Raises ``DataUnavailable`` where their names are none that files can have."""
        found = list(self._lake.objects(place))
        try:
            _manifest(found, [_EMPTY] * len(_files(found)))
        except IntegrityError as error:
            raise DataUnavailable(
                f"{place} cannot be had as files: {error}", mend="rename the object in lakeFS, or pin a part without it"
            ) from error
        return found

    def _digest(self, place: Place, found: list[Object], *, keep: bool) -> Manifest:
        digests = Digests(self._scratch / "digests.db", self._lake.endpoint)
        files = _files(found)
        known = digests.known(map(_seen, files))
        unknown = [each for each in files if _seen(each) not in known]
        self._kept.discard_stale()
        take = self._kept.put if keep else digest_of
        read = {}
        try:
            digested = self._each(lambda each: take(self._lake.chunks(place, each)), unknown)
            for each, digest in zip(unknown, digested, strict=True):
                read[_seen(each)] = digest
        finally:  # the next try goes on where this one was interrupted
            digests.add(read)
        known |= read
        return _manifest(found, [known[_seen(each)] for each in files])

    def _place(self, place: Place, root: Path, digests: dict[str, str], each: Object) -> str:
        """Bring one object to where it belongs, and return the digest of what is there then."""
        target = root / each.name if place.is_directory else root
        target.parent.mkdir(parents=True, exist_ok=True)
        pinned = digests.get(each.name)
        if pinned and self._kept.take(pinned, target):
            return pinned
        return write(self._lake.chunks(place, each), target)

    def _each(self, work: Callable[[Object], _Done], items: Sequence[Object]) -> Iterator[_Done]:
        """What ``work`` makes of each item, in order, several at a time."""
        with ThreadPoolExecutor(THREADS) as pool:
            yield from pool.map(work, items)

    def _pinned(self, commit: DataCommit) -> Manifest | None:
        try:
            return self._objects.get_manifest(commit.digest)
        except ObjectNotFound:
            return None

    def _changes(self, commit: DataCommit, found: list[Object]) -> list[str]:
        """How what lakeFS lists differs from what it listed for the pin."""
        try:
            before = orjson.loads(self._objects.get_bytes(commit.details["checksums"]))
        except ObjectNotFound:
            return []  # fetch compares the bytes themselves
        now = {each.name: each.checksum for each in found}
        words = {(True, False): "missing", (False, True): "new", (True, True): "changed"}
        return [
            f"{words[name in before, name in now]} {name}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]


def _seen(each: Object) -> Seen:
    # lakeFS never writes to an address twice. An object that was imported lies where others can write: what they
    # change shows when it is fetched, and as another checksum when it is imported again.
    return Seen(each.address, each.checksum, each.bytes)


def _files(found: Sequence[Object]) -> list[Object]:
    """All but the empty objects that S3's tools write to stand for a directory."""
    return [each for each in found if not each.path.endswith("/")]


def _manifest(found: Sequence[Object], digests: Sequence[str]) -> Manifest:
    """The manifest that a directory with these objects as files will have; ``digests`` are those of the files."""
    files = _files(found)
    names = {each.name for each in files}
    entries = [Entry(each.name, digest, each.bytes) for each, digest in zip(files, digests, strict=True)]
    folders = sorted({each.name.rstrip("/") for each in found if each.path.endswith("/")} - {""}, reverse=True)
    for folder in folders:  # the deeper ones first: a directory that holds another is not empty
        if not any(name.startswith(f"{folder}/") for name in names):
            names.add(folder)
            entries.append(Entry(folder, _EMPTY, 0, "directory"))
    return Manifest.of(entries)
