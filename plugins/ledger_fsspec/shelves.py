"""What the checkpoint store asks of the place it writes to. A shelf holds small files, each visible whole or
not at all.

Paths are relative to the root, with forward slashes, and were checked by the caller.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import uuid4

from ledger.files import sync_directory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

TEMPORARY: Final = "tmp"
"""The folder of files that are being written, on shelves that need one."""


def temporary_name() -> str:
    """A path for a file that is being written: the time in it tells when it was given up."""
    return f"{TEMPORARY}/{time.time():.0f}-{uuid4().hex}"


class Shelf(Protocol):
    """Failures are ``OSError``. Every method may be called from any thread."""

    uri: str
    """Without credentials and without a final slash."""
    threads: int
    """How many pieces to work on at a time."""
    lag: float
    """Seconds for which what a process had asked for may still happen after its death."""

    def read(self, path: str) -> bytes:
        """The content; ``FileNotFoundError`` where there is no file."""

    def write(self, path: str, parts: Sequence[Any]) -> None:
        """Put the buffers, one after the other, in the place of whatever was there."""

    def create(self, path: str, parts: Sequence[Any]) -> bool:
        """The same where nothing was there; False, and nothing done, where something was.

        Of two who create one path at once, on whatever hosts, one gets False.
        """

    def settle(self, paths: Iterable[str]) -> None:
        """Make the names of files that were written durable; their content is already."""

    def size(self, path: str) -> int | None:
        """Bytes of the file, None where there is none."""

    def sizes(self, path: str, *, without: Collection[str] = ()) -> dict[str, int]:
        """Bytes of every file below ``path`` by its path, except in the folders ``without`` at the top."""

    def remove(self, paths: Sequence[str]) -> None:
        """Remove these files; those that are gone are fine."""


class LocalShelf:
    """A directory."""

    threads = 4
    lag = 0.0

    def __init__(self, root: Path) -> None:
        self.uri = root.as_uri().rstrip("/")
        self._root = str(root)

    def read(self, path: str) -> bytes:
        """See ``Shelf``."""
        with open(f"{self._root}/{path}", "rb", buffering=0) as stream:
            content = stream.read()
            _drop_from_memory(stream.fileno())
        return content

    def write(self, path: str, parts: Sequence[Any]) -> None:
        """See ``Shelf``."""
        self._put(path, parts, os.replace)

    def create(self, path: str, parts: Sequence[Any]) -> bool:
        """See ``Shelf``."""
        try:
            self._put(path, parts, _link)
        except FileExistsError:
            return False
        return True

    def settle(self, paths: Iterable[str]) -> None:
        """See ``Shelf``."""
        for directory in {folder for path in paths for folder in self._folders(path)}:
            with suppress(FileNotFoundError):  # of what was removed meanwhile there is no name to keep
                sync_directory(directory)

    def size(self, path: str) -> int | None:
        """See ``Shelf``."""
        try:
            return os.stat(f"{self._root}/{path}").st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sizes(self, path: str, *, without: Collection[str] = ()) -> dict[str, int]:
        """See ``Shelf``."""
        found = {}
        top = f"{self._root}/{path}".rstrip("/")
        for directory, folders, names in os.walk(top, onerror=unless_gone):
            if directory == top:
                folders[:] = [folder for folder in folders if folder not in without]
            for name in names:
                file = os.path.join(directory, name)
                with suppress(FileNotFoundError):
                    found[os.path.relpath(file, self._root)] = os.stat(file).st_size
        return found

    def remove(self, paths: Sequence[str]) -> None:
        """See ``Shelf``; folders that this leaves empty go too, those at the top excepted."""
        for path in paths:
            with suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(f"{self._root}/{path}")
        for folder in {folder for path in paths for folder in self._folders(path)[:1]}:
            with suppress(FileNotFoundError):
                sync_directory(folder)
            with suppress(OSError):
                while os.path.dirname(folder) != self._root:
                    os.rmdir(folder)
                    folder = os.path.dirname(folder)

    def _put(self, path: str, parts: Sequence[Any], publish: Any) -> None:
        temporary = f"{self._root}/{temporary_name()}"
        final = f"{self._root}/{path}"
        _make_folder(os.path.dirname(temporary))
        try:
            with open(temporary, "xb") as stream:  # buffered: an unbuffered write may take a part, and not say so
                for part in parts:
                    stream.write(part)
                stream.flush()
                os.fsync(stream.fileno())
            while True:
                _make_folder(os.path.dirname(final))
                try:
                    publish(temporary, final)
                except FileNotFoundError:
                    if os.path.exists(temporary):  # so the folder went just now, for it was empty
                        continue
                    raise
                return
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    def _folders(self, path: str) -> list[str]:
        """All that hold the file, up to the root, from the inside."""
        folders = [os.path.dirname(f"{self._root}/{path}")]
        while folders[-1] != self._root:
            folders.append(os.path.dirname(folders[-1]))
        return folders


def unless_gone(error: OSError) -> None:
    """Let a walk fail where it cannot list a folder: a checkpoint in there may be all that needs an object."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _drop_from_memory(file: int) -> None:
    """Let the system forget its copy of a file that was read: nobody reads it again soon.

    So the next piece gets that memory. To find other memory for it takes longer than to write it, and the copies of
    all pieces together would crowd out what training reads.
    """
    if hasattr(os, "posix_fadvise"):  # macOS has no such call
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def _make_folder(path: str) -> None:
    """Like ``os.makedirs``, which fails where somebody removes a folder in the same instant because it is empty."""
    while not os.path.isdir(path):
        try:
            os.makedirs(path, exist_ok=True)
        except FileExistsError as error:
            if os.path.lexists(path) and not os.path.isdir(path):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from error
        except FileNotFoundError:
            continue  # one further up


def _link(temporary: str, final: str) -> None:
    """Give the file its name unless that is taken; a plain rename would replace what is there."""
    try:
        os.link(temporary, final)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        # No links here (FAT, some network mounts). Between the look and the rename another may come first.
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), final) from error
        os.rename(temporary, final)
