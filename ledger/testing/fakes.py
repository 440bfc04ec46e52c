"""Stand-ins for tests of plugins: a source, a store and a tracker in memory, and a listener. No server, no disk.

Each passes the kit of its port, but for what outlives a process. ``FakePlugin`` plugs them in::

    fakes = FakePlugin()
    with open_ledger(settings=in_memory(tmp_path), plugins=Plugins.of(fakes, mine)) as book:
        ...
    assert fakes.heard == ["run.started", "run.completed"]
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from ledger import Entry, Manifest
from ledger.errors import CheckpointUnavailable, Conflict, DataUnavailable, DigestMismatch, Unavailable, UsageError
from ledger.events import DataCommit, FileDigest, Stored
from ledger.files import refuse_taken
from ledger.hooks.pages import Page, page_of, whole_page
from ledger.hooks.ports import Availability
from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ledger.codec import Recorded
    from ledger.hooks.pages import Adaptation
    from ledger.hooks.ports import CheckpointStore, DataSource, Garbage, Mirror

    Files = Mapping[str, bytes]
    """Content by relative path; a single file has the path ``.``."""

SCHEME: Final = "fake:"


class FakePlugin:
    """Answers to ``fake:`` URIs and has the mirror ``fake``; ``heard`` has the types of all events in their order."""

    def __init__(self) -> None:
        self.source = FakeSource()
        self.store = FakeStore()
        self.mirror = FakeMirror()
        self.heard: list[str] = []

    @hookimpl
    def open_data_source(self, uri: str) -> DataSource | None:
        """The source, for its URIs."""
        return self.source if uri.startswith(SCHEME) else None

    @hookimpl
    def open_checkpoint_store(self, uri: str) -> CheckpointStore | None:
        """The store, for its URIs."""
        return self.store if uri.startswith(SCHEME) else None

    @hookimpl
    def open_mirrors(self) -> Sequence[Mirror]:
        """The tracker."""
        return [self.mirror]

    @hookimpl
    def events_appended(self, recorded: Sequence[Recorded]) -> None:
        """Listen."""
        self.heard += [each.type for each in recorded]


class FakeSource:
    """A ``DataSource`` of what was published to it; it forgets nothing."""

    name = "fake"
    version = "1"

    def __init__(self) -> None:
        self._now: dict[str, Files] = {}
        self._kept: dict[str, Files] = {}

    def publish(self, place: Path, name: str = "data") -> str:
        """Take the content of a local file or directory as it is now; the URI that it has from now on."""
        self._now[name] = _read(place)
        return f"{SCHEME}{name}"

    def pin(self, uri: str) -> DataCommit:
        """See ``DataSource``."""
        name = uri.removeprefix(SCHEME)
        if not name.isidentifier():
            raise UsageError(f"{uri} is no name of fake data", mend="write fake:name")
        if name not in self._now:
            raise DataUnavailable(f"nothing was published as {uri}", mend="call publish first")
        manifest = _manifest(self._now[name])
        self._kept[manifest.digest] = self._now[name]
        return DataCommit(
            uri=uri, commit=manifest.digest, path=name, digest=manifest.digest, files=manifest.files,
            bytes=manifest.bytes,
        )  # fmt: skip

    def fetch(self, commit: DataCommit, dest: Path) -> None:
        """See ``DataSource``."""
        _write(self._content(commit), dest)

    def open(self, commit: DataCommit) -> tuple[Any, str]:
        """See ``DataSource``."""
        from fsspec.implementations.memory import MemoryFileSystem

        system, root = MemoryFileSystem(), f"/ledger-fake/{commit.digest}"
        for path, content in self._content(commit).items():
            system.pipe_file(f"{root}/{path}".removesuffix("/."), content)
        return system, root

    def check(self, commit: DataCommit) -> Availability:
        """See ``DataSource``."""
        there = commit.digest in self._kept
        return Availability(there, "" if there else f"{commit.uri} was never pinned here")

    def _content(self, commit: DataCommit) -> Files:
        if commit.digest not in self._kept:
            raise DataUnavailable(f"{commit.uri} was never pinned here", mend="pin it with this very source")
        return self._kept[commit.digest]


class FakeStore:
    """A ``CheckpointStore``; ``kept`` has the content of each checkpoint by its key, for tests to damage."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, bytes]] = {}
        self._stored: dict[str, Stored] = {}

    def write(self, directory: Path, key: str, base: Stored | None = None) -> Stored:
        """See ``CheckpointStore``; a ``base`` makes no difference."""
        _require_key(key)
        if not directory.is_dir() or not (files := _read(directory)):
            raise UsageError(f"{directory} is no directory with files", mend="save the state there first")
        inside = [
            other for other in self._stored if f"{other}/".startswith(f"{key}/") or f"{key}/".startswith(f"{other}/")
        ]
        manifest = _manifest(files)
        if inside not in ([], [key]) or (inside and self._stored[key].digest != manifest.digest):
            raise Conflict(f"{key} is taken by {inside[0]}", mend="choose another key, or delete that checkpoint")
        self.kept[key] = dict(files)
        digests = tuple(FileDigest(path=e.path, digest=e.digest, bytes=e.bytes) for e in manifest.entries)
        self._stored[key] = Stored(
            uri=f"{SCHEME}{key}", digest=manifest.digest, bytes=manifest.bytes, stored_bytes=manifest.bytes,
            files=digests,
        )  # fmt: skip
        return self._stored[key]

    def read(self, stored: Stored, dest: Path) -> None:
        """See ``CheckpointStore``."""
        key = self._key(stored)
        if self._stored.get(key) != stored:
            raise CheckpointUnavailable(f"{key} is gone", mend="resume from another checkpoint")
        for file in stored.files:
            if file.path not in self.kept[key]:
                raise CheckpointUnavailable(f"{key}/{file.path} is gone", mend="resume from another checkpoint")
            if (found := _digest(self.kept[key][file.path])) != file.digest:
                raise DigestMismatch(f"{key}/{file.path}", file.digest, found)
        _write(self.kept[key], dest)

    def list(self, prefix: str) -> Iterator[Stored]:
        """See ``CheckpointStore``."""
        wanted = prefix.strip("/")
        for key, stored in sorted(self._stored.items()):
            sizes = {path: len(content) for path, content in self.kept[key].items()}
            whole = sizes == {file.path: file.bytes for file in stored.files}
            if whole and (not wanted or f"{key}/".startswith(f"{wanted}/")):
                yield stored

    def delete(self, stored: Stored) -> None:
        """See ``CheckpointStore``."""
        key = self._key(stored)
        if self._stored.get(key) == stored:
            del self._stored[key], self.kept[key]

    def sweep(self, *, dry: bool) -> Iterator[Garbage]:
        """See ``CheckpointStore``: nothing is ever left over."""
        yield from ()

    def _key(self, stored: Stored) -> str:
        key = stored.uri.removeprefix(SCHEME)
        if key == stored.uri:
            raise UsageError(f"{stored.uri} is not in this store", mend="ask the store that wrote it")
        _require_key(key)
        return key


