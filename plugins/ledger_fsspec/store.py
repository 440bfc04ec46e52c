"""The checkpoint store on fsspec: every checkpoint a ``<key>/checkpoint.json``, its content in ``objects/``.

What two checkpoints have in common is kept once. A checkpoint is there from the moment at which its
``checkpoint.json`` is, which is made in one step and never twice: its objects were written and read back before.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote
from uuid import uuid4

from ledger import __version__
from ledger.errors import CheckpointUnavailable, Conflict, DigestMismatch, IntegrityError, Unavailable, UsageError
from ledger.files import Lent
from ledger.hooks.ahead import ahead
from ledger.hooks.ports import Garbage
from ledger.hooks.uris import local_path
from ledger_fsspec.encoding import Damaged
from ledger_fsspec.index import Index
from ledger_fsspec.markers import SWEEPING, WRITING, Markers
from ledger_fsspec.objects import FOLDER, Lost, is_place, load, name_at, place
from ledger_fsspec.remote import RemoteShelf
from ledger_fsspec.shelves import TEMPORARY, LocalShelf, temporary_name
from ledger_fsspec.source import manifest_of, store_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from ledger import Entry, Manifest
    from ledger.events import Stored
    from ledger_fsspec.shelves import Shelf

INDEX: Final = "checkpoint.json"
_OWN: Final = frozenset({FOLDER, TEMPORARY, WRITING, SWEEPING})
"""Folders of the store's own, beside those of the keys."""
_PATIENCE: Final = 60.0
"""Seconds for which ``sweep`` waits for writers at work."""
_NO_ROOM: Final = "make room there: `ledger gc` shows what no checkpoint needs any more"
_AT_ONCE: Final = 200
"""Objects that are removed between two looks at the clock."""


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
        self._markers = Markers(shelf)

    def check(self) -> None:
        """Write, read, list and remove a few bytes, as a checkpoint would; raises ``Unavailable`` with the reason."""
        path = temporary_name()
        with self._failures("store checkpoints"):
            self._shelf.write(path, [b"probe"])
            there = self._shelf.read(path) == b"probe" and path in self._shelf.sizes(TEMPORARY)
            self._shelf.remove([path])
            if not there:
                raise OSError(errno.EIO, "what was just written cannot be listed and read back")

    def write(self, directory: Path, key: str, base: Stored | None = None) -> Stored:
        """See ``CheckpointStore``."""
        return self.write_lent(directory, Lent(), key, base)

    def write_lent(self, directory: Path, lent: Lent, key: str, base: Stored | None = None) -> Stored:
        """See ``Borrowing``."""
        _guard(key)
        if f"{directory.absolute().as_uri()}/".startswith(f"{self._shelf.uri}/{quote(key)}/"):
            raise UsageError(
                f"{directory} is the very place where the store keeps {key}",
                mend="save the state elsewhere first",
            )
        if not directory.is_dir():
            raise UsageError(f"{directory} is no directory", mend="a checkpoint is a directory of files")
        with self._failures(f"write checkpoint {key}"):
            there = self._peek(key)
            if there is not None and self._holds(key, there, manifest_of(directory, lent)):
                return there.stored(self._uri(key))
            self._refuse_nesting(key)
            written: list[str] = []
            try:
                with self._markers.writing() as in_time:
                    index = store_directory(self._shelf, directory, lent, *self._base(base), written)
                    self._shelf.settle([place(name) for name in index.objects])
                    in_time()
                    published = self._publish(key, index, over=there)
            except Exception:
                with suppress(OSError):  # of the two failures the first tells why
                    self._free(written)
                raise
        return published.stored(self._uri(key))

    def read(self, stored: Stored, dest: Path) -> None:
        """See ``CheckpointStore``; nothing at ``dest`` is synced, for it can be read again."""
        key = self._key(stored)
        if os.path.lexists(dest):
            raise UsageError(f"{dest} exists already", mend="name a path that does not")
        temporary = dest.with_name(f".{uuid4().hex}.partial")
        with self._failures(f"read checkpoint {key} into {dest}"):
            index = self._index(key, stored.digest)
            try:
                temporary.mkdir(parents=True)
                for entry in index.manifest.entries:
                    if entry.mode == "directory":
                        (temporary / entry.path).mkdir(parents=True, exist_ok=True)
                self._contents(key, index, lambda entry: _new_file(temporary, entry))
                temporary.rename(dest)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def list(self, prefix: str) -> Iterator[Stored]:
        """See ``CheckpointStore``; whole means that every object is there in its full length.

        ``prefix`` is a key or the segments that keys begin with; all checkpoints are below an empty one.
        """
        prefix = prefix.rstrip("/")
        if prefix:
            _guard(prefix)
        with self._failures(f"list checkpoints below {prefix!r}"):
            keys = self._keys(prefix)
            sizes = self._shelf.sizes(FOLDER) if keys else {}
            found = self._peek_all(keys)
        for key, index in found:
            if index and all(sizes.get(place(name)) == size for name, size in index.objects.items()):
                yield index.stored(self._uri(key))

    def delete(self, stored: Stored) -> None:
        """See ``CheckpointStore``. While anybody writes, content stays for a later ``delete`` or ``sweep``."""
        key = self._key(stored)
        with self._failures(f"delete checkpoint {key}"):
            there = self._peek(key)
            if there is not None and there.manifest.digest != stored.digest:
                return
            self._shelf.remove([f"{key}/{INDEX}"])
            if there is not None:
                self._free(there.objects)

    def sweep(self, *, dry: bool) -> Iterator[Garbage]:
        """See ``CheckpointStore``.

        Raises ``Conflict`` where somebody is writing all the time, ``IntegrityError`` where the index of a checkpoint
        is damaged: nobody can tell then what it needs. ``Unavailable`` where that cannot be told in time.
        """
        with self._failures("sweep", no_room="remove some other file there first: this needs a few kilobytes itself"):
            stale = self._markers.stale()
            if not dry:
                self._shelf.remove([*stale])
            yield from (Garbage(path, size, "left over by a process that was killed") for path, size in stale.items())
            # Before the mark, for it may take a while: whatever is needed under the mark is not removed anyway.
            unneeded = {path: size for path, size in self._shelf.sizes(FOLDER).items() if is_place(path)}
            if dry:  # without a mark, for which there may be no room: that is when one looks
                self._markers.refuse_writers()
                unneeded = self._unneeded(unneeded)
                self._markers.refuse_writers()
                yield from (Garbage(path, size, "no checkpoint needs it") for path, size in unneeded.items())
                return
            while unneeded:
                with self._markers.sweeping(_PATIENCE) as in_time:
                    unneeded = self._unneeded(unneeded)
                    removed = self._remove(unneeded, in_time)
                yield from (Garbage(path, unneeded[path], "no checkpoint needs it") for path in removed)
                if unneeded and not removed:
                    raise Unavailable(
                        f"cannot sweep: to read the {INDEX} of all checkpoints takes too long ({self._shelf.uri})",
                        mend="delete checkpoints that nobody needs, or try again over a faster connection",
                    )
                unneeded = {path: size for path, size in unneeded.items() if path not in removed}

    # --- writing ----------------------------------------------------------------------------------------------

    def _holds(self, key: str, there: Index, manifest: Manifest) -> bool:
        """Whether the key holds just this, whole. Raises ``Conflict`` where it holds something else."""
        if there.manifest.digest != manifest.digest:
            raise Conflict(
                f"{key} holds a checkpoint with other content: {'; '.join(there.manifest.changes(manifest)[:5])}",
                mend="checkpoints are never overwritten: choose another key, or delete that one first",
            )
        try:
            self._contents(key, there, lambda _: None)
        except (DigestMismatch, CheckpointUnavailable):
            return False
        return True

    def _refuse_nesting(self, key: str) -> None:
        segments = key.split("/")
        above = ["/".join(segments[:end]) for end in range(1, len(segments))]
        mixed = [k for k in above if self._shelf.size(f"{k}/{INDEX}") is not None]
        mixed += [k for k in self._keys(key) if k != key]
        if mixed:
            raise Conflict(f"{key} and {mixed[0]} would lie one inside the other", mend="choose another key")

    def _base(self, base: Stored | None) -> tuple[Index | None, str]:
        """The index of the base and its key; without one that is still as it was, content is stored as it is."""
        if base is None:
            return None, ""
        try:
            key = self._key(base)
        except UsageError:
            return None, ""
        index = self._peek(key)
        return (index, key) if index and index.manifest.digest == base.digest else (None, "")

    def _publish(self, key: str, index: Index, over: Index | None) -> Index:
        """Make the checkpoint be there; what of it counts. ``over`` is what was there, and not whole."""
        path = f"{key}/{INDEX}"
        if over is not None:
            index = replace(index, added=over.added)
            self._shelf.write(path, [index.content])
        elif not self._shelf.create(path, [index.content]):
            there = self._peek(key)
            if there is None:  # damaged
                self._shelf.write(path, [index.content])
            elif there.manifest.digest != index.manifest.digest:
                raise Conflict(
                    f"another process has just written other content under {key}",
                    mend="one of the two has to choose another key",
                )
            else:
                index = there
        self._shelf.settle([path])
        return index

    # --- reading ----------------------------------------------------------------------------------------------

    def _contents(self, key: str, index: Index, target: Callable[[Entry], BinaryIO | None]) -> None:
        """Read every file of a checkpoint, into what ``target`` gives for it, and check its digest."""
        pieces = ((entry, name, size) for entry in index.entries for name, size in index.files[entry.path])

        def loaded(item: tuple[Entry, str, int]) -> bytearray:
            return self._piece(key, *item)

        with ThreadPoolExecutor(self._shelf.threads) as pool:
            contents = ahead(pool, loaded, pieces, self._shelf.threads + 1)
            for entry in index.entries:
                actual = hashlib.sha256()
                stream = target(entry)
                try:
                    for _ in index.files[entry.path]:
                        content = next(contents)
                        actual.update(content)
                        if stream is not None:
                            stream.write(content)
                finally:
                    if stream is not None:
                        stream.close()
                if actual.hexdigest() != entry.digest:
                    raise self._altered(key, entry, actual.hexdigest())

    def _piece(self, key: str, entry: Entry, name: str, size: int) -> bytearray:
        try:
            content = load(self._shelf, name).content
        except Lost as error:
            what = f"{entry.path} of checkpoint {key} is gone from {self._shelf.uri}: "
            lost = error.base
            if lost is not None:
                what += (
                    f"it is the difference to checkpoint {lost.key} ({lost.checkpoint[:12]}…), whose content is lost"
                )
            else:
                what += f"{place(str(error))} is not there"
            raise CheckpointUnavailable(what, mend="use another checkpoint, or write that one again") from error
        except Damaged as error:
            raise self._altered(key, entry, f"unreadable ({place(name)}: {error})") from error
        if len(content) != size:
            raise self._altered(key, entry, f"unreadable ({place(name)} has another length)")
        return content

    def _altered(self, key: str, entry: Entry, actual: str) -> DigestMismatch:
        what = f"{entry.path} of checkpoint {key} in {self._shelf.uri}"
        return DigestMismatch(what, entry.digest, actual, mend="use another checkpoint, or write this one again")

    def _index(self, key: str, digest: str) -> Index:
        try:
            index = Index.parse(self._shelf.read(f"{key}/{INDEX}"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CheckpointUnavailable(
                f"there is no whole checkpoint {key} in {self._shelf.uri}: it has no {INDEX}",
                mend="`ledger checkpoints RUN` lists those that are left",
            ) from error
        if index.manifest.digest != digest:
            what = f"checkpoint {key} in {self._shelf.uri}"
            raise DigestMismatch(what, digest, index.manifest.digest, mend="use another checkpoint")
        return index

    def _peek(self, key: str) -> Index | None:
        """The index at ``key``; None where there is none that can be read."""
        try:
            return Index.parse(self._shelf.read(f"{key}/{INDEX}"))
        except (FileNotFoundError, NotADirectoryError, IntegrityError):
            return None

    def _peek_all(self, keys: Iterable[str]) -> Iterable[tuple[str, Index | None]]:
        with ThreadPoolExecutor(self._shelf.threads) as pool:
            return [*pool.map(lambda key: (key, self._peek(key)), keys)]

    def _keys(self, prefix: str) -> Iterable[str]:
        """Of all checkpoints below ``prefix``, by segment."""
        paths = self._shelf.sizes(prefix, without=() if prefix else _OWN)
        keys = [path.removesuffix(f"/{INDEX}") for path in paths if path.endswith(f"/{INDEX}")]
        return sorted(keys, key=lambda key: key.split("/"))

    # --- clearing ---------------------------------------------------------------------------------------------

    def _free(self, names: Iterable[str]) -> None:
        """Remove of these objects what no checkpoint needs, if that can be told now."""
        with suppress(Conflict, IntegrityError), self._markers.sweeping(0) as in_time:
            self._remove(self._unneeded({place(name): 0 for name in names}), in_time)

    def _unneeded(self, objects: Mapping[str, int]) -> dict[str, int]:
        needed: set[str] = set()
        for key, index in self._peek_all(self._keys("")):
            if index is not None:
                needed.update(index.objects)
            elif self._shelf.size(f"{key}/{INDEX}") is not None:
                raise IntegrityError(
                    f"{INDEX} of checkpoint {key} in {self._shelf.uri} is damaged: what it needs cannot be told",
                    mend="write that checkpoint again, or remove this file by hand",
                )
        return {path: size for path, size in objects.items() if name_at(path) not in needed}

    def _remove(self, paths: Iterable[str], in_time: Callable[[], bool]) -> Collection[str]:
        """Remove until there is no time left; what was removed."""
        removed: dict[str, None] = {}
        waiting = [*paths]
        while waiting and in_time():
            part, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
            self._shelf.remove(part)
            removed |= dict.fromkeys(part)
        return removed

    # --- keys -------------------------------------------------------------------------------------------------

    def _uri(self, key: str) -> str:
        return f"{self._shelf.uri}/{quote(key)}"

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
                index = self._peek(key) if _is_key(key) else None
                if index and index.manifest.digest == stored.digest:
                    return key
        raise UsageError(
            f"{stored.uri} is not in this store, {self._shelf.uri}",
            mend="set `checkpoints` in ledger.toml, or LEDGER_CHECKPOINTS, to where it was written",
        )

    @contextmanager
    def _failures(self, what: str, no_room: str = _NO_ROOM) -> Iterator[None]:
        try:
            yield
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unavailable(f"cannot {what}: {reason} ({self._shelf.uri})", mend=_mend(error, no_room)) from error


def _mend(error: Exception, no_room: str) -> str:
    if isinstance(error, PermissionError):
        return "check the credentials or permissions: they must allow to read, write, list and delete there"
    if isinstance(error, FileNotFoundError):
        return "make that bucket, container or directory first, or correct `checkpoints` in ledger.toml"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_room
    return "check that the place can be reached and has space left, then try again"


def _new_file(root: Path, entry: Entry) -> BinaryIO:
    path = root / entry.path
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = 0o777 if entry.mode == "executable" else 0o666  # less the user's umask
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")


def _guard(key: str) -> None:
    """Refuse a key that names nothing, leaves the root, or is of the store's own making."""
    if not _is_key(key):
        raise UsageError(
            f"{key!r} cannot be the key of a checkpoint",
            mend="a key is plain names with slashes between them, such as run-1/step-500",
        )


def _is_key(key: str) -> bool:
    parts = key.split("/")
    own = parts[0] in _OWN or any(part in ("", ".", "..", INDEX) for part in parts)
    return not own and "\\" not in key and key.isprintable()
