"""What lies outside the log and what the log says of it: objects and checkpoints, every byte read again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from ledger.errors import CheckpointUnavailable, IntegrityError, ObjectNotFound
from ledger.events import (
    ArtifactWritten,
    CheckpointDeleted,
    CheckpointWritten,
    CodeCaptured,
    ConsoleCaptured,
    DataCommitted,
    EnvironmentCaptured,
)
from ledger.trust.chain import content
from ledger.trust.problem import Problem, forged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ledger.book import Book
    from ledger.codec import Codec
    from ledger.objects import ObjectStore
    from ledger.store.scan import Row

TYPES: Final = frozenset(
    event.type
    for event in (
        ArtifactWritten,
        CheckpointDeleted,
        CheckpointWritten,
        CodeCaptured,
        ConsoleCaptured,
        DataCommitted,
        EnvironmentCaptured,
    )
)
"""Types of the facts that name something outside the log."""
_THREADS: Final = 4
"""Objects at a time: hashing lets go of the interpreter, and a remote place answers late."""


@dataclass
class Contents:
    """What a log says is kept; each with the place where it says so first."""

    trees: dict[str, str] = field(default_factory=dict)
    """Digests of manifests, which are objects, as is everything that they name."""
    objects: dict[str, str] = field(default_factory=dict)
    checkpoints: dict[str, tuple[CheckpointWritten, str]] = field(default_factory=dict)
    """Those that were written and not deleted, by URI."""
    problems: list[Problem] = field(default_factory=list)
    """Events that say nothing, though their digests are right: whoever wrote them, it was not Ledger."""

    @classmethod
    def of(cls, rows: Iterable[Row], codec: Codec) -> Contents:
        """What these rows of ``TYPES``, whose digests were checked, name."""
        found = cls()
        for row in rows:
            try:
                fact = codec.decode(row.type, row.schema_version, content(row.payload, row.packed).encode())
            except ValueError:
                found.problems.append(forged(row))
            else:
                found._add(fact, f"{row.type} of {row.stream}")
        return found

    def _add(self, fact: object, where: str) -> None:
        match fact:
            case CodeCaptured():
                self.trees.setdefault(fact.tree, where)
            case DataCommitted(snapshot=True):
                self.trees.setdefault(fact.digest, f"{where}, {fact.name}")
            case ArtifactWritten():
                self.trees.setdefault(fact.digest, f"{where}, {fact.path}")
            case ConsoleCaptured():
                self.objects.setdefault(fact.digest, where)
            case EnvironmentCaptured(lock=str(lock)):
                self.objects.setdefault(lock, where)
            case CheckpointWritten():
                self.checkpoints[fact.uri] = (fact, f"{where}, {fact.name}")
            case CheckpointDeleted():
                kept = self.checkpoints.get(fact.uri)
                if kept and kept[0].digest == fact.digest:
                    del self.checkpoints[fact.uri]


def check_objects(
    objects: ObjectStore, contents: Contents, progress: Callable[[int, int], None]
) -> tuple[int, list[Problem]]:
    """How many objects there are, and what is wrong with any of them."""
    problems: list[Problem] = []
    wanted: dict[str, tuple[int | None, str]] = {digest: (None, where) for digest, where in contents.objects.items()}
    for digest, where in contents.trees.items():
        try:
            manifest = objects.get_manifest(digest)
        except (IntegrityError, ObjectNotFound) as error:
            problems.append(_object(digest, where, error))
            continue
        for entry in manifest.entries:
            if entry.mode != "directory":
                wanted.setdefault(entry.digest, (entry.bytes, f"{where}, {entry.path}"))
    total = len(contents.trees) + len(wanted)

    def check(item: tuple[str, tuple[int | None, str]]) -> Problem | None:
        digest, (size, where) = item
        try:
            actual = objects.verify(digest)
        except (IntegrityError, ObjectNotFound) as error:
            return _object(digest, where, error)
        if size not in (None, actual):
            return Problem("object altered", f"object {digest}", f"it has {actual} bytes and not {size} ({where})")
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        for done, problem in enumerate(pool.map(check, wanted.items()), 1):
            problems += [problem] if problem else []
            progress(len(contents.trees) + done, total)
    return total, problems


def check_checkpoints(book: Book, contents: Contents, progress: Callable[[int, int], None]) -> Iterator[Problem]:
    """What is wrong with any of the checkpoints. Each is read as a resumed training would read it, and thrown away."""
    if not contents.checkpoints:
        return
    store = book.checkpoints()
    book.settings.scratch.mkdir(parents=True, exist_ok=True)
    for done, (written, where) in enumerate(contents.checkpoints.values(), 1):
        with TemporaryDirectory(dir=book.settings.scratch, prefix="verify-") as scratch:
            try:
                store.read(written, Path(scratch) / "checkpoint")
            except IntegrityError as error:
                yield Problem("checkpoint altered", written.uri, f"{error} ({where})")
            except CheckpointUnavailable as error:
                yield Problem("checkpoint missing", written.uri, f"{error} ({where})")
        progress(done, len(contents.checkpoints))


def _object(digest: str, where: str, error: Exception) -> Problem:
    if isinstance(error, ObjectNotFound):
        return Problem("object missing", f"object {digest}", f"it is kept nowhere any more ({where})")
    return Problem("object altered", f"object {digest}", f"its content is another ({where})")
