"""Whatever is altered behind the log's back is found and named; what is proved to others holds, and only that."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ledger
from ledger.book import Book
from ledger.codec import chain_digest, new_id
from ledger.errors import IntegrityError, LedgerError, NotFound, Unavailable, UsageError
from ledger.events import (
    CheckpointDeleted,
    CheckpointWritten,
    ConsoleCaptured,
    LogSealed,
    MetricsLogged,
    RunAnnotated,
    RunCompleted,
)
from ledger.record.facts import written_artifact
from ledger.settings import in_memory
from ledger.store.base import LEDGER_STREAM, JournalSpan, run_stream
from ledger.store.packing import unpack
from ledger.store.scan import Row
from ledger.testing.builders import run_started
from ledger.trust import survey as survey_module
from ledger.trust import tree as tree_module
from ledger.trust.keys import SigningKey, load_key, load_public, make_key, own_key_file, public_file
from ledger.trust.merkle import leaf_hash, root
from ledger.trust.notes import SignedHead, TreeHead, VerifierKey, parse_head
from ledger.trust.proof import Proof, check, parse_proof, prove_event, prove_run
from ledger.trust.seal import seal
from ledger.trust.survey import survey
from ledger.trust.verify import Report, verify


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that wrote in turn: notes, a long batch of metrics, an artifact, a console and a checkpoint."""
    home = tmp_path_factory.mktemp("trust") / "home"
    (home / "state").mkdir(parents=True)
    (home / "model.txt").write_text("weights")
    (home / "state" / "weights.bin").write_bytes(bytes(range(200)))
    with ledger.open_ledger(str(home / ".ledger")) as book:
        one, two = new_id(), new_id()
        loss = MetricsLogged(step=range(200), time=[1e9] * 200, values={"loss": [1 / (n + 3) for n in range(200)]})
        stored = book.checkpoints().write(home / "state", f"{one}/step-200")
        written = CheckpointWritten(**stored.model_dump(), step=200, attempt=1, name="step-200", seconds=0.1)
        console = ConsoleCaptured(digest=book.objects.put_bytes(b"hello"), bytes=5)
        book.append(one, run_started(name=book.store.name_run(run_stream(one))))
        book.append(one, loss, written, written_artifact(book, home, Path("model.txt")), console, attempt=1)
        book.append(two, run_started(name=book.store.name_run(run_stream(two))))
        for n in range(3):
            book.append(one, RunAnnotated(text=f"one {n}"))
            book.append(two, RunAnnotated(text=f"two {n}"), attempt=1)
        book.append(two, RunCompleted(step=None))
    shutil.copytree(home / ".ledger", home.with_name("untouched"))
    return home


@pytest.fixture
def book(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Book]:
    """The ledger of ``home``, as it was before any test touched it."""
    shutil.rmtree(home / ".ledger")
    shutil.copytree(home.with_name("untouched"), home / ".ledger")
    monkeypatch.chdir(home)
    for name in [name for name in os.environ if name.startswith("LEDGER_")]:
        monkeypatch.delenv(name)
    with ledger.open_ledger() as book:
        yield book


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return make_key(tmp_path / "keys" / "seal.key")


def database(book: Book) -> sqlite3.Connection:
    """The database, its triggers gone: what whoever owns the file can always do."""
    connection = sqlite3.connect(book.settings.url.removeprefix("sqlite:///"), isolation_level=None)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    return connection


def tamper(book: Book, *statements: str) -> None:
    with closing(database(book)) as connection:
        for statement in statements:
            connection.execute(statement)


def rows(book: Book) -> list[Row]:
    scan = book.store.scan()
    return [Row._make(raw) for raw in scan.rows(1, scan.extent().size)]


def first(book: Book, condition: Callable[[Row], bool]) -> Row:
    return next(row for row in rows(book) if condition(row))


def note(book: Book, text: str) -> Row:
    return first(book, lambda row: f'"{text}"' in row.payload)


def problem(report: Report) -> str:
    assert len(report.problems) == 1
    return str(report.problems[0])


# --- a log that nobody touched ------------------------------------------------------------------------------------


def test_a_sound_ledger_is_found_sound(book: Book) -> None:
    seen: list[tuple[str, int, int]] = []
    report = verify(book, progress=lambda *count: seen.append(count))
    size = len(rows(book))
    assert report.problems == []
    assert (report.events, report.streams, report.seals, report.checkpoints) == (size, 2, 0, 1)
    assert report.objects
    assert report.objects > 2
    assert {what for what, done, total in seen if done == total} == {"events", "objects", "checkpoints", "lists"}
    assert report.root == root([leaf_hash(bytes.fromhex(row.digest)) for row in rows(book)])


