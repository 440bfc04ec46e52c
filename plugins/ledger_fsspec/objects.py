"""Pieces on a shelf: ``objects/ab/cdef…``, named after the SHA-256 of the piece.

A piece that is kept as the difference to another has the digests of both in its name, so that what an object
needs never changes, whoever writes it again.
"""

from __future__ import annotations

import errno
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger_fsspec.encoding import Base, Damaged, Header, decode, encode, is_name, parse

if TYPE_CHECKING:
    from ledger_fsspec.lent import Raw
    from ledger_fsspec.shelves import Shelf

FOLDER: Final = "objects"
_LONGEST_CHAIN: Final = 1000


class Lost(Exception):
    """An object that is needed is not there; ``base`` tells for which base, where it is not the piece itself."""

    def __init__(self, name: str, base: Base | None) -> None:
        super().__init__(name)
        self.base = base


@dataclass(frozen=True)
class Piece:
    """A piece as it was read."""

    content: bytearray
    needs: dict[str, int]
    """The objects that it is made of, and their sizes."""
    bases: frozenset[str]
    """Digests of the checkpoints that these are the difference to."""


@dataclass(frozen=True)
class Kept:
    """A piece that is on the shelf, and was read back."""

    name: str
    needs: dict[str, int]
    bases: frozenset[str]
    created: int
    """Bytes that were written for it; nothing where it was there already."""


def place(name: str) -> str:
    """Path of the object with this name."""
    return f"{FOLDER}/{name[:2]}/{name[2:]}"


def name_at(path: str) -> str:
    """The inverse of ``place``."""
    return "".join(path.split("/")[1:])


def is_place(path: str) -> bool:
    """Whether ``place`` gives it for any object; whatever else lies there is not ours."""
    name = name_at(path)
    return is_name(name) and place(name) == path


def load(shelf: Shelf, name: str) -> Piece:
    """Read a piece, and what it is the difference to. Raises ``Lost``, ``Damaged``."""
    found: list[tuple[Header, memoryview]] = []
    needs: dict[str, int] = {}
    base: Base | None = None
    following: str | None = name
    while following is not None:
        if following in needs or len(needs) > _LONGEST_CHAIN:
            raise Damaged("it is the difference to itself")
        try:
            content = shelf.read(place(following))
        except FileNotFoundError as error:
            raise Lost(following, base) from error
        needs[following] = len(content)
        found.append(parse(content))
        base = found[-1][0].base
        following = base.name if base else None
    raw: bytearray | None = None
    for header, payload in reversed(found):
        raw = decode(header, payload, raw)
    assert raw is not None  # noqa: S101 - the loop ran
    return Piece(raw, needs, frozenset(header.base.checkpoint for header, _ in found if header.base))


def keep(shelf: Shelf, raw: Raw, base: Base | None) -> Kept:
    """See to it that ``raw`` is on the shelf, whole: written unless it was, and read back either way."""
    digest = hashlib.sha256(raw).hexdigest()
    origin = base.name[:64] if base else None
    names = [digest] if base is None else [digest, f"{digest}-{origin}"]
    if base is not None and origin == digest:
        names = [base.name]
    for name in names:
        if shelf.size(place(name)) is not None and (kept := _whole(shelf, name, raw)):
            return kept
    return _written(shelf, raw, digest, base if origin != digest else None)


def _written(shelf: Shelf, raw: Raw, digest: str, base: Base | None) -> Kept:
    header, parts = encode(raw, _with_content(shelf, base, len(raw)))
    name = f"{digest}-{header.base.name[:64]}" if header.base else digest
    size = sum(len(part) for part in parts)
    created = shelf.create(place(name), parts)
    kept = _whole(shelf, name, raw)
    if kept is None and not created:  # what lies there is damaged
        shelf.write(place(name), parts)
        kept = _whole(shelf, name, raw)
    if kept is None:
        raise OSError(errno.EIO, f"what was written to {place(name)} reads back as something else")
    return Kept(name, kept.needs, kept.bases, size if created else 0)


def _with_content(shelf: Shelf, base: Base | None, length: int) -> tuple[Base, bytearray] | None:
    """The base and its bytes; None where it is no use: a checkpoint must not fail for the sake of an older one."""
    if base is None:
        return None
    try:
        content = load(shelf, base.name).content
    except (Lost, Damaged):
        return None
    return (base, content) if len(content) == length else None


def _whole(shelf: Shelf, name: str, raw: Raw) -> Kept | None:
    """The object, if it is there and gives ``raw``."""
    try:
        piece = load(shelf, name)
    except (Lost, Damaged):
        return None
    return Kept(name, piece.needs, piece.bases, 0) if piece.content == raw else None
