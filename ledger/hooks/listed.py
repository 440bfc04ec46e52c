"""A ``DataSource`` over a service that lists files and gives their bytes. A whole one, but for its ``Listing``::

    class MySource(ListedSource):
        name, version = "mine", "1.0"
        listing = MyListing

        def resolve(self, uri: str) -> Listing: ...

What a pin costs: services know no SHA-256, so each file is read once, in full, the first time that this ledger's
scratch directory sees it. What was read is kept there until ``fetch`` moves it to where it is wanted: a run that is
started and read on one machine downloads each byte once. Pinning unchanged files again reads none of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import orjson

from ledger.codec import canonical_json
from ledger.errors import DataUnavailable, IntegrityError, ObjectNotFound, Unavailable, some
from ledger.events import DataCommit
from ledger.files import appearing, digest_of, refuse_taken, write
from ledger.hooks.listing import SINGLE, THREADS, File
from ledger.hooks.ports import Availability
from ledger.objects.hashing import EMPTY
from ledger.objects.kept import Digests, Kept, Seen
from ledger.objects.manifest import Entry, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from ledger.hooks.listing import Listing
    from ledger.objects.store import ObjectStore

_CHECKSUMS: Final = "checksums"
_VERSIONS: Final = "version_ids"


class _Pinned(NamedTuple):
    """What is on record of a commit."""

    manifest: Manifest
    files: Mapping[str, File]
    """By name, as the service told of them."""

    @property
    def digests(self) -> dict[str, str]:
        return {entry.path: entry.digest for entry in self.manifest.entries}

    @property
    def directories(self) -> list[File]:
        """Those that are empty."""
        return [File(f"{entry.path}/", 0) for entry in self.manifest.entries if entry.mode == "directory"]


class ListedSource(ABC):
    """Pins what a ``Listing`` tells of. Its manifest, and the service's checksums and versions, are kept as objects.

    The commit is the listing's, or else the digest of the content; then a pin outlives what is written over it only
    where each file has a version that the service goes on giving.
    """

    name: str
    version: str
    listing: ClassVar[type[Listing]]
    """What a commit's path is read through."""

    def __init__(self, objects: ObjectStore, scratch: Path) -> None:
        self._objects = objects
        self._scratch = scratch
        self._kept = Kept(scratch / "content")

    @abstractmethod
    def resolve(self, uri: str) -> Listing:
        """The files that ``uri`` means now. Raises ``UsageError`` for a malformed one, which may hold a key."""

    def keeps(self, uri: str) -> bool:
        """Whether content that is read to be digested is kept on disk for the ``fetch`` that follows."""
        return True

    def outlives(self, commit: DataCommit) -> bool:
        """Whether names that come to the place later are no change to what was pinned."""
        return False

    # --- DataSource -------------------------------------------------------------------------------------------

    def pin(self, uri: str) -> DataCommit:
        """See ``DataSource``."""
        listing = self.resolve(uri)
        files = _sound(listing, listing.files())
        manifest = self._digested(listing, files, keep=self.keeps(uri))
        self._objects.put_bytes(manifest.content)
        return DataCommit(
            uri=uri,
            commit=listing.commit or manifest.digest,
            path=listing.path,
            digest=manifest.digest,
            files=manifest.files,
            bytes=manifest.bytes,
            details=listing.details(files) | self._record(files),
        )

    def fetch(self, commit: DataCommit, dest: Path) -> None:
        """See ``DataSource``; what ``pin`` has read on this machine is moved, the rest comes from the service."""
        refuse_taken(dest)
        listing, pinned = self.listing(commit.path), self._pinned(commit)
        files = self._found(listing, commit, pinned)
        with appearing(dest) as root:
            manifest = self._bring(listing, files, pinned.digests if pinned else {}, root)
            if manifest.digest != commit.digest:
                changes = _named(listing, self._objects.changes_since(commit.digest, manifest))
                raise listing.changed(some(f"{listing.path} is no longer what was pinned:", changes))

    def open(self, commit: DataCommit) -> tuple[Any, str]:
        """See ``DataSource``; a read-only file system of just these files, which asks the service when it is read."""
        from ledger.hooks.listed_files import PinnedFileSystem

        listing, pinned = self.listing(commit.path), self._pinned(commit)
        if listing.commit and pinned:
            files = [*pinned.files.values(), *pinned.directories]
        else:
            files = self._found(listing, commit, pinned)
        kind = f"{self.listing.__module__}:{self.listing.__qualname__}"
        rows = [(file.name, file.bytes, file.checksum, file.version) for file in files]
        filesystem = PinnedFileSystem(kind, commit.path, rows)
        return filesystem, filesystem.root

    def check(self, commit: DataCommit) -> Availability:
        """See ``DataSource``; lists, asks for versions that are no longer the last, and reads what may have changed."""
        try:
            listing = self.listing(commit.path)
            _probe(listing, self._found(listing, commit, self._pinned(commit)))
        except Unavailable as error:
            return Availability.lacking(error)
        return Availability(True)

    # --- pinning ----------------------------------------------------------------------------------------------

    def _digested(self, listing: Listing, files: Sequence[File], *, keep: bool) -> Manifest:
        contents = [file for file in files if not file.is_directory]
        digests = Digests(self._scratch / "digests.db", listing.endpoint)
        # Of a file about which nothing is told that would tell of a change, nothing is remembered.
        seen = {
            file: Seen(listing.address(file), mark, file.bytes)
            for file in contents
            if (mark := file.version or file.checksum)
        }
        known = digests.known(seen.values())
        read = {file: known[seen[file]] for file in contents if seen.get(file) in known}
        unread = [file for file in contents if file not in read]
        settled = [file for file in unread if listing.fixed(file)]
        self._kept.discard_stale()
        take = self._kept.put if keep else digest_of
        try:
            for file, pieces in listing.contents(unread):
                read[file] = take(pieces)
            _refuse_changes(listing, [file for file in unread if not listing.fixed(file)])
            settled = unread
        finally:  # the next try goes on where this one was interrupted
            digests.add({seen[file]: read[file] for file in settled if file in seen and file in read})
        return _manifest(files, {file.name: digest for file, digest in read.items()})

    def _record(self, files: Iterable[File]) -> dict[str, str]:
        """Digests of what the service told, which is kept as objects."""
        checksums = {file.name: file.checksum for file in files}
        versions = {file.name: file.version for file in files if file.version}
        told = {_CHECKSUMS: checksums} | ({_VERSIONS: versions} if versions else {})
        return {name: self._objects.put_bytes(canonical_json(each)) for name, each in told.items()}

    # --- finding again ----------------------------------------------------------------------------------------

    def _pinned(self, commit: DataCommit) -> _Pinned | None:
        """None where it is gone from the ledger's objects."""
        try:
            manifest = self._objects.get_manifest(commit.digest)
            checksums = orjson.loads(self._objects.get_bytes(commit.details[_CHECKSUMS]))
            by_name = commit.details.get(_VERSIONS)
            versions = orjson.loads(self._objects.get_bytes(by_name)) if by_name else {}
        except (ObjectNotFound, KeyError):
            return None
        files = {
            entry.path: File(entry.path, entry.bytes, checksums.get(entry.path, ""), versions.get(entry.path, ""))
            for entry in manifest.entries
            if entry.mode == "file"
        }
        return _Pinned(manifest, files)

    def _found(self, listing: Listing, commit: DataCommit, pinned: _Pinned | None) -> list[File]:
        """Where each pinned file can be read. Raises ``DataUnavailable``, naming what cannot be had."""
        if pinned is None:
            return self._unrecorded(listing)
        now = {file.name: file for file in listing.files() if not file.is_directory}
        found = _located(listing, pinned, now)
        gone = [name for name in pinned.files if name not in found]
        changes = [f"{'changed' if name in now else 'missing'} {listing.named(name)}" for name in gone]
        if not self.outlives(commit):  # then all that a pin means is that the place is as it was
            changes += [f"new {name}" for name in sorted(now.keys() - pinned.files.keys())]
        if changes:
            raise listing.changed(some(f"{listing.path} is no longer what was pinned:", changes))
        return [*(found[name] for name in pinned.files), *pinned.directories]

    def _unrecorded(self, listing: Listing) -> list[File]:
        """Without the record there is only what a commit says; ``fetch`` compares the digest of it all."""
        if listing.commit is None:
            raise DataUnavailable(
                f"which files of {listing.path} were pinned cannot be told: the list is gone from the ledger's objects",
                mend="copy the objects back from a backup, or start a new run on what is there now",
            )
        return _sound(listing, listing.files())

    def _bring(self, listing: Listing, files: Sequence[File], digests: Mapping[str, str], root: Path) -> Manifest:
        """Write all files below ``root``, or the one to it; what is there then."""
        targets = {file: root if file.name == SINGLE else root / file.name for file in files if not file.is_directory}
        for folder in {target.parent for target in targets.values()}:
            folder.mkdir(parents=True, exist_ok=True)
        taken = self._taken(targets, digests)
        left = [file for file in targets if file not in taken]
        written = {file: write(pieces, targets[file]) for file, pieces in listing.contents(left)}
        manifest = _manifest(files, {file.name: digest for file, digest in (taken | written).items()})
        for entry in manifest.entries:
            if entry.mode == "directory":
                (root / entry.path).mkdir(parents=True)
        return manifest

    def _taken(self, targets: Mapping[File, Path], digests: Mapping[str, str]) -> dict[File, str]:
        """Those that were on disk, and are now where they belong, with their digests."""
        known = [file for file in targets if file.name in digests]
        with ThreadPoolExecutor(THREADS) as pool:
            done = pool.map(lambda file: self._kept.take(digests[file.name], targets[file]), known)
            return {file: digests[file.name] for file, taken in zip(known, done, strict=True) if taken}


