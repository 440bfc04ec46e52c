"""What nobody needs any more goes, and nothing else, whatever else is going on."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import Hasher, Manifest, ObjectStore
from ledger.book import Book, this_process
from ledger.codec import new_id
from ledger.errors import DigestMismatch
from ledger.events import (
    ArtifactWritten,
    CheckpointDeleted,
    CheckpointWritten,
    CodeCaptured,
    ConsoleCaptured,
    DataCommitted,
    ParametersFingerprinted,
    RunAnnotated,
    RunCompleted,
)
from ledger.garbage import PATIENCE_S, Garbage, Waste
from ledger.hooks.manager import load_plugins
from ledger.settings import find_settings
from ledger.store.base import run_stream
from ledger.testing.builders import run_started

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.events import Event, Process

LONG_AGO = float(int(time.time() - 2 * PATIENCE_S))
NOBODY = "f" * 64


def ledger_at(home: Path, **changes: str) -> Book:
    environ = {f"LEDGER_{name.upper()}": value for name, value in changes.items()}
    found = find_settings(start=home, environ={"LEDGER_PLUGINS": "", **environ})
    return Book(found, load_plugins(found))


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return ledger_at(tmp_path)


def age(place: Path | str, when: float = LONG_AGO) -> None:
    """Make all that lies there look old."""
    for directory, folders, names in os.walk(place, topdown=False):
        for name in names + folders:
            os.utime(os.path.join(directory, name), (when, when), follow_symlinks=False)


def objects_of(book: Book) -> Path:
    return Path(book.settings.scratch).parent / "objects"


def begin(book: Book, *facts: Event, process: Process | None = None, end: bool = True) -> tuple[str, str]:
    """A run with these facts; UUID and name."""
    run = new_id()
    name = book.store.name_run(run_stream(run))
    started = run_started(name=name, directory="/work", **({"process": process} if process else {}))
    book.append(run, started, *facts, *([RunCompleted(step=None)] if end else []), attempt=1)
    return run, name


def waste(book: Book, *, apply: bool = False, unshared: bool = False) -> tuple[dict[str, str], list[str]]:
    """Reasons by name, and notes."""
    garbage = Garbage(book, apply=apply, unshared=unshared)
    return {each.name: each.reason for each in garbage.waste()}, garbage.notes


def tree_of(book: Book, home: Path, **files: bytes) -> Manifest:
    home.mkdir(parents=True)
    for name, content in files.items():
        (home / name).write_bytes(content)
    manifest = Hasher().tree(home)
    book.objects.put_tree(home, manifest)
    return manifest


def code(tree: str) -> CodeCaptured:
    return CodeCaptured(
        root="/w", directory=".", repository=None, commit=None, branch=None, dirty=False, tree=tree, files=1, bytes=1,
        entry_point=None,
    )  # fmt: skip


# --- objects


def test_an_object_that_no_fact_refers_to_goes_once_it_is_old(book: Book) -> None:
    kept, lost = book.objects.put_bytes(b"printed"), book.objects.put_bytes(b"nobody's")
    begin(book, ConsoleCaptured(digest=kept, bytes=7))
    assert waste(book) == ({}, [])
    age(objects_of(book))
    assert waste(book) == ({lost: "no fact refers to it"}, [])
    assert book.objects.has(lost)
    assert waste(book, apply=True)[0].keys() == {lost}
    assert (book.objects.has(lost), book.objects.has(kept)) == (False, True)
    assert waste(book) == ({}, [])


def test_a_manifest_keeps_all_that_it_names(book: Book, tmp_path: Path) -> None:
    manifest = tree_of(book, tmp_path / "tree", a=b"one", b=b"two", c=b"")
    begin(book, code(manifest.digest))
    age(objects_of(book))
    assert waste(book, apply=True) == ({}, [])
    assert book.objects.missing(book.objects.get_manifest(manifest.digest)) == []


def test_a_digest_in_any_fact_keeps_its_object(book: Book) -> None:
    digests = [book.objects.put_bytes(bytes([n])) for n in range(3)]
    begin(book, RunAnnotated(text=f"see {digests[0]}"), ParametersFingerprinted(step=1, parameters=digests[1]))
    age(objects_of(book))
    assert waste(book)[0].keys() == {digests[2]}


def test_a_fact_that_still_waits_in_a_journal_counts(book: Book, tmp_path: Path) -> None:
    script = """
        import os, signal, ledger
        from ledger.book import Book
        run = ledger.start_run(book=Book(ledger.find_settings()))
        def never(*_, **__): raise ledger.errors.StoreUnavailable("away")
        run._book.store.append = never
        run.artifact("waits.txt")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    (tmp_path / "waits.txt").write_text("an artifact")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LEDGER_")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import ledger.errors\n" + textwrap.dedent(script)],
        cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    age(objects_of(book))
    manifest = Hasher().tree(tmp_path / "waits.txt")
    assert not list(book.store.read_all(types=(ArtifactWritten.type,)))
    assert waste(book, apply=True)[0] == {}
    assert book.objects.has(manifest.digest)
    assert book.objects.has(manifest.entries[0].digest)


