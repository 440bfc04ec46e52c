"""The data source behind ``file:`` URIs.

``file:data/`` is relative to the working directory, ``file:///mnt/data`` is absolute; either names a
directory or a single file. Percent-encoding is decoded, so a name with a question mark is written with
``%3F`` and a name that holds ``%20`` itself with ``%2520``; spaces, ``#`` and a ``%`` that starts no escape
may stand as they are. A query may say ``?snapshot=no``: pin the content, keep no copy.

A directory that holds the ledger itself is pinned without the ledger's own files: they change with every run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from ledger import Hasher, __version__
from ledger.errors import DataUnavailable, DigestMismatch, ObjectNotFound, UsageError, some
from ledger.events import DataCommit
from ledger.files import refuse_taken
from ledger.hooks.ports import Availability
from ledger.hooks.uris import local_path

if TYPE_CHECKING:
    from ledger import Manifest, ObjectStore, Settings

_SNAPSHOT: Final = {"yes": True, "no": False}


class LocalSource:
    """A ``DataSource``: the commit is the digest of the manifest, which is always kept as an object."""

    name = "local"
    version = __version__

    def __init__(self, objects: ObjectStore, settings: Settings) -> None:
        self._objects = objects
        self._hasher = Hasher(settings.scratch / "hashes.db")
        self._own = _own_places(settings)

    def pin(self, uri: str) -> DataCommit:
        """See ``DataSource``; the content goes into the objects unless the URI says ``?snapshot=no``."""
        path, snapshot = _parse(uri)
        manifest = self._manifest(path)
        if not manifest.files:
            raise DataUnavailable(f"{path} holds no files", mend="name the directory that the data lie in")
        if snapshot:
            self._keep(path, manifest)
        else:
            self._objects.put_bytes(manifest.content)  # so that a later change can be named, file by file
        return DataCommit(
            uri=uri,
            commit=manifest.digest,
            path=str(path),
            digest=manifest.digest,
            files=manifest.files,
            bytes=manifest.bytes,
            snapshot=snapshot,
        )

    def fetch(self, commit: DataCommit, dest: Path) -> None:
        """See ``DataSource``; without a snapshot ``dest`` becomes a link to the verified original.

        A link and not a copy: whoever asked for no snapshot has data too large to have twice.
        """
        refuse_taken(dest)
        if self._snapshot_gap(commit) is None:
            self._objects.restore(self._objects.get_manifest(commit.digest), dest)
            return
        self._verify(commit)
        dest.parent.mkdir(parents=True, exist_ok=True)
        dest.symlink_to(commit.path)

    def open(self, commit: DataCommit) -> tuple[Any, str]:
        """See ``DataSource``; the original place, verified as ever: what did not change is not read again."""
        from fsspec.implementations.local import LocalFileSystem

        self._verify(commit)
        return LocalFileSystem(), commit.path

    def check(self, commit: DataCommit) -> Availability:
        """See ``DataSource``; for a snapshot this looks for its objects and reads none of them."""
        if self._snapshot_gap(commit) is None:
            return Availability(True)
        try:
            self._verify(commit)
        except DataUnavailable as error:
            return Availability(False, str(error))
        return Availability(True)

    def _manifest(self, path: Path) -> Manifest:
        if not os.path.lexists(path):
            raise DataUnavailable(
                f"there is nothing at {path}",
                mend="check the path: file:x is relative to the working directory, and %41 in a URI means A",
            )
        real = path.resolve()
        own = [place.relative_to(real).as_posix() for place in self._own if real in place.parents]
        return self._hasher.tree(path, exclude=own)

    def _keep(self, path: Path, manifest: Manifest) -> None:
        try:
            self._objects.put_tree(path, manifest)
        except DigestMismatch as error:
            raise DataUnavailable(
                f"data changed while it was being pinned: {error}",
                mend="pin it when nothing writes to it any more",
            ) from error

    def _snapshot_gap(self, commit: DataCommit) -> str | None:
        """Why the snapshot cannot serve; None where it can."""
        if not commit.snapshot:
            return "no snapshot was kept"
        try:
            gone = self._objects.missing(self._objects.get_manifest(commit.digest))
        except ObjectNotFound:
            return "the snapshot's manifest is gone"
        return some("missing from the snapshot:", [entry.path for entry in gone]) if gone else None

    def _verify(self, commit: DataCommit) -> None:
        """Raise ``DataUnavailable``, naming what changed, unless the original place holds what was pinned."""
        gap = self._snapshot_gap(commit)
        mend = "put the pinned content back, or start a new run on what is there now"
        if gap is None:
            mend = "fetch it instead: the snapshot still holds what was pinned"
        try:
            now = self._manifest(Path(commit.path))
        except DataUnavailable as error:
            raise DataUnavailable(f"{error} ({gap})" if gap else str(error), mend=error.mend) from error
        if now.digest == commit.digest:
            return
        changes = self._objects.changes_since(commit.digest, now)
        message = some(f"{commit.path} is no longer what was pinned:", changes)
        raise DataUnavailable(f"{message} ({gap})" if gap else message, mend=mend)


def _parse(uri: str) -> tuple[Path, bool]:
    place, _, query = uri.partition("?")
    path = local_path(place)
    if path is None or not uri.lower().startswith("file:"):
        raise UsageError(f"{uri} is no file: URI", mend="write file:relative/path or file:///absolute/path")
    snapshot = True
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key != "snapshot" or value not in _SNAPSHOT:
            raise UsageError(
                f"{uri}: {key}={value} is not understood",
                mend="the one option is ?snapshot=no; a question mark in a name is written %3F",
            )
        snapshot = _SNAPSHOT[value]
    return path, snapshot


def _own_places(settings: Settings) -> tuple[Path, ...]:
    """Real paths of what the ledger itself writes."""
    places = [settings.scratch, local_path(settings.objects), local_path(settings.checkpoints)]
    if settings.url.startswith("sqlite:///"):
        database = Path(settings.url.removeprefix("sqlite:///"))
        in_its_folder = database.parent.name == ".ledger"
        places += [database.parent] if in_its_folder else [Path(f"{database}{s}") for s in ("", "-wal", "-shm")]
    return tuple(place.resolve() for place in places if place is not None)