def test_one_run_alone(book: Book) -> None:
    report = verify(book, run=book.find("run-2"))
    assert (report.problems, report.events, report.streams, report.seals) == ([], 5, 1, None)


def test_a_ledger_without_events_is_sound(tmp_path: Path) -> None:
    with ledger.open_ledger(settings=in_memory(tmp_path)) as book:
        assert verify(book).problems == []


def test_a_ledger_in_memory(tmp_path: Path, key: SigningKey) -> None:
    with ledger.open_ledger(settings=in_memory(tmp_path)) as book:
        run = new_id()
        book.append(run, run_started(name=book.store.name_run(run_stream(run))), RunAnnotated(text="a note"))
        head = seal(book, key)
        assert verify(book, head=head).problems == []
        assert len(check(prove_run(book, run_stream(run)), public(key, head)).events) == 2


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Book]:
    """A log of several sections, streams across their borders."""
    monkeypatch.setattr(tree_module, "CHUNK", 8)
    for name, value in {"CHUNK": 8, "SECTION": 32, "_WORTH_IT": 64}.items():
        monkeypatch.setattr(survey_module, name, value)
    monkeypatch.chdir(tmp_path)
    with ledger.open_ledger(str(tmp_path / "ledger")) as book:
        runs = [new_id() for _ in range(5)]
        for run in runs:
            book.append(run, run_started(name=book.store.name_run(run_stream(run))))
        for n in range(100):
            book.append(runs[n * n % 5], RunAnnotated(text=f"note {n}"), RunAnnotated(text=f"again {n}"))
        yield book


def test_sections_give_one_tree_and_one_chain(long: Book) -> None:
    found = survey(long.store.scan(), wanted=("run.started",))
    digests = [bytes.fromhex(row.digest) for row in rows(long)]
    assert found.problem is None
    assert len(found.kept) == 5
    assert found.tree is not None
    assert found.tree.root() == root([leaf_hash(digest) for digest in digests])
    assert found.tree.root(77) == root([leaf_hash(digest) for digest in digests[:77]])


def test_a_change_is_found_across_sections(long: Book) -> None:
    tamper(long, "UPDATE event SET payload = replace(payload, 'note 60', 'note 61') WHERE payload LIKE '%note 60%'")
    row = note(long, "note 61")
    assert problem(verify(long)).startswith(f"payload altered: event {row.global_position} ")