def test_what_a_starting_run_puts_again_is_young_again(book: Book, tmp_path: Path) -> None:
    manifest = tree_of(book, tmp_path / "tree", a=b"one", b=b"two")
    single = book.objects.put_bytes(b"lock")
    age(objects_of(book))
    assert len(waste(book)[0]) == 4
    book.objects.put_tree(tmp_path / "tree", manifest)
    assert waste(book)[0].keys() == {single}
    book.objects.put_bytes(b"lock")
    assert waste(book, apply=True) == ({}, [])


def test_what_is_put_again_while_it_is_being_removed_stays(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = book.objects.put_bytes(b"old")
    age(objects_of(book))
    rename = os.rename

    def put_meanwhile(source: str, dest: str) -> None:
        monkeypatch.setattr(os, "rename", rename)
        book.objects.put_bytes(b"old")  # after the look at its age, before it is taken away
        rename(source, dest)

    monkeypatch.setattr(os, "rename", put_meanwhile)
    assert waste(book, apply=True) == ({}, [])
    assert book.objects.get_bytes(digest) == b"old"
    assert not list(objects_of(book).glob("tmp/*"))


def test_a_write_that_was_cut_off_leaves_nothing_for_long(book: Book) -> None:
    book.objects.put_bytes(b"")
    begin(book)
    (objects_of(book) / "tmp/0123").write_bytes(b"half")
    assert waste(book) == ({}, [])
    age(objects_of(book) / "tmp")
    assert waste(book, apply=True) == ({"tmp/0123": "its writing was never finished"}, [])
    assert not list(objects_of(book).glob("tmp/*"))


def test_what_is_no_object_is_left_alone(book: Book) -> None:
    book.objects.put_bytes(b"")
    (objects_of(book) / "README").write_text("mine")
    (objects_of(book) / "ab").mkdir(exist_ok=True)
    (objects_of(book) / "ab/cd").write_text("mine, too")
    age(objects_of(book))
    assert len(waste(book, apply=True)[0]) == 1
    assert (objects_of(book) / "README").exists()
    assert (objects_of(book) / "ab/cd").exists()


def test_a_damaged_manifest_stops_it_before_anything_is_gone(book: Book, tmp_path: Path) -> None:
    manifest = tree_of(book, tmp_path / "tree", a=b"one")
    begin(book, code(manifest.digest))
    lost = book.objects.put_bytes(b"nobody's")
    path = objects_of(book) / manifest.digest[:2] / manifest.digest[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"[", b"x"))
    age(objects_of(book))
    with pytest.raises(DigestMismatch, match=manifest.digest):
        waste(book, apply=True)
    assert book.objects.has(lost)
    assert book.objects.has(manifest.entries[0].digest)


def test_objects_elsewhere_may_be_another_ledgers(tmp_path: Path) -> None:
    book = ledger_at(tmp_path, objects=str(tmp_path / "shared"))
    lost = book.objects.put_bytes(b"another ledger's")
    begin(book)
    age(tmp_path / "shared")
    found, notes = waste(book, apply=True)
    assert found == {}
    assert [note for note in notes if "--unshared" in note and "shared" in note]
    assert waste(book, unshared=True)[0].keys() == {lost}


def test_two_databases_in_one_folder_share_their_objects(tmp_path: Path) -> None:
    book = ledger_at(tmp_path)
    book.objects.put_bytes(b"somebody's")
    begin(book)
    (tmp_path / ".ledger/team.db").touch()
    age(objects_of(book))
    found, notes = waste(book)
    assert found == {}
    assert len(notes) == 1


def test_objects_behind_fsspec_are_claimed_by_a_file_beside_them(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4()}"
    store = ObjectStore(url, scratch=tmp_path)
    claimed, other = store.put_bytes(b"content"), store.put_bytes(b"other")
    fs = fsspec.filesystem("memory")
    for path in fs.find(url):
        fs.store[path].created = datetime.fromtimestamp(LONG_AGO, tz=UTC)
    keys = {digest: f"{digest[:2]}/{digest[2:]}" for digest in (claimed, other)}
    assert {each.key for each in store.lying() if each.since == LONG_AGO} == set(keys.values())

    store.put_bytes(b"content")
    assert {each.key for each in store.lying() if each.since == LONG_AGO} == {keys[other]}
    assert list(store.remove(keys.values(), before=LONG_AGO)) == [keys[other]]
    assert (store.has(claimed), store.has(other)) == (True, False)
    assert list(store.remove(keys.values(), before=time.time() + 60)) == [keys[claimed]]


