"""A journal: the file in which one writer's facts wait for the log.

What ``add`` has handed to the operating system survives the death of the process, even by SIGKILL; what ``sync`` has
pushed to the disk survives a power cut. The file begins with ``MAGIC``; frames follow, the first of them the header,
JSON that says whose journal it is. A frame is four little-endian 32-bit numbers and a body: the length of the body, the
complement of that length, the CRC-32 (as in zlib) of all that follows it, and the kind of the frame. The complement
tells a damaged length from a frame whose end was never written.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zlib import crc32

import orjson

from ledger.codec import Metadata, new_id
from ledger.errors import IntegrityError, StoreUnavailable
from ledger.files import sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAGIC: Final = b"LEDGERJ1"
SUFFIX: Final = ".journal"
_UNFINISHED: Final = ".new"
HEADER: Final = 0
"""The kind of the first frame; ``facts`` has the others."""
PREFIX: Final = struct.Struct("<IIII")
_UNCHECKED: Final = struct.Struct("<III")
_KIND: Final = struct.Struct("<I")
_COMPLEMENT: Final = 0xFFFFFFFF
_HEADER_LIMIT: Final = 65_536
_ONLY_THE_USER: Final = 0o600


@dataclass(frozen=True, slots=True)
class Header:
    """Whose journal it is."""

    journal: str
    """Its id, which the file is named after."""
    stream: str
    metadata: Metadata
    """Of every fact in it."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Where a journal stops making sense."""

    at: int
    torn: bool
    """Whether it is only its end that was never written, so that nothing acknowledged is missing."""