def test_several_processes_find_the_same(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    # A worker is a fresh interpreter with the true sizes: so the events must be many.
    monkeypatch.setattr(survey_module, "_WORTH_IT", 10)
    monkeypatch.setattr(survey_module, "SECTION", tree_module.CHUNK)
    run = new_id()
    notes = [RunAnnotated(text=f"note {n}") for n in range(tree_module.CHUNK + 100)]
    book.append(run, run_started(name=book.store.name_run(run_stream(run))), *notes)
    scan = book.store.scan()
    alone, together = survey(scan), survey(scan, processes=2)
    assert alone.tree is not None
    assert together.tree is not None
    assert alone.tree.root() == together.tree.root()
    assert alone.ends == together.ends
    tamper(
        book, "UPDATE event SET type = 'run.completed' WHERE global_position = (SELECT max(global_position) FROM event)"
    )
    assert str(survey(scan, processes=2).problem) == str(survey(scan).problem)


# --- what was altered ---------------------------------------------------------------------------------------------

COLUMNS = {
    "payload": '\'{"tags":[],"text":"two 9"}\'',
    "metadata": "replace(metadata, '\"attempt\":1', '\"attempt\":2')",
    "recorded_at": "'2020-01-01T00:00:00.000000Z'",
    "event_id": "'01980000-0000-7000-8000-000000000000'",
    "type": "'run.imagined'",
    "schema_version": "2",
    "previous_digest": "upper(previous_digest)",
    "digest": "replace(digest, substr(digest, 1, 1), '_')",
    "stream": "'run-01980000-0000-7000-8000-000000000000'",
}


@pytest.mark.parametrize("column", COLUMNS)
def test_a_changed_column_is_found_and_its_event_named(book: Book, column: str) -> None:
    row = note(book, "two 1")
    tamper(book, f"UPDATE event SET {column} = {COLUMNS[column]} WHERE global_position = {row.global_position}")
    told = problem(verify(book))
    assert told.startswith(f"payload altered: event {row.global_position} ")


@pytest.mark.parametrize(
    "value", ["x'00ff'", "x''", "zeroblob(3000)", "substr(packed, 1, 20)", "packed || x'00'", "'text'", "NULL", "7"]
)
def test_a_damaged_packed_payload_is_found(book: Book, value: str) -> None:
    row = first(book, lambda row: row.packed is not None)
    tamper(book, f"UPDATE event SET packed = {value} WHERE global_position = {row.global_position}")
    assert f"payload altered: event {row.global_position} " in problem(verify(book))


def test_a_second_payload_is_found(book: Book) -> None:
    row = first(book, lambda row: row.packed is not None)
    tamper(book, f"UPDATE event SET payload = '{{}}' WHERE global_position = {row.global_position}")
    assert "two payloads" in problem(verify(book))


@pytest.mark.parametrize("column", ["payload", "metadata", "stream", "type", "recorded_at", "digest"])
@pytest.mark.parametrize("value", ["CAST(x'ff00fe22' AS TEXT)", "x'7b7d'", "17", "''"])
def test_bytes_that_are_no_text_are_found_and_no_accident(book: Book, column: str, value: str) -> None:
    row = note(book, "two 1")
    tamper(book, f"UPDATE event SET {column} = {value} WHERE global_position = {row.global_position}")
    assert f" {row.global_position} " in problem(verify(book))


def test_bytes_cannot_move_into_the_column_beside(book: Book) -> None:
    row = note(book, "two 2")
    with closing(database(book)) as connection:
        rewrite(connection, row, payload='{"a":1,"payload":{"b":2}}')
        # The same bytes under the same digest, cut elsewhere.
        connection.execute(
            """UPDATE event SET metadata = metadata || ',"payload":{"a":1', payload = '{"b":2}}'"""
            f" WHERE global_position = {row.global_position}"
        )
    assert problem(verify(book)).startswith(f"payload altered: event {row.global_position} ")


def test_two_events_that_changed_places(book: Book) -> None:
    one, two = note(book, "two 0"), note(book, "two 1")
    spare = 10**6
    tamper(
        book,
        f"UPDATE event SET global_position = {spare} WHERE global_position = {one.global_position}",
        f"UPDATE event SET global_position = {one.global_position} WHERE global_position = {two.global_position}",
        f"UPDATE event SET global_position = {two.global_position} WHERE global_position = {spare}",
    )
    assert problem(verify(book)).startswith(f"order changed: event {one.global_position} ")


def test_two_events_whose_positions_were_exchanged(book: Book) -> None:
    one, two = note(book, "two 0"), note(book, "two 1")
    tamper(
        book,
        f"UPDATE event SET position = 1000 WHERE global_position = {one.global_position}",
        f"UPDATE event SET position = {one.position} WHERE global_position = {two.global_position}",
        f"UPDATE event SET position = {two.position} WHERE global_position = {one.global_position}",
    )
    told = problem(verify(book))
    assert told.startswith(f"order changed: event {one.global_position} ")
    assert told.endswith(f"recorded at position {one.position}")


def test_an_event_that_is_gone(book: Book) -> None:
    row = note(book, "two 1")
    tamper(book, f"DELETE FROM event WHERE global_position = {row.global_position}")
    assert problem(verify(book)).startswith(f"gap: event {row.global_position}:")
    assert problem(verify(book, run=book.find("run-2"))).startswith(f"event missing: position {row.position} of")


def test_an_event_that_is_gone_and_its_place_too(book: Book) -> None:
    row = note(book, "two 1")
    tamper(
        book,
        f"DELETE FROM event WHERE global_position = {row.global_position}",
        f"UPDATE event SET global_position = -global_position WHERE global_position > {row.global_position}",
        "UPDATE event SET global_position = -global_position - 1 WHERE global_position < 0",
    )
    assert problem(verify(book)).startswith(f"event missing: position {row.position} of {row.stream}")


def test_events_before_the_first(book: Book) -> None:
    tamper(book, "UPDATE event SET global_position = -3 WHERE global_position = 1")
    assert problem(verify(book)).startswith("gap: event -3")


def test_an_end_that_was_cut_off(book: Book) -> None:
    last = rows(book)[-1]
    tamper(book, f"DELETE FROM event WHERE global_position = {last.global_position}")
    told = problem(verify(book))
    assert told.startswith(f"event missing: position {last.position} of {last.stream}")
    assert problem(verify(book, run=last.stream.removeprefix("run-"))) == told


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE stream_head SET digest = replace(digest, substr(digest, 1, 1), '_')",
        "UPDATE stream_head SET version = version - 1",
        "UPDATE stream_head SET version = 'many'",
        "UPDATE stream_head SET attempt = 9",
        "DELETE FROM stream_head",
        "UPDATE run_name SET number = number + 7",
        "DELETE FROM run_name",
    ],
)
def test_an_index_that_was_changed(book: Book, change: str) -> None:
    tamper(book, change)
    assert problem(verify(book)).startswith("index altered: ")


