"""``checkpoint.json``, the one file that makes a checkpoint be there: what it holds, and which objects keep it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from ledger import Entry, Manifest
from ledger.codec import canonical_digest, canonical_json
from ledger.errors import IntegrityError
from ledger.events import FileDigest, Stored
from ledger_fsspec.encoding import is_name
from ledger_fsspec.pieces import LARGEST

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Index:
    """A checkpoint. Its identity is the digest of its manifest, however its content is kept."""

    manifest: Manifest
    files: Mapping[str, tuple[tuple[str, int], ...]]
    """Of each file the pieces in order: name of the object, bytes of the piece."""
    objects: Mapping[str, int]
    """Every object that is needed, those that others are the difference to as well, and its size."""
    bases: tuple[str, ...]
    """Digests of the checkpoints that some of the content is kept as the difference to."""
    added: int
    """Bytes that came into the store with it, this index included."""

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        files: Mapping[str, tuple[tuple[str, int], ...]],
        objects: Mapping[str, int],
        bases: tuple[str, ...],
        created: int,
    ) -> Index:
        """The index of a checkpoint for which ``created`` bytes of objects were written."""
        index = cls(manifest, files, objects, bases, created)
        while (added := created + len(index.content)) != index.added:  # the number is part of what it counts
            index = cls(manifest, files, objects, bases, added)
        return index

    @classmethod
    def parse(cls, content: bytes) -> Index:
        """Raises ``IntegrityError`` for anything but what ``content`` gives."""
        try:
            fields = orjson.loads(content)
            files = {path: tuple((name, size) for name, size in rows) for path, rows in fields["files"].items()}
            manifest = Manifest.parse(canonical_json(fields["manifest"]))
            index = cls(manifest, files, fields["objects"], tuple(fields["bases"]), int(fields["added"]))
            sound = index.content == content and index._is_sound()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise IntegrityError(f"not the index of a checkpoint: {error}") from error
        if not sound:
            raise IntegrityError("not the index of a checkpoint: it contradicts itself")
        return index

    @property
    def content(self) -> bytes:
        """As it is stored: with a digest of the rest, for no fact in the log covers how content is kept."""
        fields = {
            "added": self.added,
            "bases": self.bases,
            "files": self.files,
            "manifest": orjson.loads(self.manifest.content),
            "objects": self.objects,
        }
        return canonical_json(fields | {"digest": canonical_digest(fields)})

    @property
    def entries(self) -> list[Entry]:
        """The files, by path."""
        return [entry for entry in self.manifest.entries if entry.mode != "directory"]

    def stored(self, uri: str) -> Stored:
        """The fact about it."""
        return Stored(
            uri=uri,
            digest=self.manifest.digest,
            bytes=self.manifest.bytes,
            stored_bytes=self.added,
            files=tuple(FileDigest(path=e.path, digest=e.digest, bytes=e.bytes) for e in self.entries),
            bases=self.bases,
        )

    def _is_sound(self) -> bool:
        names = all(is_name(name) and size > 0 for name, size in self.objects.items())
        pieces = all(
            name in self.objects and 0 < size <= LARGEST for pieces in self.files.values() for name, size in pieces
        )
        files = {path: sum(size for _, size in pieces) for path, pieces in self.files.items()}
        return names and pieces and files == {entry.path: entry.bytes for entry in self.entries}