def _located(listing: Listing, pinned: _Pinned, now: Mapping[str, File]) -> dict[str, File]:
    """Where each pinned file can be read, of those of which that is so; ``now`` is what is listed."""
    found = {name: now[name] for name, file in pinned.files.items() if name in now and now[name].same(file)}
    replaced = [file for name, file in pinned.files.items() if name not in found]
    with ThreadPoolExecutor(THREADS) as pool:
        found |= {file.name: file for file, has in zip(replaced, pool.map(listing.has, replaced), strict=True) if has}
    left = [(file, now[file.name]) for file in replaced if file.name not in found and file.name in now]
    again = [here for file, here in left if here.bytes == file.bytes]  # written again, and perhaps the same
    digests = pinned.digests
    same = {file.name: file for file, pieces in listing.contents(again) if digest_of(pieces) == digests[file.name]}
    return found | same


def _probe(listing: Listing, files: Sequence[File]) -> None:
    """Read a byte of some files, evenly spread, if the listing asks for that."""
    if listing.probes:
        full = [file for file in files if file.bytes]
        full = full[:: max(1, len(full) // listing.probes)][: listing.probes]
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(lambda file: listing.piece_of(file, 0, 1), full):
                pass


def _sound(listing: Listing, files: Iterable[File]) -> list[File]:
    """The files of a place, if there are any, and files can have their names."""
    found = list(files)
    try:
        manifest = _manifest(found, dict.fromkeys((file.name for file in found), EMPTY))
    except IntegrityError as error:
        raise DataUnavailable(
            f"{listing.path} cannot be had as files: {error}", mend="rename the object, or pin a part without it"
        ) from error
    if not manifest.files:
        raise listing.nothing()
    return found


def _refuse_changes(listing: Listing, read: Sequence[File]) -> None:
    """What nothing fixes may have changed between its listing and its reading."""
    now = {file.name: file for file in listing.files()} if read else {}
    changed = [listing.named(file.name) for file in read if now.get(file.name) != file]
    if changed:
        raise DataUnavailable(
            some(f"{listing.path} changed while it was being pinned:", changed),
            mend="pin it when nothing writes to it any more",
        )


def _named(listing: Listing, changes: Iterable[str]) -> list[str]:
    """With a name for the one file that is all of its place."""
    return [f"{word} {listing.named(name)}" for word, _, name in (change.partition(" ") for change in changes)]


def _manifest(files: Sequence[File], digests: Mapping[str, str]) -> Manifest:
    """The manifest that a directory with these files will have; ``digests`` by their names."""
    entries = [Entry(file.name, digests[file.name], file.bytes) for file in files if not file.is_directory]
    folders = {file.name.rstrip("/") for file in files if file.is_directory} - {""}
    names = (*folders, *(entry.path for entry in entries))
    full = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    return Manifest.of([*entries, *(Entry(folder, EMPTY, 0, "directory") for folder in folders - full)])