def test_lists_that_were_changed_are_named_run_by_run(book: Book) -> None:
    one, two = (run_stream(book.find(name)) for name in ("run-1", "run-2"))
    tamper(
        book,
        "UPDATE run_metric SET highest = 9.5",
        f"UPDATE run_summary SET status = CAST(x'72ff' AS TEXT) WHERE stream = '{two}'",
        f"INSERT INTO run_tag VALUES ('{two}', 'best'), ('{two}', 'better')",
    )
    report = verify(book)
    assert [str(problem) for problem in report.problems] == [
        f"list altered: run_summary of {two}: status is r\\udcff, and the log says completed",
        f"list altered: run_tag of {two}, best: nothing in the log says so; 1 more of its rows are wrong",
        f"list altered: run_metric of {one}, loss: highest is 9.5, and the log says 0.3333333333333333",
    ]
    assert {problem.mend for problem in report.problems} == {"`ledger db rebuild` folds the lists again from the log"}
    assert report.objects, "what lies outside the log is checked all the same"
    assert verify(book, run=two.removeprefix("run-")).problems == []


@pytest.mark.parametrize("value", ["position + 1", "'many'", "x'00'"])
def test_a_changed_place_in_a_journal_is_found_and_never_used(book: Book, value: str) -> None:
    stream, journal = run_stream(book.find("run-1")), new_id()
    book.store.append(stream, [], span=JournalSpan(journal, 0, 100))
    assert verify(book).problems == []
    tamper(book, f"UPDATE journal_position SET position = {value}")
    assert problem(verify(book)).startswith(f"index altered: journal_position of {journal}: ")
    for use in (
        lambda: book.store.journal_position(journal),
        lambda: book.store.append(stream, [], span=JournalSpan(journal, 100, 200)),
    ):
        with pytest.raises(IntegrityError, match=journal) as refused:
            use()
        assert "copy" in str(refused.value.mend)


def test_an_event_that_was_replaced_with_its_digest(book: Book) -> None:
    row = note(book, "two 1")
    with closing(database(book)) as connection:
        rewrite(connection, row, payload='{"tags":[],"text":"never said"}', onward=False)
    told = problem(verify(book))
    assert told.startswith(f"payload altered: event at position {row.position} of {row.stream}: it and its digest")


@pytest.mark.parametrize("kind", ["run.started", "artifact.written", "checkpoint.written"])
@pytest.mark.parametrize("payload", ["17", "{}", "no json"])
def test_a_forgery_that_says_nothing(book: Book, kind: str, payload: str) -> None:
    row = first(book, lambda row: row.type == kind)
    with closing(database(book)) as connection:
        rewrite(connection, row, payload=payload)
    assert problem(verify(book)).startswith(f"payload altered: event {row.global_position} ({kind}")


def rewrite(connection: sqlite3.Connection, row: Row, *, payload: str, onward: bool = True) -> None:
    """Change an event and recompute its digest and, ``onward``, all that follow in its stream: a perfect forgery."""
    columns = ", ".join(Row._fields)
    found = connection.execute(
        f"SELECT {columns} FROM event WHERE stream = ? AND position >= ? ORDER BY position", (row.stream, row.position)
    ).fetchall()
    previous = row.previous_digest
    for raw in found if onward else found[:1]:
        each = Row._make(raw)
        text = payload if each.position == row.position else unpack(each.payload, each.packed).decode()
        digest = chain_digest(
            previous, stream=each.stream, position=each.position, event_id=each.event_id, type=each.type,
            schema_version=each.schema_version, payload=text.encode(), metadata=each.metadata.encode(),
            recorded_at=each.recorded_at,
        )  # fmt: skip
        connection.execute(
            "UPDATE event SET payload = ?, packed = NULL, previous_digest = ?, digest = ? WHERE global_position = ?",
            (text, previous, digest, each.global_position),
        )
        previous = digest
    if onward:
        connection.execute("UPDATE stream_head SET digest = ? WHERE stream = ?", (previous, row.stream))


