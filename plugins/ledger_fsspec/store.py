"""The checkpoint store on fsspec: ``<root>/<key>/<files…>`` and, beside them, ``manifest.json``.

The manifest's bytes are the canonical ones that its digest, the checkpoint's identity, stands for. A
checkpoint exists where its manifest does; everything is written under a temporary key, read back, and made
visible by one rename (a local directory) or by moving the manifest last (everywhere else).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote
from uuid import uuid4

from ledger import Entry, Hasher, Manifest, __version__
from ledger.errors import (
    CheckpointUnavailable,
    Conflict,
    DataUnavailable,
    DigestMismatch,
    IntegrityError,
    Unavailable,
    UsageError,
)
from ledger.events import FileDigest, Stored
from ledger.hooks.uris import local_path
from ledger_fsspec.shelves import LocalShelf, RemoteShelf, Shelf

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MANIFEST: Final = "manifest.json"
_RESERVED: Final = ".ledger-"
_CHUNK: Final = 1 << 20


def open_store(uri: str) -> FsspecStore | None:
    """The store at a path or URL; None for a scheme that fsspec does not know."""
    path = local_path(uri)
    if path is not None:
        return FsspecStore(LocalShelf(path))
    try:
        return FsspecStore(RemoteShelf(uri))
    except ValueError:
        return None


class FsspecStore:
    """A ``CheckpointStore``. Links in a checkpoint are followed: what is stored is files and directories."""

    name = "fsspec"
    version = __version__

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def write(self, directory: Path, key: str, base: Stored | None = None) -> Stored:
        """See ``CheckpointStore``; ``manifest.json`` at the top of ``directory`` is a reserved name."""
        _guard(key)
        if f"{directory.absolute().as_uri()}/".startswith(f"{self._shelf.uri}/{quote(key)}/"):
            raise UsageError(
                f"{directory} is the very place where the store keeps {key}",
                mend="save the state elsewhere first",
            )
        manifest = _manifest(directory)
        with self._failures(f"write checkpoint {key}"):
            if self._is_there(key, manifest):
                return self._stored(key, manifest)
            self._refuse_nesting(key)
            temporary = f"{_RESERVED}{uuid4().hex}"
            try:
                self._fill(temporary, directory, manifest)
                self._publish(temporary, key, manifest)
            finally:
                self._shelf.clear(temporary)
        return self._stored(key, manifest)

    def read(self, stored: Stored, dest: Path) -> None:
        """See ``CheckpointStore``; nothing at ``dest`` is synced, for it can be read again."""
        key = self._key(stored)
        if os.path.lexists(dest):
            raise UsageError(f"{dest} exists already", mend="name a path that does not")
        temporary = dest.with_name(f".{uuid4().hex}.partial")
        with self._failures(f"read checkpoint {key} into {dest}"):
            manifest = self._manifest_of(key, stored.digest)
            try:
                temporary.mkdir(parents=True)
                for entry in manifest.entries:
                    self._copy(key, entry, temporary)
                temporary.rename(dest)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def list(self, prefix: str) -> Iterator[Stored]:
        """See ``CheckpointStore``; whole means that every file is there in its full length.

        ``prefix`` is a key or the segments that keys begin with; all checkpoints are below an empty one.
        """
        if prefix:
            _guard(prefix.rstrip("/"))
        with self._failures(f"list checkpoints below {prefix!r}"):
            sizes = self._shelf.sizes(prefix.rstrip("/"))
        last = None
        for key in _keys(sizes):
            if last and key.startswith(f"{last}/"):
                continue  # a file of a checkpoint that happens to have this name
            with self._failures(f"read the manifest of checkpoint {key}"):
                manifest = self._peek(key)
            if manifest and all(sizes.get(f"{key}/{e.path}") == e.bytes for e in _files(manifest)):
                last = key
                yield self._stored(key, manifest)

    def delete(self, stored: Stored) -> None:
        """See ``CheckpointStore``; removes what it wrote and nothing else, the manifest first."""
        key = self._key(stored)
        files = [file.path for file in stored.files]
        Manifest.of(Entry(path, "", 0) for path in files)  # refuses paths that leave the key
        with self._failures(f"delete checkpoint {key}"):
            there = self._peek(key)
            if there is None or there.digest == stored.digest:
                self._shelf.remove(key, [MANIFEST, *files])

    def _is_there(self, key: str, manifest: Manifest) -> bool:
        """Whether the key holds just this, whole. Raises ``Conflict`` where it holds something else."""
        there = self._peek(key)
        if there is None:
            return False
        if there.digest != manifest.digest:
            raise Conflict(
                f"{key} holds a checkpoint with other content: {'; '.join(there.changes(manifest)[:5])}",
                mend="checkpoints are never overwritten: choose another key, or delete that one first",
            )
        try:
            self._verify(key, manifest)
        except (DigestMismatch, CheckpointUnavailable):
            return False
        return True

    def _refuse_nesting(self, key: str) -> None:
        segments = key.split("/")
        above = ["/".join(segments[:end]) for end in range(1, len(segments))]
        mixed = [k for k in above if self._peek(k)] or [s for s in self._shelf.sizes(key) if s.endswith(f"/{MANIFEST}")]
        if mixed and mixed != [f"{key}/{MANIFEST}"]:
            raise Conflict(f"{key} and {mixed[0]} would lie one inside the other", mend="choose another key")

    def _fill(self, temporary: str, directory: Path, manifest: Manifest) -> None:
        for entry in manifest.entries:
            if entry.mode == "directory":
                self._shelf.make(f"{temporary}/{entry.path}")
            else:
                chunks = _chunks(directory / entry.path, entry.digest)
                executable = entry.mode == "executable"
                self._shelf.write(f"{temporary}/{entry.path}", chunks, executable=executable)
        self._shelf.write(f"{temporary}/{MANIFEST}", iter([manifest.content]))
        self._verify(temporary, self._manifest_of(temporary, manifest.digest))

    def _publish(self, temporary: str, key: str, manifest: Manifest) -> None:
        if self._shelf.sizes(key):  # half-written, or damaged: a whole one was ruled out above
            self._shelf.set_aside(key, f"{_RESERVED}aside-{uuid4().hex}")
        try:
            self._shelf.move(temporary, key, [*(e.path for e in _files(manifest)), MANIFEST])
        except OSError:
            if not self._is_there(key, manifest):  # another process was faster
                raise

    def _verify(self, key: str, manifest: Manifest) -> None:
        for entry in _files(manifest):
            for _ in self._content(key, entry):
                pass

    def _copy(self, key: str, entry: Entry, dest: Path) -> None:
        path = dest / entry.path
        if entry.mode == "directory":
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = 0o777 if entry.mode == "executable" else 0o666
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb", buffering=0) as target:
            for chunk in self._content(key, entry):
                target.write(chunk)

    def _content(self, key: str, entry: Entry) -> Iterator[bytes]:
        """The bytes of a stored file; ``DigestMismatch`` comes at their end."""
        actual = hashlib.sha256()
        try:
            with self._shelf.open(f"{key}/{entry.path}") as stream:
                while chunk := stream.read(_CHUNK):
                    actual.update(chunk)
                    yield chunk
        except FileNotFoundError as error:
            raise CheckpointUnavailable(f"{entry.path} of checkpoint {key} is gone from {self._shelf.uri}") from error
        if actual.hexdigest() != entry.digest:
            what = f"{entry.path} of checkpoint {key} in {self._shelf.uri}"
            raise DigestMismatch(what, entry.digest, actual.hexdigest(), mend="use an older checkpoint")

    def _manifest_of(self, key: str, digest: str) -> Manifest:
        try:
            with self._shelf.open(f"{key}/{MANIFEST}") as stream:
                content = stream.read()
        except FileNotFoundError as error:
            raise CheckpointUnavailable(
                f"there is no whole checkpoint {key} in {self._shelf.uri}: it has no {MANIFEST}",
                mend="`ledger checkpoints RUN` lists those that are left",
            ) from error
        actual = hashlib.sha256(content).hexdigest()
        if actual != digest:
            what = f"{MANIFEST} of checkpoint {key} in {self._shelf.uri}"
            raise DigestMismatch(what, digest, actual, mend="use an older checkpoint")
        return Manifest.parse(content)

    def _peek(self, key: str) -> Manifest | None:
        """The manifest at ``key``; None where there is none that can be read."""
        try:
            with self._shelf.open(f"{key}/{MANIFEST}") as stream:
                return Manifest.parse(stream.read())
        except (FileNotFoundError, NotADirectoryError, IntegrityError):
            return None

    def _stored(self, key: str, manifest: Manifest) -> Stored:
        return Stored(
            uri=f"{self._shelf.uri}/{quote(key)}",
            digest=manifest.digest,
            bytes=manifest.bytes,
            stored_bytes=manifest.bytes + len(manifest.content),
            files=tuple(FileDigest(path=e.path, digest=e.digest, bytes=e.bytes) for e in _files(manifest)),
        )

    def _key(self, stored: Stored) -> str:
        root = f"{self._shelf.uri}/"
        if not stored.uri.startswith(root):
            return self._moved_key(stored)
        key = unquote(stored.uri.removeprefix(root))
        _guard(key)
        return key

    def _moved_key(self, stored: Stored) -> str:
        """The key under which a store that was moved as a whole still keeps it: the digest tells."""
        parts = unquote(stored.uri).split("/")
        with self._failures(f"look for checkpoint {stored.uri}"):
            for key in ("/".join(parts[start:]) for start in range(1, len(parts))):
                manifest = self._peek(key) if _is_key(key) else None
                if manifest and manifest.digest == stored.digest:
                    return key
        raise UsageError(
            f"{stored.uri} is not in this store, {self._shelf.uri}",
            mend="set `checkpoints` in ledger.toml, or LEDGER_CHECKPOINTS, to where it was written",
        )

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unavailable(
                f"cannot {what}: {reason} ({self._shelf.uri})",
                mend="check permissions, and that there is space left",
            ) from error


def _guard(key: str) -> None:
    """Refuse a key that names nothing, leaves the root, or is of the store's own making."""
    if not _is_key(key):
        raise UsageError(
            f"{key!r} cannot be the key of a checkpoint",
            mend="a key is plain names with slashes between them, such as run-1/step-500",
        )


