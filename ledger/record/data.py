"""The data sets of a run: pinned before it starts, found again bit for bit."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledger.errors import DataUnavailable, UsageError
from ledger.events import DataCommitted
from ledger.hooks.ports import Committing
from ledger.hooks.uris import without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ledger.book import Book
    from ledger.hooks.ports import DataSource


class Data:
    """A data set that a run reads, at the commit that is on record."""

    def __init__(self, book: Book, committed: DataCommitted) -> None:
        self.commit = committed
        self._book = book

    def fetch(self) -> Path:
        """A local path with the data: where they lie already, or a verified copy."""
        placed = os.environ.get(data_variable(self.commit.name))
        return Path(placed) if placed else place(self._book, self.commit)

    def open(self) -> tuple[Any, str]:
        """An fsspec filesystem and the path in it to stream the data from."""
        return source_of(self._book, self.commit).open(self.commit)


def pin_data(book: Book, name: str, uri: str, *, role: str | None = None) -> DataCommitted:
    """``uri`` at the immutable commit that it means now."""
    source = book.plugins.data_source(uri, book.settings, book.objects)
    commit = source.pin(uri)
    return DataCommitted(
        **commit.model_dump(), name=name, role=role or name, provider=source.name, provider_version=source.version
    )


def commit_data(book: Book, uris: Iterable[str], message: str) -> None:
    """Commit what is uncommitted in these data, where their sources know commits.

    Raises ``UsageError`` where none of them does: whoever asks for a commit relies on it.
    """
    sources = {uri: book.plugins.data_source(uri, book.settings, book.objects) for uri in uris}
    committing = {uri: source for uri, source in sources.items() if isinstance(source, Committing)}
    if not committing:
        where = ", ".join(map(without_credentials, sources)) or "a run without data"
        raise UsageError(
            f"--commit: there is nothing to commit in {where}",
            mend="leave --commit out; it is for data with branches, such as lakefs://REPOSITORY/BRANCH/PATH",
        )
    for uri, source in committing.items():
        source.commit(uri, message)


def data_variable(name: str) -> str:
    """The environment variable that tells a command where the data set ``name`` lies."""
    return "LEDGER_DATA_" + re.sub(r"\W", "_", name).upper()


def data_places(places: Mapping[str, Path]) -> dict[str, str]:
    """Environment variables that tell a command where its data sets lie."""
    return {data_variable(name): str(path) for name, path in places.items()}


def source_of(book: Book, committed: DataCommitted) -> DataSource:
    """The source that pinned this commit. Raises ``PluginUnavailable`` where it is not installed."""
    return book.plugins.data_source_named(committed.provider, committed.uri, book.settings, book.objects)


def place(book: Book, committed: DataCommitted) -> Path:
    """A local path with the data bit for bit as they were pinned: where they lie, or else a verified copy.

    Raises ``DataUnavailable`` where neither can be had.
    """
    source = source_of(book, committed)
    try:
        filesystem, path = source.open(committed)
        if "file" in _protocols(filesystem):
            return Path(path)
    except DataUnavailable:
        # No longer what was pinned in its place; what was fetched before, or a snapshot, still is.
        pass
    copy = book.settings.scratch / "data" / committed.digest
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        source.fetch(committed, copy)
    return copy


def _protocols(filesystem: Any) -> tuple[str, ...]:
    return (filesystem.protocol,) if isinstance(filesystem.protocol, str) else tuple(filesystem.protocol)