# --- checkpoints


def checkpoint(book: Book, tmp_path: Path, key: str, content: bytes, step: int = 1) -> CheckpointWritten:
    """A checkpoint in the store; the fact about it, which is not on record."""
    source = Path(tempfile.mkdtemp(dir=tmp_path))
    (source / "weights").write_bytes(content)
    stored = book.checkpoints().write(source, key)
    return CheckpointWritten(**stored.model_dump(), step=step, attempt=1, name=key, seconds=0.1)


def keys_of(book: Book) -> set[str]:
    return {"/".join(each.uri.split("/")[-2:]) for each in book.checkpoints().list("")}


def test_a_checkpoint_whose_writer_died_before_it_could_record_it_goes(book: Book, tmp_path: Path) -> None:
    here = this_process()
    run, name = begin(book, process=here.model_copy(update={"pid": 1 << 30}), end=False)
    told = checkpoint(book, tmp_path, f"{name}/step-1", b"one")
    book.append(run, told, attempt=1)
    never = checkpoint(book, tmp_path, f"{name}/attempt-2/step-2", b"two")
    assert waste(book) == ({never.uri: "no fact mentions it"}, [])
    assert waste(book, apply=True)[0].keys() == {never.uri}
    assert keys_of(book) == {f"{name}/step-1"}


def test_a_training_that_lives_keeps_what_it_has_not_mentioned_yet(book: Book, tmp_path: Path) -> None:
    _, name = begin(book, process=this_process(), end=False)
    checkpoint(book, tmp_path, f"{name}/step-1", b"one")
    assert waste(book, apply=True) == ({}, [])
    assert keys_of(book) == {f"{name}/step-1"}


def test_a_deletion_on_record_is_carried_out(book: Book, tmp_path: Path) -> None:
    run, name = begin(book, process=this_process().model_copy(update={"pid": 1 << 30}), end=False)
    gone, kept = (checkpoint(book, tmp_path, f"{name}/step-{n}", bytes([n]), n) for n in (1, 2))
    deletion = CheckpointDeleted(step=1, name=gone.name, uri=gone.uri, digest=gone.digest, reason="keep_last = 1")
    book.append(run, gone, kept, deletion, attempt=1)
    assert waste(book, apply=True) == ({gone.uri: "its deletion is on record"}, [])
    assert keys_of(book) == {f"{name}/step-2"}


def test_checkpoints_of_other_hosts_and_of_unknown_runs_are_left_alone_and_named(book: Book, tmp_path: Path) -> None:
    _, name = begin(book)  # of a process on testhost
    checkpoint(book, tmp_path, f"{name}/step-1", b"one")
    checkpoint(book, tmp_path, "run-77/step-1", b"two")
    found, notes = waste(book, apply=True)
    assert found == {}
    assert any("run-77/step-1" in note for note in notes)
    assert any("testhost" in note for note in notes)
    assert keys_of(book) == {f"{name}/step-1", "run-77/step-1"}


# --- scratch


def test_what_killed_processes_left_in_scratch_goes(book: Book, tmp_path: Path) -> None:
    scratch = book.settings.scratch
    run, _ = begin(book)
    living, _ = begin(book, process=this_process(), end=False)
    for folder in ("consoles", "saving", "resume", "replays/run-1-0190", "verify-x"):
        (scratch / folder).mkdir(parents=True)
    for name in (run, living, str(uuid.UUID(int=7))):
        (scratch / f"consoles/{name}-1.txt").write_text("half a line")
        (scratch / f"saving/{name}-1/step-1").mkdir(parents=True)
        (scratch / f"saving/{name}-1/step-1/weights").write_bytes(b"123")
        (scratch / f"resume/{name}-2-host-17").mkdir()
    (scratch / "replays/run-1-0190/file").write_bytes(b"12")
    assert waste(book) == ({}, [])
    age(scratch)
    expected = {
        str(scratch / f"consoles/{run}-1.txt"): "its run has ended",
        str(scratch / f"saving/{run}-1"): "its run has ended",
        str(scratch / f"resume/{run}-2-host-17"): "its run has ended",
        str(scratch / "replays/run-1-0190"): "its replay has ended",
        str(scratch / "verify-x"): "its check has ended",
    }
    assert waste(book) == (expected, [])
    sizes = {each.name: each.bytes for each in Garbage(book).waste()}
    assert sizes[str(scratch / f"saving/{run}-1")] == 3
    assert waste(book, apply=True) == (expected, [])
    assert not any(Path(name).exists() for name in expected)
    assert (scratch / f"saving/{living}-1/step-1/weights").exists()
    assert (scratch / f"consoles/{uuid.UUID(int=7)}-1.txt").exists()


