"""What a directory, or a single file, holds: every name, every digest. Its own digest stands for all of it.

The canonical bytes are canonical JSON of a list of entries sorted by path (code points), one object each with
``bytes``, ``digest``, ``mode`` and ``path``. A single file is a manifest with the one path ``.``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Literal

import orjson

from ledger.codec import canonical_json
from ledger.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable

Mode = Literal["file", "executable", "link", "directory"]
SINGLE_FILE: Final = "."
BEGINNING: Final = b'[{"bytes":'
"""Of the canonical bytes of every manifest that is not empty."""
_MODES: Final = frozenset({"file", "executable", "link", "directory"})


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One name below the root. A link's content is its target; only empty directories are listed."""

    path: str
    digest: str
    bytes: int
    mode: Mode = "file"


@dataclass(frozen=True)
class Manifest:
    """Entries sorted by path. Build it with ``Manifest.of``, read it with ``Manifest.parse``."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Manifest:
        """A manifest of these entries, whatever their order.

        Raises ``IntegrityError`` for an unsafe path, one that is named twice, or one that lies below a file.
        """
        ordered = tuple(sorted(entries))
        paths = {entry.path for entry in ordered}
        if len(paths) < len(ordered) or (SINGLE_FILE in paths and len(paths) > 1):
            raise IntegrityError("manifest names a path twice")
        for path in paths:
            _guard(path)
            if path != SINGLE_FILE and any(str(parent) in paths for parent in PurePosixPath(path).parents):
                raise IntegrityError(f"manifest names {path!r} below a path that is no directory to it")
        return cls(ordered)

    @classmethod
    def parse(cls, content: bytes) -> Manifest:
        """The manifest with these canonical bytes. Raises ``IntegrityError`` for anything else."""
        try:
            manifest = cls.of(Entry(**row) for row in orjson.loads(content))
            modes = {entry.mode for entry in manifest.entries}
        except (orjson.JSONDecodeError, TypeError) as error:
            raise IntegrityError(f"not a manifest: {error}") from error
        if not modes <= _MODES or manifest.content != content:
            raise IntegrityError("not a manifest in its canonical form")
        return manifest

    @cached_property
    def content(self) -> bytes:
        """The canonical bytes."""
        return canonical_json(
            [{"bytes": e.bytes, "digest": e.digest, "mode": e.mode, "path": e.path} for e in self.entries]
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes: one number for every name and every byte."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def bytes(self) -> int:
        """Size of the whole content."""
        return sum(entry.bytes for entry in self.entries)

    @property
    def files(self) -> int:
        """How many files and links it holds."""
        return sum(entry.mode != "directory" for entry in self.entries)

    def changes(self, now: Manifest) -> list[str]:
        """What became of each name that differs in ``now``: ``changed a``, ``missing b``, ``new c``."""
        before = {e.path: e for e in self.entries}
        after = {e.path: e for e in now.entries}
        found = []
        for path in sorted(before.keys() | after.keys()):
            if path not in after:
                found.append(f"missing {path}")
            elif path not in before:
                found.append(f"new {path}")
            elif before[path] != after[path]:
                found.append(f"changed {path}")
        return found


def _guard(path: str) -> None:
    """Refuse a path that would leave the directory it is written into."""
    parts = PurePosixPath(path).parts
    if path == SINGLE_FILE:
        return
    if (
        not parts
        or path.startswith("/")
        or ".." in parts
        or "\\" in path
        or "\0" in path
        or str(PurePosixPath(path)) != path
    ):
        raise IntegrityError(f"manifest names the unsafe path {path!r}")