def truncate(book: Book, size: int) -> None:
    """Cut the log off after ``size`` events so that nothing in it tells."""
    with closing(database(book)) as connection:
        connection.execute("DELETE FROM event WHERE global_position > ?", (size,))
        connection.execute("DELETE FROM stream_head WHERE stream NOT IN (SELECT stream FROM event)")
        connection.execute(
            "UPDATE stream_head SET version = (SELECT max(position) FROM event e WHERE e.stream = stream_head.stream)"
        )
        connection.execute(
            "UPDATE stream_head SET digest = (SELECT digest FROM event e WHERE e.stream = stream_head.stream "
            "AND e.position = stream_head.version)"
        )


# --- seals and heads ----------------------------------------------------------------------------------------------


def public(key: SigningKey, head: SignedHead) -> VerifierKey:
    return VerifierKey(head.head.origin, key.public)


def test_a_chain_alone_does_not_see_a_perfect_forgery(book: Book) -> None:
    with closing(database(book)) as connection:
        rewrite(connection, note(book, "two 1"), payload='{"tags":[],"text":"never said"}')
    assert verify(book).problems == []


def test_a_seal_sees_a_perfect_forgery(book: Book, key: SigningKey) -> None:
    size = seal(book, key).head.size
    with closing(database(book)) as connection:
        rewrite(connection, note(book, "two 1"), payload='{"tags":[],"text":"never said"}')
    assert f"seal broken: event {size + 1} " in problem(verify(book))
    assert f"events 1 … {size} are not those" in problem(verify(book))
    with pytest.raises(IntegrityError, match="not sealed"):
        seal(book, key)


def test_a_seal_sees_two_streams_that_changed_places(book: Book, key: SigningKey) -> None:
    seal(book, key)
    one, two = note(book, "one 1"), note(book, "two 1")
    assert one.global_position + 1 == two.global_position
    tamper(
        book,
        f"UPDATE event SET global_position = 0 WHERE global_position = {one.global_position}",
        f"UPDATE event SET global_position = {one.global_position} WHERE global_position = {two.global_position}",
        f"UPDATE event SET global_position = {two.global_position} WHERE global_position = 0",
    )
    assert problem(verify(book)).startswith("seal broken: ")


def test_the_log_grows_and_extends_every_head(book: Book, key: SigningKey) -> None:
    heads = []
    for n in range(3):
        heads.append(seal(book, key))
        book.append(book.find("run-1"), RunAnnotated(text=f"after seal {n}"))
    report = verify(book)
    assert (report.problems, report.seals, report.sealed) == ([], 3, heads[-1].head.size)
    for head in heads:
        report = verify(book, head=head, key=public(key, head))
        assert (report.problems, report.extended, report.head_signed) == ([], head.head, True)


def test_sealing_twice_what_has_not_changed_is_one_seal(book: Book, key: SigningKey, tmp_path: Path) -> None:
    head = seal(book, key)
    size = len(rows(book))
    assert seal(book, key) == head
    assert len(rows(book)) == size
    assert seal(book, make_key(tmp_path / "another.key")).head.size == size


def test_a_log_that_was_cut_off_and_sealed_again_does_not_extend_the_head(book: Book, key: SigningKey) -> None:
    before = len(rows(book))
    book.append(book.find("run-2"), RunAnnotated(text="to be forgotten"))
    kept = seal(book, key)
    truncate(book, before)
    assert verify(book).problems == []
    told = problem(verify(book, head=kept))
    assert told.startswith(f"head not extended: head of {kept.head.size} events: the log ends with event {before}")
    for n in range(3):
        book.append(book.find("run-2"), RunAnnotated(text=f"invented {n}"))
    seal(book, key)
    assert verify(book).problems == []
    assert "it was rewritten" in problem(verify(book, head=kept, key=public(key, kept)))


def test_a_head_of_another_log(book: Book, key: SigningKey, tmp_path: Path) -> None:
    with ledger.open_ledger(str(tmp_path / "other")) as other:
        run = new_id()
        other.append(run, run_started(name=other.store.name_run(run_stream(run))))
        head = seal(other, key)
    assert "another log" in problem(verify(book, head=head))


def test_a_head_under_another_signature(book: Book, key: SigningKey, tmp_path: Path) -> None:
    head = seal(book, key)
    other = make_key(tmp_path / "another.key")
    with pytest.raises(IntegrityError, match="not signed by"):
        verify(book, head=head, key=public(other, head))
    forged = SignedHead(TreeHead(head.head.origin, head.head.size, bytes(32)), head.signatures)
    with pytest.raises(IntegrityError, match="does not fit"):
        verify(book, head=forged, key=public(key, head))


