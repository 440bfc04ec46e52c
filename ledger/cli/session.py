"""Which ledger a command works on, and how it opens it."""

from __future__ import annotations

import difflib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ledger.errors import NotFound, RunNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.book import Book
    from ledger.journal.carry import Recovered
    from ledger.settings import Settings

_SQLITE: Final = "sqlite:///"


@dataclass(frozen=True)
class Session:
    """One call of the command line: the ledger it was given, and whether it answers in JSON."""

    url: str | None = None
    json: bool = False

    @cached_property
    def settings(self) -> Settings:
        """Settings of the ledger. Raises ``InvalidSettings``."""
        from ledger.settings import find_settings

        return find_settings(self.url)

    @property
    def database(self) -> Path | None:
        """The file of an embedded ledger; None for a database server."""
        url = self.settings.url
        return Path(url.removeprefix(_SQLITE)) if url.startswith(_SQLITE) else None

    @property
    def place(self) -> str:
        """Where the ledger is, for people; without credentials."""
        from ledger.hooks.uris import without_credentials, without_password

        return str(self.database) if self.database else without_credentials(without_password(self.settings.url))

    @property
    def found_by(self) -> str:
        """What made it this ledger."""
        if self.url:
            return "named by --ledger"
        if os.environ.get("LEDGER_URL"):
            return "named by LEDGER_URL"
        from ledger.settings import FILE

        here = Path.cwd()
        file = next((d / FILE for d in (here, *here.parents) if (d / FILE).is_file()), None)
        return f"named by {file}" if file else f"where it is without {FILE}"

    @property
    def exists(self) -> bool:
        """Whether there is a ledger. A database server is asked when it is opened."""
        return self.database is None or self.database.is_file()

    def there_is_one(self) -> bool:
        """Whether there is a ledger; a database server is asked now. Raises ``StoreUnavailable``."""
        if not self.settings.url.startswith("postgres"):
            return self.exists
        from ledger.store.upkeep import exists

        return exists(self.settings.url)

    @contextmanager
    def reading(self) -> Iterator[Book]:
        """The ledger, open. Raises ``NotFound`` where there is none: to look must not make one."""
        if self.database and not self.exists:
            raise NotFound(
                f"there is no ledger in {self.database.parent}",
                mend="`ledger init` starts one; --ledger or LEDGER_URL names one that is elsewhere",
            )
        with self._open() as book:
            yield book

    @contextmanager
    def writing(self) -> Iterator[Book]:
        """The ledger, open; an embedded one is created where there is none."""
        with self._open() as book:
            yield book

    def _open(self) -> Book:
        from ledger.book import open_ledger

        book = open_ledger(settings=self.settings)
        for journal in book.recovered:
            _tell_of(book, journal)
        return book


def _tell_of(book: Book, journal: Recovered) -> None:
    from ledger.cli import render

    if journal.trouble:
        render.talk(journal.trouble)
    elif journal.events and journal.stream:
        name = book.store.projections.run_names().get(journal.stream, journal.stream)
        render.talk(f"a writer of {name} died: what it still had to say is in the log now")


def find_run(book: Book, reference: str) -> str:
    """UUID of the run that ``reference`` means. Raises ``RunNotFound`` with the names that come nearest."""
    try:
        return book.find(reference)
    except RunNotFound as error:
        names = list(book.names().values())
        raise RunNotFound(str(error), mend=_nearest(reference, names) or error.mend) from error


def _nearest(reference: str, names: list[str]) -> str | None:
    if not names:
        return "nothing is recorded yet: `ledger run -- COMMAND` or `ledger train CONFIG.toml` makes a run"
    near = difflib.get_close_matches(reference, reversed(names), n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}? `ledger ls` lists all" if near else None