def _is_key(key: str) -> bool:
    parts = key.split("/")
    own = any(part in ("", ".", "..", MANIFEST) or part.startswith(_RESERVED) for part in parts)
    return not own and "\\" not in key and key.isprintable()


def _manifest(directory: Path) -> Manifest:
    if not directory.is_dir():
        raise UsageError(f"{directory} is no directory", mend="a checkpoint is a directory of files")
    manifest = Hasher().tree(directory, follow=True)
    if not manifest.files:
        raise UsageError(f"{directory} holds no files", mend="save the state before storing the checkpoint")
    if any(entry.path.split("/")[0] == MANIFEST for entry in manifest.entries):
        raise UsageError(f"{directory} holds the reserved name {MANIFEST}", mend="give that file another name")
    return manifest


def _keys(paths: Iterable[str]) -> list[str]:
    """Keys of all that may be checkpoints, outer ones before inner ones."""
    keys = [path.rpartition("/")[0] for path in paths if path.endswith(f"/{MANIFEST}")]
    return sorted((key for key in keys if not key.startswith(_RESERVED)), key=lambda key: key.split("/"))


def _files(manifest: Manifest) -> list[Entry]:
    return [entry for entry in manifest.entries if entry.mode != "directory"]


def _chunks(path: Path, digest: str) -> Iterator[bytes]:
    actual = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as stream:
            while chunk := stream.read(_CHUNK):
                actual.update(chunk)
                yield chunk
    except OSError as error:
        raise DataUnavailable(f"cannot read {path}: {error.strerror}") from error
    if actual.hexdigest() != digest:
        raise DataUnavailable(f"{path} changed while it was stored", mend="store it when nothing writes to it any more")