def test_a_head_is_about_the_whole_log(book: Book, key: SigningKey) -> None:
    with pytest.raises(UsageError, match="whole log"):
        verify(book, run=book.find("run-1"), head=seal(book, key))


@pytest.mark.parametrize("field", ["origin", "size", "root", "key", "signature"])
def test_a_seal_that_was_forged_is_broken(book: Book, key: SigningKey, field: str) -> None:
    seal(book, key)
    row = first(book, lambda row: row.type == LogSealed.type)
    fact = json.loads(row.payload)
    changed = {"origin": "elsewhere", "size": 3, "root": "ab" * 32, "key": "none", "signature": "AAAA"}
    with closing(database(book)) as connection:
        rewrite(connection, row, payload=orjson.dumps({**fact, field: changed[field]}, option=2).decode())
    assert problem(verify(book)).startswith(f"seal broken: event {row.global_position} ")


def test_an_empty_ledger_cannot_be_sealed(tmp_path: Path, key: SigningKey) -> None:
    with ledger.open_ledger(settings=in_memory(tmp_path)) as book, pytest.raises(NotFound, match="no events"):
        seal(book, key)


# --- objects and checkpoints --------------------------------------------------------------------------------------


def objects(book: Book) -> Path:
    return Path(book.settings.objects.removeprefix("file://"))


def artifact(book: Book) -> Path:
    """Where the one file of the artifact lies."""
    (found,) = (path for path in objects(book).glob("*/*") if path.read_bytes() == b"weights")
    found.chmod(0o644)
    return found


def test_one_bit_of_an_object(book: Book) -> None:
    file = artifact(book)
    file.write_bytes(b"wdights")
    digest = file.parent.name + file.name
    assert f"object altered: object {digest}: its content is another" in problem(verify(book))
    assert "model.txt" in problem(verify(book, run=book.find("run-1")))
    assert verify(book, run=book.find("run-2")).problems == []


def test_an_object_that_is_gone(book: Book) -> None:
    file = artifact(book)
    file.unlink()
    assert problem(verify(book)).startswith(f"object missing: object {file.parent.name}{file.name}")


def test_all_objects_that_are_wrong_are_named(book: Book) -> None:
    there = [path for path in objects(book).glob("*/*") if path.parent.name != "tmp"]
    for path in there:
        path.unlink()
    report = verify(book)
    assert len(report.problems) == 2
    assert {p.kind for p in report.problems} == {"object missing"}


def checkpoint(book: Book) -> Path:
    place = Path(book.settings.checkpoints.removeprefix("file://"))
    (file,) = place.glob("objects/*/*")
    return file


def test_a_checkpoint_that_was_altered(book: Book) -> None:
    checkpoint(book).write_bytes(bytes(200))
    assert problem(verify(book)).startswith("checkpoint altered: ")
    assert "weights.bin" in problem(verify(book))


def test_a_checkpoint_that_is_gone(book: Book) -> None:
    checkpoint(book).unlink()
    assert problem(verify(book)).startswith("checkpoint missing: ")


def test_a_checkpoint_that_was_deleted_is_not_looked_for(book: Book) -> None:
    (written,) = book.run("run-1").checkpoints
    book.checkpoints().delete(written)
    gone = CheckpointDeleted(step=200, name=written.name, uri=written.uri, digest=written.digest, reason="test")
    book.append(book.find("run-1"), gone)
    report = verify(book)
    assert (report.problems, report.checkpoints) == ([], 0)


def test_nothing_is_left_behind(book: Book) -> None:
    verify(book)
    assert not list(book.settings.scratch.glob("verify-*"))


# --- proofs for others --------------------------------------------------------------------------------------------


def test_a_run_is_proved_with_one_path(book: Book, key: SigningKey) -> None:
    head = seal(book, key)
    stream = run_stream(book.find("run-2"))
    proof = parse_proof(orjson.dumps(prove_run(book, stream).to_json()))
    proved = check(proof, public(key, head))
    assert [event["type"] for event in proved.events] == ["run.started", *["run.annotated"] * 3, "run.completed"]
    assert proved.whole
    assert (proved.stream, proved.size) == (stream, head.head.size)
    assert proved.global_position == rows(book)[-2].global_position