def test_what_goes_by_itself_meanwhile_is_no_concern(book: Book) -> None:
    consoles = book.settings.scratch / "consoles"
    consoles.mkdir(parents=True)
    run, _ = begin(book)
    for attempt in (1, 2):
        (consoles / f"{run}-{attempt}.txt").touch()
    age(consoles)
    looked = Garbage(book).waste()
    assert next(looked).name == str(consoles / f"{run}-1.txt")
    (consoles / f"{run}-2.txt").unlink()
    assert list(looked) == []


def test_a_workspace_takes_the_note_of_its_repository_with_it(book: Book, tmp_path: Path) -> None:
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, cwd=tmp_path / "repo", check=True, capture_output=True, text=True).stdout

    (tmp_path / "repo").mkdir()
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "x")
    workspace = book.settings.scratch / "replays/run-1-0190"
    workspace.mkdir(parents=True)
    git("worktree", "add", "--quiet", "--detach", str(workspace / "code"))
    begin(book)
    age(book.settings.scratch)
    assert waste(book, apply=True)[0].keys() == {str(workspace)}
    assert not workspace.exists()
    assert git("worktree", "list").count("\n") == 1


# --- whatever happens


CONTENT = st.binary(max_size=3)
FACTS: dict[str, Callable[[str], Event]] = {
    "console": lambda digest: ConsoleCaptured(digest=digest, bytes=1),
    "artifact": lambda digest: ArtifactWritten(path="a", digest=digest, bytes=1),
    "note": lambda digest: RunAnnotated(text=f"look at {digest}, it is good"),
    "code": code,
    "data": lambda digest: DataCommitted(
        name="d", role="d", provider="p", provider_version="1", uri="file:///d", commit=digest, path="/d",
        digest=digest, files=1, bytes=1, snapshot=True,
    ),
}  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    trees=st.lists(st.tuples(st.lists(CONTENT, max_size=3), st.booleans(), st.booleans()), max_size=4),
    singles=st.lists(
        st.tuples(CONTENT, st.sampled_from(["console", "note"]), st.booleans(), st.booleans()), max_size=4
    ),
    tree_facts=st.sampled_from(["code", "data", "artifact"]),
)
def test_every_digest_that_a_run_needs_is_still_there(
    trees: list[tuple[list[bytes], bool, bool]],
    singles: list[tuple[bytes, str, bool, bool]],
    tree_facts: str,
) -> None:
    with tempfile.TemporaryDirectory() as place, ledger_at(Path(place)) as book:
        facts: list[Event] = []
        needed: set[str] = set()
        everything: set[str] = set()
        youngest: set[str] = set()
        for n, (contents, mentioned, young) in enumerate(trees):
            files = {f"f{i}": content for i, content in enumerate(contents)}
            manifest = tree_of(book, Path(place) / f"tree-{n}", **files)
            parts = {manifest.digest, *(entry.digest for entry in manifest.entries if entry.mode == "file")}
            facts += [FACTS[tree_facts](manifest.digest)] if mentioned else []
            needed |= parts if mentioned or young else set()
            youngest |= {manifest.digest} if young else set()
            everything |= parts
        for content, fact, mentioned, young in singles:
            digest = book.objects.put_bytes(content)
            facts += [FACTS[fact](digest)] if mentioned else []
            needed |= {digest} if mentioned or young else set()
            youngest |= {digest} if young else set()
            everything.add(digest)
        begin(book, *facts)
        for digest in everything - youngest:
            os.utime(objects_of(book) / digest[:2] / digest[2:], (LONG_AGO, LONG_AGO))
        told = {each.name for each in Garbage(book).waste()}
        assert all(map(book.objects.has, everything))
        gone = {each.name for each in Garbage(book, apply=True).waste()}
        assert told == gone == {digest for digest in everything if not book.objects.has(digest)}
        assert gone == everything - needed


def test_a_digest_of_nothing_is_no_reason_to_fail(book: Book) -> None:
    begin(book, ConsoleCaptured(digest=NOBODY, bytes=1), code(NOBODY))
    book.objects.put_bytes(b"x")
    age(objects_of(book))
    (each,) = Garbage(book).waste()
    assert isinstance(each, Waste)
    assert (each.place, each.bytes) == ("objects", 1)
