"""The data source behind ``s3:``, ``gs:``, ``abfs:``, ``https:`` and every other URL that fsspec can read.

The commit is the digest of all names and bytes. Where the service keeps versions, each file is pinned by the
version that was read, and a pin outlives what is written over it; where it does not, the pin says so, and what
changed is found and named before anything trains on it.

What a pin costs: services know no SHA-256, so each file is read once, in full, the first time that this ledger's
scratch directory sees it. What was read is kept there until ``fetch`` moves it to where it is wanted.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from ledger import Entry, Manifest, __version__
from ledger.codec import canonical_json
from ledger.errors import DataUnavailable, IntegrityError, ObjectNotFound, Unavailable, UsageError, some
from ledger.events import DataCommit
from ledger.files import appearing
from ledger.hooks.ports import Availability
from ledger.objects.kept import Digests, Kept, Seen, digest_of, write
from ledger_fsspec.asked import Asked
from ledger_fsspec.files import SINGLE, THREADS, File, Files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from ledger import ObjectStore

_EMPTY: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""SHA-256 of nothing."""
_MEND: Final = "put the pinned content back, or start a new run on what is there now"


class _Pinned(NamedTuple):
    """What is on record of a commit."""

    manifest: Manifest
    files: Mapping[str, File]
    kept: bool
    """Whether the service keeps versions."""


class FsspecSource:
    """A ``DataSource``: manifest, versions and checksums are kept as objects."""

    name = "fsspec"
    version = __version__

    def __init__(self, objects: ObjectStore, scratch: Path) -> None:
        self._objects = objects
        self._scratch = scratch
        self._kept = Kept(scratch / "content")

    def pin(self, uri: str) -> DataCommit:
        """See ``DataSource``; a copy goes into the objects where the URI says ``?snapshot=yes``."""
        asked = Asked.parse(uri)
        place = Files(asked.url)
        files = _sound(asked.url, place.listed())
        keeping = place.keeping(files)
        manifest = self._digested(place, files, keep=asked.keep or asked.snapshot)
        if asked.snapshot:
            self._keep_snapshot(place, files, manifest)
        self._objects.put_bytes(manifest.content)
        about = self._objects.put_bytes(canonical_json([astuple(file) for file in files]))
        details: dict[str, Any] = {"versions": keeping, "files": about}
        if files[0].name == SINGLE:
            details |= {"checksum": files[0].checksum, "version": files[0].version}
        return DataCommit(
            uri=uri,
            commit=manifest.digest,
            path=asked.url,
            digest=manifest.digest,
            files=manifest.files,
            bytes=manifest.bytes,
            snapshot=asked.snapshot,
            details=details,
        )

    def fetch(self, commit: DataCommit, dest: Path) -> None:
        """See ``DataSource``; what ``pin`` has read on this machine is moved, the rest comes from the service."""
        if os.path.lexists(dest):
            raise UsageError(f"{dest} exists already", mend="name a path that does not")
        pinned = self._pinned(commit)
        if self._has_snapshot(commit, pinned):
            self._objects.restore(pinned.manifest, dest)
            return
        place = Files(commit.path)
        files = self._found(place, pinned)
        with appearing(dest) as root:
            self._bring(place, files, pinned.manifest, root)

    def open(self, commit: DataCommit) -> tuple[Any, str]:
        """See ``DataSource``; a read-only file system of just these files, which asks the service when it is read."""
        from ledger_fsspec.filesystem import PinnedFileSystem

        found = self._found(Files(commit.path), self._pinned(commit))
        filesystem = PinnedFileSystem(commit.path, [astuple(file) for file in found])
        return filesystem, filesystem.root

    def check(self, commit: DataCommit) -> Availability:
        """See ``DataSource``; lists, asks for versions that are no longer the last, and reads what may have changed."""
        try:
            pinned = self._pinned(commit)
            if not self._has_snapshot(commit, pinned):
                self._found(Files(commit.path), pinned)
        except Unavailable as error:
            return Availability(False, f"{error}: {error.mend}" if error.mend else str(error))
        return Availability(True)

    # --- pinning ----------------------------------------------------------------------------------------------

    def _digested(self, place: Files, files: Sequence[File], *, keep: bool) -> Manifest:
        digests = Digests(self._scratch / "digests.db", place.kind)
        seen = {file: _seen(place, file) for file in files}
        # Of a file about which nothing is told that would tell of a change, nothing is remembered.
        known = digests.known(seen[file] for file in files if file.version or file.checksum)
        self._kept.discard_stale()
        read: dict[Seen, str] = {}
        unread = [file for file in files if seen[file] not in known]
        take = self._kept.put if keep else digest_of
        try:
            for file, pieces in place.contents(unread):
                read[seen[file]] = take(pieces)
            _refuse_changes(place, [file for file in unread if not file.version])
            digests.add(read)
        except BaseException:  # the next try goes on where this one was interrupted
            digests.add({seen[file]: read[seen[file]] for file in unread if file.version and seen[file] in read})
            raise
        known |= read
        return Manifest.of(Entry(file.name, known[seen[file]], file.bytes) for file in files)

    def _keep_snapshot(self, place: Files, files: Sequence[File], manifest: Manifest) -> None:
        if not self._objects.missing(manifest):
            return
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self._scratch) as folder:
                root = self._scratch / folder / "copy"
                self._bring(place, files, manifest, root)
                self._objects.put_tree(root, manifest)
        except OSError as error:
            raise Unavailable(
                f"cannot write below {self._scratch}: {error.strerror}",
                mend="make room there, or leave ?snapshot=yes out of the URI",
            ) from error

    # --- finding again ----------------------------------------------------------------------------------------

    def _pinned(self, commit: DataCommit) -> _Pinned:
        try:
            manifest = self._objects.get_manifest(commit.digest)
            rows = orjson.loads(self._objects.get_bytes(commit.details["files"]))
        except (ObjectNotFound, KeyError) as error:
            raise DataUnavailable(
                f"which files of {commit.path} were pinned cannot be told: the list is gone from the ledger's objects",
                mend="copy the objects back from a backup, or start a new run on what is there now",
            ) from error
        return _Pinned(manifest, {row[0]: File(*row) for row in rows}, commit.details.get("versions") == "kept")

    def _has_snapshot(self, commit: DataCommit, pinned: _Pinned) -> bool:
        return commit.snapshot and not self._objects.missing(pinned.manifest)

    def _found(self, place: Files, pinned: _Pinned) -> list[File]:
        """Where each pinned file can be read. Raises ``DataUnavailable``, naming what cannot be had."""
        now = {file.name: file for file in place.listed()}
        entries = pinned.manifest.entries
        with ThreadPoolExecutor(THREADS) as pool:
            holders = pool.map(lambda entry: _holder(place, pinned.files[entry.path], now.get(entry.path)), entries)
            found = {file.name: file for file in holders if file}
        lost = {entry.path: entry for entry in entries if entry.path not in found}
        again = [now[path] for path, entry in lost.items() if path in now and now[path].bytes == entry.bytes]
        # Written again, and perhaps the same.
        found |= {
            file.name: file for file, pieces in place.contents(again) if digest_of(pieces) == lost[file.name].digest
        }
        gone = [path for path in lost if path not in found]
        changes = [f"{'changed' if path in now else 'missing'} {place.named(path)}" for path in gone]
        if not pinned.kept:  # then all that a pin means is that the place is as it was
            changes += [f"new {name}" for name in sorted(now.keys() - pinned.files.keys())]
        if changes:
            raise DataUnavailable(some(f"{place.url} is no longer what was pinned:", changes), mend=_MEND)
        return [found[entry.path] for entry in entries]

    def _bring(self, place: Files, files: Iterable[File], manifest: Manifest, root: Path) -> None:
        """Write all files below ``root``, or the one to it, and verify them."""
        pinned = {entry.path: entry.digest for entry in manifest.entries}
        targets = {file: root if file.name == SINGLE else root / file.name for file in files}
        for target in targets.values():
            target.parent.mkdir(parents=True, exist_ok=True)
        wanted = [file for file, target in targets.items() if not self._kept.take(pinned[file.name], target)]
        changed = [
            f"changed {place.named(file.name)}"
            for file, pieces in place.contents(wanted)
            if write(pieces, targets[file]) != pinned[file.name]
        ]
        if changed:
            raise DataUnavailable(some(f"{place.url} is no longer what was pinned:", changed), mend=_MEND)