def test_an_event_is_proved_by_place_or_id(book: Book, key: SigningKey) -> None:
    head = seal(book, key)
    row = note(book, "one 1")
    by_place, by_id = prove_event(book, str(row.global_position)), prove_event(book, row.event_id)
    assert by_place == by_id
    proved = check(by_id, public(key, head))
    assert proved.events[0]["payload"]["text"] == "one 1"
    assert not proved.whole
    with pytest.raises(NotFound, match="no event"):
        prove_event(book, "999")


def test_a_proof_needs_a_seal_since(book: Book, key: SigningKey) -> None:
    stream = run_stream(book.find("run-2"))
    with pytest.raises(Unavailable, match="never sealed") as raised:
        prove_run(book, stream)
    assert "ledger seal" in str(raised.value.mend)
    seal(book, key)
    book.append(book.find("run-2"), RunAnnotated(text="later"))
    with pytest.raises(Unavailable, match="last seal covers"):
        prove_run(book, stream)
    head = seal(book, key)
    assert len(check(prove_run(book, stream), public(key, head)).events) == 6


def test_nothing_is_proved_from_a_log_that_was_changed(book: Book, key: SigningKey) -> None:
    seal(book, key)
    stream = run_stream(book.find("run-2"))
    with closing(database(book)) as connection:
        rewrite(connection, note(book, "two 1"), payload='{"tags":[],"text":"never said"}')
    with pytest.raises(IntegrityError, match="not what was sealed"):
        prove_run(book, stream)
    tamper(book, "UPDATE event SET payload = '{}' WHERE payload LIKE '%two 2%'")
    with pytest.raises(IntegrityError, match="not what was recorded"):
        prove_run(book, stream)


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Proof, VerifierKey]:
    place = tmp_path_factory.mktemp("proved")
    key = make_key(place / "seal.key")
    with ledger.open_ledger(settings=in_memory(place)) as book:
        run = new_id()
        book.append(run, run_started(name=book.store.name_run(run_stream(run))), *(RunAnnotated(text=t) for t in "abc"))
        book.append(new_id(), *(RunAnnotated(text=t) for t in "defgh"))
        head = seal(book, key)
        return prove_run(book, run_stream(run)), public(key, head)


@given(st.data())
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_byte_of_a_proof_can_be_changed(proved: tuple[Proof, VerifierKey], data: st.DataObject) -> None:
    proof, key = proved
    content = orjson.dumps(proof.to_json(), option=orjson.OPT_INDENT_2)
    place = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    changed = content[:place] + bytes([byte]) + content[place + 1 :]
    try:
        same = orjson.loads(changed) == orjson.loads(content)
    except orjson.JSONDecodeError:
        same = False
    if same:  # white space between the parts
        assert check(parse_proof(changed), key)
        return
    with pytest.raises((IntegrityError, UsageError)):
        check(parse_proof(changed), key)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p: {**p, "extra": 1}, "one too many"),
        (lambda p: {**p, "rows": []}, "no rows"),
        (lambda p: {**p, "rows": p["rows"][:-1]}, "does not hold"),
        (lambda p: {**p, "rows": p["rows"][1:]}, "does not hold"),
        (lambda p: {**p, "path": p["path"][:-1]}, "does not hold"),
        (lambda p: {**p, "path": [part.upper() for part in p["path"]]}, "where hashes belong"),
        (lambda p: {**p, "index": p["index"] + 1}, "does not hold"),
        (lambda p: {**p, "index": True}, "lacks a part"),
        (lambda p: {**p, "format": "training-ledger-proof/2"}, "format"),
        (lambda p: [p], "format"),
        (lambda p: {**p, "head": p["head"].replace("\n\n", "\n")}, "no signed head"),
    ],
)
def test_what_is_no_proof(proved: tuple[Proof, VerifierKey], change: Callable[[object], object], told: str) -> None:
    proof, key = proved
    with pytest.raises(LedgerError, match=told):
        check(parse_proof(orjson.dumps(change(proof.to_json()))), key)


def test_a_proof_under_another_key(proved: tuple[Proof, VerifierKey], tmp_path: Path) -> None:
    other = make_key(tmp_path / "other.key")
    with pytest.raises(IntegrityError, match="not signed by key"):
        check(proved[0], VerifierKey(proved[0].head.head.origin, other.public))


# --- notes and keys -----------------------------------------------------------------------------------------------

# The example of Go's sumdb/note, and that of C2SP's tlog-checkpoint.
VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = b"If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNED = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
CHECKPOINT = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/"
    "Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)


