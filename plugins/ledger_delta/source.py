"""The data source behind ``delta+file:`` and ``delta+s3:`` URIs.

A run is pinned to one version of a table. What is fetched is a directory with the Parquet files of that version under
their own paths, and a log with one entry: it opens as a Delta table, and its files, read as Parquet, are the rows of
that version, nothing more. A table of which that would not be true (deletion vectors, mapped columns, a shallow clone)
is refused. The digest covers files and log, so also schema and partition values.

What a pin costs: each file of the version is read once. Nothing of the table's own log is needed afterwards.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from ledger import Entry, Manifest, __version__
from ledger.errors import DataUnavailable, IntegrityError, ObjectNotFound, some
from ledger.events import DataCommit
from ledger.files import appearing, digest_of, refuse_taken, write
from ledger.hooks.ports import Availability
from ledger_delta.place import Place
from ledger_delta.snapshot import LOG, snapshot_of
from ledger_delta.table import open_table, reading
from ledger_delta.uris import Asked

if TYPE_CHECKING:
    from pathlib import Path

    from ledger import ObjectStore
    from ledger_delta.snapshot import Snapshot

_THREADS: Final = 8


class DeltaSource:
    """A ``DataSource``: the commit is the table's id with the version; manifest and log are kept as objects."""

    name = "delta"
    version = __version__

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def pin(self, uri: str) -> DataCommit:
        """See ``DataSource``. Raises ``DataUnavailable`` where files of the version have been vacuumed, naming them."""
        asked = Asked.parse(uri)
        table, made = open_table(asked)
        with reading(asked.root, table.version()):
            snapshot = snapshot_of(table)
        place = Place(asked.root)
        gone = _changes(snapshot.files, place.sizes())
        if gone:
            raise DataUnavailable(
                some(f"version {snapshot.version} of {asked.root} has been vacuumed:", gone),
                mend="pin a newer version, and see to it that old ones are kept (delta.deletedFileRetentionDuration)",
            )
        manifest = self._manifest(place, snapshot)
        self._objects.put_bytes(manifest.content)
        return DataCommit(
            uri=uri,
            commit=f"{snapshot.table}@{snapshot.version}",
            path=asked.root,
            digest=manifest.digest,
            files=manifest.files,
            bytes=manifest.bytes,
            details={
                "table": snapshot.table,
                "version": snapshot.version,
                "committed": made.isoformat() if made else None,
                "adds": snapshot.adds,
            },
        )

    def fetch(self, commit: DataCommit, dest: Path) -> None:
        """See ``DataSource``; Parquet files and a log, see above."""
        refuse_taken(dest)
        self._require(commit)
        pinned, place = self._pinned(commit), Place(commit.path)
        with appearing(dest) as root, ThreadPoolExecutor(_THREADS) as pool:
            files = [entry for entry in pinned.entries if entry.path != LOG]
            for folder in {(root / entry.path).parent for entry in pinned.entries}:
                folder.mkdir(parents=True, exist_ok=True)
            (root / LOG).write_bytes(self._log(pinned))
            copied = pool.map(lambda entry: write(place.pieces(entry.path), root / entry.path), files)
            changed = [
                f"changed {entry.path}" for entry, digest in zip(files, copied, strict=True) if digest != entry.digest
            ]
            if changed:
                raise DataUnavailable(
                    some(f"{commit.path} is no longer what was pinned:", changed),
                    mend="somebody wrote to files of the table: restore them, or start a new run on what is there",
                )

    def open(self, commit: DataCommit) -> tuple[Any, str]:
        """See ``DataSource``; a read-only file system with the files of this version and no others."""
        self._require(commit)
        pinned = self._pinned(commit)
        return Place(commit.path).showing(commit.commit, _files(pinned), {LOG: self._log(pinned)}), commit.commit

    def check(self, commit: DataCommit) -> Availability:
        """See ``DataSource``; lists the files of the table and reads none."""
        try:
            pinned = self._pinned(commit)
            self._log(pinned)
            changes = _changes(_files(pinned), Place(commit.path).sizes())
        except (DataUnavailable, ObjectNotFound) as error:
            return Availability.lacking(error)
        if changes:
            version = commit.details.get("version")
            return Availability(False, some(f"version {version} of {commit.path} is not whole any more:", changes))
        return Availability(True)

    def _require(self, commit: DataCommit) -> None:
        availability = self.check(commit)
        if not availability.available:
            raise DataUnavailable(availability.reason, mend="restore the files, or start a new run on a newer version")

    def _manifest(self, place: Place, snapshot: Snapshot) -> Manifest:
        with ThreadPoolExecutor(_THREADS) as pool:
            digests = pool.map(lambda name: digest_of(place.pieces(name)), snapshot.files)
            entries = [
                Entry(name, digest, size) for (name, size), digest in zip(snapshot.files.items(), digests, strict=True)
            ]
        log = Entry(LOG, self._objects.put_bytes(snapshot.log), len(snapshot.log))
        try:
            return Manifest.of([*entries, log])
        except IntegrityError as error:
            raise DataUnavailable(f"the table cannot be had as files: {error}", mend="write it anew") from error

    def _pinned(self, commit: DataCommit) -> Manifest:
        return self._objects.get_manifest(commit.digest)

    def _log(self, pinned: Manifest) -> bytes:
        (digest,) = (entry.digest for entry in pinned.entries if entry.path == LOG)
        return self._objects.get_bytes(digest)


def _files(pinned: Manifest) -> dict[str, int]:
    """The Parquet files, with their sizes."""
    return {entry.path: entry.bytes for entry in pinned.entries if entry.path != LOG}


def _changes(expected: dict[str, int], found: dict[str, int]) -> list[str]:
    return [
        f"{'changed' if name in found else 'missing'} {name}"
        for name, size in sorted(expected.items())
        if found.get(name) != size
    ]