class FakeMirror:
    """A ``Mirror`` whose tracker lives as long as it does. While it is ``away``, it cannot be had."""

    name = "fake"
    target = "memory"

    def __init__(self) -> None:
        self.away = False
        self._pages: dict[str, dict[int, Page]] = {}

    def deliver(self, batch: Sequence[Recorded]) -> None:
        """See ``Mirror``."""
        self._require_reachable()
        for recorded in batch:
            pages = self._pages.setdefault(recorded.stream.removeprefix("run-"), {})
            pages[recorded.position] = page_of(recorded)

    def adapt(self, page: Page) -> tuple[Page, Sequence[Adaptation]]:
        """See ``Mirror``: nothing is adapted."""
        return page, ()

    def shows(self, run_id: str) -> Page | None:
        """See ``Mirror``."""
        self._require_reachable()
        pages = self._pages.get(run_id)
        return None if pages is None else whole_page(page for _, page in sorted(pages.items()))

    def close(self) -> None:
        """See ``Mirror``."""

    def _require_reachable(self) -> None:
        if self.away:
            raise Unavailable("the fake tracker is away", mend="set its `away` to False")


def _read(place: Path) -> Files:
    if place.is_file():
        return {".": place.read_bytes()}
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def _write(files: Files, dest: Path) -> None:
    refuse_taken(dest)
    for path, content in files.items():
        place = dest if path == "." else dest / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def _manifest(files: Files) -> Manifest:
    return Manifest.of(Entry(path, _digest(content), len(content)) for path, content in files.items())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _require_key(key: str) -> None:
    parts = PurePosixPath(key).parts
    if "/".join(parts) != key or not key.isprintable() or "\\" in key or not parts or set(parts) & {".", "..", "/"}:
        raise UsageError(f"{key!r} is no key of a checkpoint", mend="use plain names with slashes: run-1/step-500")