def test_published_key_and_signature() -> None:
    from base64 import b64decode

    key, signature = VerifierKey.parse(VKEY), b64decode(SIGNED)
    assert (key.name, key.id.hex(), str(key)) == ("PeterNeumann", "c74f20a3", VKEY)
    assert signature[:4] == key.id
    assert key.verify(signature[4:], TEXT)
    assert not key.verify(signature[4:], TEXT + b" ")


def test_published_checkpoint() -> None:
    signed = parse_head(CHECKPOINT)
    assert signed.head.origin == "example.com/behind-the-sofa"
    assert signed.head.size == 20852163
    assert str(signed) == CHECKPOINT


@pytest.mark.parametrize(
    "change",
    [
        lambda note: note[:-1],
        lambda note: note.replace("20852163", "020852163"),
        lambda note: note.replace("20852163", "-1"),
        lambda note: note.replace("20852163", "9" * 30),
        lambda note: note.replace("— ", "- "),
        lambda note: note.replace("CsUY", "CsU"),
        lambda note: note.replace("qom/X", "qom_X"),
        lambda note: note.replace("example.com/behind-the-sofa\n", "\n", 1),
        lambda note: note.replace("\n\n", "\nextension\n\n"),
        lambda note: note + "\n",
        lambda note: note.partition("\n\n")[0],
        lambda note: "",
    ],
)
def test_what_is_no_head(change: Callable[[str], str]) -> None:
    with pytest.raises(IntegrityError, match="no signed head"):
        parse_head(change(CHECKPOINT))


@pytest.mark.parametrize("text", ["", "a", "a+b", VKEY[:-1], VKEY.replace("c74f", "c74e"), VKEY.replace("+A", "+B", 1)])
def test_what_is_no_verifier_key(text: str) -> None:
    with pytest.raises(UsageError, match="verifier key"):
        VerifierKey.parse(text)


def test_keys_that_openssl_made(tmp_path: Path, book: Book) -> None:
    private, public_pem = tmp_path / "k.pem", tmp_path / "k.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public_pem], check=True)
    head = seal(book, load_key(private))
    assert head.signed_by(load_public(str(public_pem), head.head.origin))


def test_a_key_of_ones_own(tmp_path: Path) -> None:
    file = own_key_file({"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/nowhere"})
    assert file == tmp_path / "ledger" / "seal.key"
    assert own_key_file({"HOME": str(tmp_path)}) == tmp_path / ".config" / "ledger" / "seal.key"
    made = make_key(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert load_key(file).public == made.public
    key = load_public(str(public_file(file)), "a-name")
    assert key.public == made.public
    assert load_public(str(key), "ignored") == key
    (tmp_path / "vkey").write_text(f"{key}\n")
    assert load_public(str(tmp_path / "vkey"), "ignored") == key
    with pytest.raises(FileExistsError):
        make_key(file)
    assert load_key(file).public == made.public
    assert sorted(path.name for path in file.parent.iterdir()) == ["seal.key", "seal.pub"]


def test_a_key_that_cannot_be_written_whole_is_not_there_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        make_key(tmp_path / "seal.key")
    assert list(tmp_path.iterdir()) == []


def test_key_files_that_are_none(tmp_path: Path) -> None:
    for name, words in {
        "rsa": ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"],
        "locked": ["openssl", "genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:secret"],
    }.items():
        subprocess.run([*words, "-out", tmp_path / name], check=True, capture_output=True)
    (tmp_path / "text").write_bytes(b"\xffnot a key")
    make_key(tmp_path / "good")
    for name, told in {"rsa": "another kind", "locked": "is encrypted", "text": "no private key"}.items():
        with pytest.raises(UsageError, match=told):
            load_key(tmp_path / name)
    for name, told in {"rsa": "private key", "text": "no public key", "good": "holds a private key"}.items():
        with pytest.raises(UsageError, match=told):
            load_public(str(tmp_path / name), "name")
    for load in (load_key, lambda path: load_public(str(path), "name")):
        with pytest.raises(NotFound, match="no key file"):
            load(tmp_path / "nowhere")


def test_the_private_key_is_nowhere_in_the_ledger(book: Book, tmp_path: Path) -> None:
    file = tmp_path / "keys" / "seal.key"
    make_key(file)
    secret = file.read_text().splitlines()[1]
    seal(book, load_key(file))
    for path in Path.cwd().rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes()
    assert next(book.store.read(LEDGER_STREAM)).metadata.attempt is None