class Journal:
    """A journal, open and locked (flock): one process has it, and a forked child lets go of its copy.

    The lock is how others know that a writer lives. One thread at a time may use it, except for ``read``. Get one from
    ``create`` or ``take``.
    """

    def __init__(self, path: Path, fd: int, header: Header, begin: int) -> None:
        self.path = path
        self.header = header
        self.begin = begin
        """Where the facts begin."""
        self._fd = fd

    @classmethod
    def create(cls, directory: Path, stream: str, metadata: Metadata) -> Journal:
        """A new journal, which appears under its name whole. Raises ``StoreUnavailable``."""
        header = Header(new_id(), stream, metadata)
        path = directory / (header.journal + SUFFIX)
        begin = MAGIC + frame(HEADER, orjson.dumps(asdict(header) | {"format": 1}))
        unfinished = path.with_suffix(_UNFINISHED)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            fd = _locked_file(unfinished)
            os.write(fd, begin)
            os.fsync(fd)
            unfinished.rename(path)
            sync_directory(directory)
        except OSError as error:
            raise _unwritable(path, error.strerror) from error
        return cls(path, fd, header, len(begin))

    @classmethod
    def take(cls, path: Path) -> Journal | None:
        """The journal that a dead writer left at ``path``; None where that is not for this process to take.

        Its writer lives, somebody else has just taken it, or it is another user's. Raises ``IntegrityError`` for a file
        that is no journal or bears another's name.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND)
        except (FileNotFoundError, PermissionError):
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists():  # whoever had it a moment ago is done with it
                os.close(fd)
                return None
            return cls(path, fd, *_header(path, os.pread(fd, _HEADER_LIMIT, 0)))
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise

    def add(self, frames: bytes) -> None:
        """Append whole frames by one write(2): all of them or, where it raises ``StoreUnavailable``, none."""
        try:
            written = os.write(self._fd, frames)
        except OSError as error:
            raise _unwritable(self.path, error.strerror) from error
        if written != len(frames):  # half a frame must not stay in front of the next one
            os.ftruncate(self._fd, self.size() - written)
            raise _unwritable(self.path, "no space left on device")

    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._fd).st_size

    def read(self, start: int, length: int) -> bytes:
        """At most ``length`` bytes from ``start`` on."""
        return os.pread(self._fd, length, start)

    def frame_at(self, place: int) -> tuple[int, bytes] | None:
        """Kind and body of the frame at ``place``; None where it is damaged."""
        prefix = self.read(place, PREFIX.size)
        if len(prefix) < PREFIX.size:
            return None
        length, complement, _, kind = PREFIX.unpack(prefix)
        if length ^ complement != _COMPLEMENT:
            return None
        found, _ = frames(prefix + self.read(place + PREFIX.size, length))
        return (kind, self.read(place + PREFIX.size, length)) if found else None

    def sync(self) -> None:
        """Return when all of it is on the disk. Raises ``StoreUnavailable``."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise _unwritable(self.path, error.strerror) from error

    def keep_as(self, suffix: str) -> None:
        """Put it aside under another suffix, where nobody takes it for a journal that waits."""
        self.path.rename(self.path.with_suffix(suffix))

    def remove(self) -> None:
        """Give it up: everything in it is in the log."""
        with suppress(OSError):
            self.path.unlink()
        self.close()

    def close(self) -> None:
        """Close it in this process only: where a forked child calls this, its parent's journal stays locked."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Frame(NamedTuple):
    """Where a frame lies among the bytes that were searched."""

    kind: int
    start: int
    end: int


def frame(kind: int, body: bytes) -> bytes:
    """``body`` as it stands in the file."""
    return checked_frame(_KIND.pack(kind) + body)


def checked_frame(kind_and_body: bytes) -> bytes:
    """A frame whose kind, little-endian in 32 bits, stands in front of its body already."""
    size = len(kind_and_body) - _KIND.size
    return _UNCHECKED.pack(size, size ^ _COMPLEMENT, crc32(kind_and_body)) + kind_and_body


def frames(content: bytes, start: int = 0) -> tuple[list[Frame], Damage | None]:
    """Whole frames from ``start`` on, up to the end or the first damage."""
    found: list[Frame] = []
    place, size, view = start, len(content), memoryview(content)
    while place < size:
        body = place + PREFIX.size
        if body > size:
            return found, Damage(place, torn=True)
        length, complement, checksum, kind = PREFIX.unpack_from(content, place)
        end = body + length
        if length ^ complement != _COMPLEMENT:
            # After a power cut a file may have its length but not its last blocks: zeros to the end.
            return found, Damage(place, torn=not content[place:].strip(b"\0"))
        if end > size:
            return found, Damage(place, torn=True)
        if crc32(view[place + _UNCHECKED.size : end]) != checksum:
            return found, Damage(place, torn=False)
        found.append(Frame(kind, place, end))
        place = end
    return found, None


def _header(path: Path, content: bytes) -> tuple[Header, int]:
    found = frames(content, len(MAGIC))[0] if content.startswith(MAGIC) else []
    if not found:
        raise IntegrityError(
            f"{path} is no journal, or its beginning is damaged", mend=f"move it away; a journal begins with {MAGIC!r}"
        )
    begin = found[0].end
    fields: dict[str, Any] = orjson.loads(content[found[0].start + PREFIX.size : begin])
    if fields["format"] != 1:
        raise IntegrityError(
            f"the journal {path} was written by a newer version of Ledger",
            mend="upgrade Ledger: pip install --upgrade training-ledger",
        )
    header = Header(fields["journal"], fields["stream"], Metadata(**fields["metadata"]))
    if path.name != header.journal + SUFFIX:
        raise IntegrityError(
            f"{path} is journal {header.journal}, of {header.stream}, under another name",
            mend=f"give it its own name back, {header.journal}{SUFFIX}, or move it away",
        )
    return header, begin


def headers(directory: Path) -> Iterator[Header]:
    """Of every journal in ``directory`` whose it is, whoever has it; what is no journal is passed over."""
    for path in directory.glob("*" + SUFFIX):
        with suppress(OSError, IntegrityError), path.open("rb") as file:
            yield _header(path, file.read(_HEADER_LIMIT))[0]


def sweep(directory: Path) -> None:
    """Remove what is left of journals whose writers died while they created them: there is nothing in them yet."""
    for path in directory.glob("*" + _UNFINISHED):
        with suppress(OSError):  # its writer lives, it is another user's, or somebody else was faster
            fd = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(fd)


def _locked_file(path: Path) -> int:
    """A new file, open and locked."""
    while True:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND, _ONLY_THE_USER)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if path.exists():
            return fd
        os.close(fd)  # swept away before it was locked


def _unwritable(path: Path, why: str | None) -> StoreUnavailable:
    return StoreUnavailable(
        f"the journal {path} cannot be written: {why}", mend="free some space there, or make the directory writable"
    )