def _sound(url: str, files: list[File]) -> list[File]:
    """The files of a place, if there are any, and files can have their names."""
    if not files:
        raise DataUnavailable(
            f"there are no files at {url}",
            mend="check the bucket or container and the path; what lies below a path is named with a final slash",
        )
    try:
        Manifest.of(Entry(file.name, _EMPTY, file.bytes) for file in files)
    except IntegrityError as error:
        raise DataUnavailable(
            f"{url} cannot be had as files: {error}", mend="rename the object, or pin a part without it"
        ) from error
    return files


def _seen(place: Files, file: File) -> Seen:
    return Seen(f"{place.url.rstrip('/')}/{file.name}", file.version or file.checksum, file.bytes)


def _refuse_changes(place: Files, read: Sequence[File]) -> None:
    """What has no version may have changed between its listing and its reading."""
    now = {file.name: file for file in place.listed()} if read else {}
    changed = [place.named(file.name) for file in read if file.name not in now or not file.same(now[file.name])]
    if changed:
        raise DataUnavailable(
            some(f"{place.url} changed while it was being pinned:", changed),
            mend="pin it when nothing writes to it any more",
        )


def _holder(place: Files, pinned: File, here: File | None) -> File | None:
    """Where the content of a pinned file is, as far as the service tells without giving all of it."""
    if here is not None and here.same(pinned):
        return here
    return pinned if place.has(pinned) else None
