"""One bit flipped anywhere: it is seen and named, and what is read is never what was not written."""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

from ledger.book import Book, open_ledger
from ledger.codec import Draft, Metadata, new_id
from ledger.errors import LedgerError
from ledger.events import MetricsLogged, RunAnnotated
from ledger.journal.facts import RowWriter, fact_frame
from ledger.journal.file import Journal
from ledger.settings import find_settings
from ledger.store.base import LEDGER_STREAM, run_stream
from ledger.testing.builders import run_started
from ledger.trust.verify import verify
from tests.faults.place import Place, kill, projections

if TYPE_CHECKING:
    from collections.abc import Iterator


def flip(path: Path, bit: int) -> None:
    """Flip one bit of a file, whatever its permissions; doing it again undoes it."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


# --- journals


@pytest.mark.seeds(sample=10, all=100)
def test_a_journal_is_read_up_to_the_damage_and_kept(place: Place, seed: int, chance: random.Random) -> None:
    rows, notes = [(step, step / 8) for step in range(60)], [f"note {n}" for n in range(60)]
    ends: list[int] = []
    with place.book() as book:
        run = new_id()
        book.append(run, run_started(name=book.store.name_run(run_stream(run))), attempt=1)
        journal = Journal.create(book.settings.journals, run_stream(run), Metadata("run", "there", 1, "0", attempt=1))
        names = RowWriter(journal)
        for (step, value), text in zip(rows, notes, strict=True):
            names.add(step, 1e9, {"loss" if step % 3 else "val/loss": value})
            journal.add(fact_frame(book.codec.draft(RunAnnotated(text=text), journal.header.metadata)))
            ends.append(journal.size())
        journal.close()
    bit = chance.randrange(journal.path.stat().st_size * 8)
    flip(journal.path, bit)
    damaged = journal.path.read_bytes()

    with place.book() as book:
        [recovered] = book.recovered
        read = [recorded.event for recorded in book.store.read(run_stream(run))]
        assert verify(book).problems == []
        kept = [path for path in book.settings.journals.iterdir() if path.read_bytes() == damaged]
    assert recovered.trouble
    assert [path.stem for path in kept] == [journal.path.stem]
    assert journal.path.stem in recovered.trouble
    points = [
        (step, value)
        for event in read
        if isinstance(event, MetricsLogged)
        for n, step in enumerate(event.step)
        for value in (column[n] for column in event.values.values())
        if value is not None
    ]
    told = [event.text for event in read if isinstance(event, RunAnnotated) and event.text != recovered.trouble]
    assert points == rows[: len(points)]
    assert told == notes[: len(told)]
    assert len(points) - len(told) in (0, 1)
    assert len(told) == sum(end <= bit // 8 for end in ends), "something before the damage was given up"


# --- a ledger with everything in it


@dataclass
class Ledger:
    """A ledger, sound, and all that can be read from it."""

    place: Place
    database: Path

    def settings(self, database: Path | None = None) -> Any:
        """As the command line would find them; with another database file, if given."""
        settings = find_settings(start=self.place.home, environ=self.place.environ)
        return replace(settings, url=f"sqlite:///{database}") if database else settings


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    place = Place(tmp_path_factory.mktemp("flip") / "home")
    for _ in range(2):
        place.survey("journey")
    place.must_be_whole()
    yield Ledger(place, place.home / ".ledger" / "ledger.db")
    place.must_be_whole()


def everything(book: Book) -> list[object]:
    """All that a reader can learn from the log and its lists, by every way that leads there."""
    store, log = book.store, list(book.store.read_all())
    streams = sorted({event.stream for event in log})
    return [
        log,
        [(s, list(store.read(s)), store.head(s), store.find_streams(s)) for s in streams],
        {kind: [e.event_id for e in store.read_all(types=[kind])] for kind in sorted({event.type for event in log})},
        [store.append(e.stream, [Draft(e.event_id, e.type, e.schema_version, e.payload, e.metadata)]) for e in log],
        [store.name_run(s) for s in streams if s != LEDGER_STREAM],
        projections(book),
    ]


@pytest.mark.seeds(sample=10, all=60)
def test_an_object_or_a_checkpoint_is_named(whole: Ledger, seed: int, chance: random.Random) -> None:
    home = whole.database.parent
    files = sorted(p for part in ("objects", "checkpoints") for p in (home / part).rglob("*") if p.is_file())
    file = chance.choice([path for path in files if path.stat().st_size])
    bit = chance.randrange(file.stat().st_size * 8)
    flip(file, bit)
    try:
        with open_ledger(settings=whole.settings()) as book:
            named = [problem.where for problem in verify(book).problems]
    finally:
        flip(file, bit)
    below = file.relative_to(home)
    if below.parts[0] == "objects":
        assert [f"object {below.parts[1]}{below.parts[2]}"] == named
    elif below.parts[1] == "objects":
        assert named  # every checkpoint that needs this content
        assert all(uri.startswith((home / "checkpoints").as_uri()) for uri in named)
    else:
        assert [Path(unquote(urlsplit(uri).path)) in file.parents for uri in named] == [True]


# --- the tables


LOG = ("event", "stream_head", "run_name", "ledger_schema")
"""A change of any value in these is seen, and the event or the index named."""
BESIDE = (
    "journal_position", "run_summary", "run_tag", "run_metric", "run_config", "run_checkpoint", "run_checkpoint_file",
)  # fmt: skip
"""A change of any value in these is seen, and the table named."""
NO_FACTS = ("lease",)
"""These are about writers, here about such as have ended: nobody asks for their rows again."""


@pytest.mark.seeds(sample=1, all=12)
@pytest.mark.parametrize("table", LOG + BESIDE + NO_FACTS)
def test_a_value_in_a_table(whole: Ledger, tmp_path: Path, table: str, seed: int, chance: random.Random) -> None:
    database = tmp_path / "ledger.db"
    shutil.copy(whole.database, database)
    with closing(sqlite3.connect(database)) as outsider:
        where = _flip_value(outsider, table, chance)
    found = _check(whole, database)
    if table in NO_FACTS:
        assert not found
        _must_be_equal(whole, database)
    else:
        assert found, f"nobody noticed {where}"
    if table in BESIDE:
        assert {said.split(" of ")[0].partition(": ")[2] for said in found} <= {table, "run_checkpoint_file"}, where


def _flip_value(outsider: sqlite3.Connection, table: str, chance: random.Random) -> str:
    """Flip one bit of one value, triggers or not; what was done."""
    for (trigger,) in outsider.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        outsider.execute(f"DROP TRIGGER {trigger}")
    columns = [name for _, name, *_ in outsider.execute(f"PRAGMA table_info({table})")]
    values = [
        (rowid, column, value)
        for column in columns
        for rowid, value in outsider.execute(f'SELECT rowid, "{column}" FROM {table}')
        if value not in (None, "", b"")
    ]
    rowid, column, value = chance.choice(values)
    flipped = _flipped(value, chance)
    placeholder = "CAST(? AS TEXT)" if isinstance(value, str) else "?"
    outsider.execute(f'UPDATE {table} SET "{column}" = {placeholder} WHERE rowid = ?', (flipped, rowid))
    outsider.commit()
    return f"{table}.{column}: {value!r} is {flipped!r}"


def _flipped(value: Any, chance: random.Random) -> Any:
    if isinstance(value, int):
        return value ^ 1 << chance.randrange(32)
    content = bytearray(struct.pack("<d", value) if isinstance(value, float) else _bytes(value))
    bit = chance.randrange(len(content) * 8)
    content[bit // 8] ^= 1 << bit % 8
    return struct.unpack("<d", content)[0] if isinstance(value, float) else bytes(content)


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


@pytest.mark.seeds(sample=10, all=150)
def test_the_database_file(whole: Ledger, tmp_path: Path, seed: int, chance: random.Random) -> None:
    database = tmp_path / "ledger.db"
    shutil.copy(whole.database, database)
    flip(database, chance.randrange(database.stat().st_size * 8))
    if not _check(whole, database):  # then the bit was free, or in what holds no facts
        _must_be_equal(whole, database)


@pytest.mark.seeds(sample=1, all=20)
def test_the_write_ahead_log_of_a_killed_writer(place: Place, seed: int, chance: random.Random) -> None:
    """It is read up to the damage. That the log went on, only a head that was kept elsewhere could tell."""
    victim = place.start("append")
    time.sleep(chance.uniform(0.1, 0.5))
    kill(victim)
    ahead = place.home / ".ledger" / "ledger.db-wal"
    content, bit = ahead.read_bytes(), chance.randrange(ahead.stat().st_size * 8)
    with Place(Path(shutil.copytree(place.home, place.home.with_name("sound")))).book() as book:
        written = list(book.store.read_all())
    assert ahead.read_bytes() == content
    flip(ahead, bit)
    try:
        with place.book() as book:
            assert verify(book).problems == []
            read = list(book.store.read_all())
    except LedgerError:
        return  # it cannot be read at all, and that is said
    assert read == written[: len(read)]


def _check(whole: Ledger, database: Path) -> list[str]:
    """What opening and verifying has to say of a damaged database; only ever an error of Ledger's own."""
    try:
        with open_ledger(settings=whole.settings(database)) as book:
            return [str(problem) for problem in verify(book).problems]
    except LedgerError as error:
        return [str(error)]


def _must_be_equal(whole: Ledger, database: Path) -> None:
    """Whatever is read from the two."""
    with open_ledger(settings=whole.settings()) as sound, open_ledger(settings=whole.settings(database)) as flipped:
        assert everything(flipped) == everything(sound)
