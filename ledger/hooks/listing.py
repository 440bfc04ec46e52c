"""What a service tells of the files at one place, and their bytes: the part of a data source that is a service's own.

``ledger.hooks.listed.ListedSource`` makes a ``DataSource`` of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ledger.errors import DataUnavailable
from ledger.hooks.ahead import ahead

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SINGLE: Final = "."
"""Name of the one file that is all of its place."""
THREADS: Final = 8
"""Requests at a time: such services answer late, and many at once."""


@dataclass(frozen=True)
class File:
    """A file as the service tells of it."""

    name: str
    """Relative to the place; ``SINGLE`` for a file that is all of it; empty, or with a final slash, for a directory."""
    bytes: int
    checksum: str = ""
    """What changes with the content: an ETag, an MD5, a time; empty where nothing is told."""
    version: str = ""
    """By which the service gives these bytes and no others; empty where it cannot."""

    @property
    def is_directory(self) -> bool:
        """Whether it only stands for a directory, which may be empty."""
        return not self.name or self.name.endswith("/")

    def same(self, other: File) -> bool:
        """Whether the two are certainly one content."""
        by_version = bool(self.version) and self.version == other.version
        by_checksum = bool(self.checksum) and self.checksum == other.checksum
        return self.bytes == other.bytes and (by_version or by_checksum or not self.bytes)


class Listing(ABC):
    """The files at ``path``. A subclass is made from nothing but that, in other processes and years later, too.

    ``files`` is called first; ``read`` from several threads at once. Whatever cannot be had raises
    ``DataUnavailable``, and no message holds a key.
    """

    piece: int = 8 << 20
    """Bytes of a request: what is sent again when a connection breaks. One more than ``THREADS`` are held in memory."""
    endpoint: str = ""
    """Which server gives these files, where one path may mean several; without credentials."""
    probes: ClassVar[int] = 0
    """Of how many files ``check`` reads a byte, where a service may list what it cannot give."""
    mend_changed: ClassVar[str] = "put the pinned content back, or start a new run on what is there now"

    def __init__(self, path: str, *, commit: str | None = None) -> None:
        self.path = path
        """As it goes on record: a URI without options and without a key."""
        self.commit = commit
        """What fixes these files for ever; None where others may take their place tomorrow."""

    @abstractmethod
    def files(self) -> Iterable[File]:
        """All files that are there now; none where there is nothing."""

    @abstractmethod
    def read(self, file: File, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` of a file, of its version if it has one."""

    # --- what a service may know better -----------------------------------------------------------------------

    def details(self, files: Sequence[File]) -> dict[str, Any]:
        """What else goes on record; no credentials."""
        return {}

    def address(self, file: File) -> str:
        """Where the service keeps the bytes: an address with the same checksum holds the same bytes for ever."""
        return self.place_of(file)

    def has(self, file: File) -> bool:
        """Whether the service still gives a version that it lists no longer."""
        return False

    def unchanged(self, file: File) -> bool:
        """Whether the file at this place is still the one that was listed."""
        return any(each.same(file) for each in self.files() if each.name == file.name)

    def contents(self, files: Iterable[File]) -> Iterator[tuple[File, Iterator[bytes]]]:
        """Each file with its bytes, which must be read to their end before the next; several requests run ahead."""
        given = [*files]
        pieces = (
            (file, start, min(start + self.piece, file.bytes))
            for file in given
            for start in range(0, file.bytes, self.piece)
        )
        with ThreadPoolExecutor(THREADS) as pool:
            read = ahead(pool, lambda piece: self.piece_of(*piece), pieces, THREADS + 1)
            for file in given:
                yield file, islice(read, -(-file.bytes // self.piece))

    def nothing(self) -> DataUnavailable:
        """What to say where there are no files."""
        return DataUnavailable(f"there are no files at {self.path}", mend="check the path")

    # ----------------------------------------------------------------------------------------------------------

    def named(self, name: str) -> str:
        """The name of a file for a message."""
        return self.path.rpartition("/")[2] or self.path if name == SINGLE else name

    def fixed(self, file: File) -> bool:
        """Whether these bytes cannot become others behind our back."""
        return self.commit is not None or bool(file.version)

    def changed(self, what: str) -> DataUnavailable:
        """What to say where ``what`` is there no longer, or is no longer the same."""
        return DataUnavailable(what, mend=self.mend_changed)

    def piece_of(self, file: File, start: int, end: int) -> bytes:
        """What ``read`` gives, if it is as much as was asked for."""
        piece = self.read(file, start, end)
        if len(piece) != end - start:
            raise self.cut_short(file)
        return piece

    def cut_short(self, file: File) -> DataUnavailable:
        """What to say where a file ends before its end."""
        return self.changed(f"{self.place_of(file)} is not as long as the {file.bytes} bytes that were told of")

    def place_of(self, file: File) -> str:
        """The path of a file."""
        return self.path if file.name == SINGLE else f"{self.path.rstrip('/')}/{file.name}"
