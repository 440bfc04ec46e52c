"""Workspaces: a tree as it was, in a place of its own, with nothing of the user's touched."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ledger
from ledger.errors import DataUnavailable, IntegrityError, ObjectNotFound, UsageError
from ledger.events import CodeCaptured, DataCommitted, World
from ledger.record.capture.code import capture_code
from ledger.replay.layout import InWorkspace
from ledger.replay.plan import CheckOutCode, Launch, MaterialiseData, Plan
from ledger.replay.workspace import make_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.book import Book


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    with ledger.open_ledger(str(tmp_path / "ledger")) as book:
        yield book


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    (root / "train.py").write_text("one\n")
    (root / "deleted.txt").write_text("x")
    (root / "data").mkdir()
    (root / "data" / "a.txt").write_text("tracked data")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("train.py")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "first")
    (root / "train.py").write_text("two\n")
    (root / "deleted.txt").unlink()
    (root / "staged.txt").write_text("staged")
    git(root, "add", "staged.txt")
    (root / "untracked.txt").write_text("untracked")
    return root


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout


def captured(book: Book, root: Path) -> CodeCaptured:
    return capture_code(root, book.objects, book.hasher, limit_bytes=10**8)


def planned(code: CodeCaptured, *more: MaterialiseData | Launch) -> Plan:
    return Plan("0190aaaa", "run-1", (CheckOutCode(code, "."), *more))


def everything(root: Path) -> dict[str, tuple[str, bytes]]:
    """Every name, kind and byte below a directory, git's own files included."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = ("link", os.fsencode(os.readlink(path)))
        elif path.is_file():
            found[name] = ("executable" if os.access(path, os.X_OK) else "file", path.read_bytes())
        else:
            found[name] = ("directory", b"")
    return found


def test_the_tree_has_the_digest_that_was_captured_and_git_says_what_it_said(
    book: Book, repository: Path, tmp_path: Path
) -> None:
    code = captured(book, repository)
    workspace = make_workspace(book, planned(code), tmp_path / "workspace")
    assert workspace.worktree == workspace.path
    again = captured(book, workspace.path)
    assert again.tree == code.tree
    assert (again.commit, again.dirty, again.branch) == (code.commit, True, None)
    assert sorted(git(workspace.path, "status", "--porcelain").splitlines()) == [
        " D deleted.txt",
        " M train.py",
        "?? staged.txt",
        "?? untracked.txt",
    ]
    assert (workspace.path / "link").is_symlink()
    assert os.access(workspace.path / "run.sh", os.X_OK)


def test_nothing_of_the_users_is_touched(book: Book, repository: Path, tmp_path: Path) -> None:
    """Not a byte of working tree and repository, but for git's note of the worktree; and that goes with it."""
    code = captured(book, repository)
    before = everything(repository)
    workspace = make_workspace(book, planned(code), tmp_path / "workspace")
    during = everything(repository)
    assert {n for n in during.keys() ^ before.keys() if not n.startswith(".git/worktrees")} == set()
    assert {n: during[n] for n in before} == before
    workspace.discard()
    workspace.discard()
    after = everything(repository)
    after.pop(".git/worktrees", None)
    assert after == before
    assert not workspace.path.exists()


def test_no_hook_and_no_monitor_runs(book: Book, repository: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    hook = f"#!/bin/sh\ntouch '{ran}'\n"
    names = ("post-checkout", "post-index-change", "reference-transaction", "pre-auto-gc")
    for name in names:
        path = repository / ".git" / "hooks" / name
        path.write_text(hook)
        path.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(repository / ".git" / "hooks" / names[0]))
    code = captured(book, repository)
    ran.unlink(missing_ok=True)
    make_workspace(book, planned(code), tmp_path / "workspace").discard()
    assert not ran.exists()


def test_in_a_hook_it_is_still_the_right_repository(
    book: Book, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = captured(book, repository)
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    before = everything(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    workspace = make_workspace(book, planned(code), tmp_path / "workspace")
    assert workspace.repository == repository
    assert everything(other) == before


@pytest.mark.parametrize("gone", ["repository", "commit", "git"])
def test_the_tree_comes_from_objects_alone(
    book: Book, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    code = captured(book, repository)
    if gone == "repository":
        shutil.rmtree(repository)
    elif gone == "commit":
        code = code.model_copy(update={"commit": "0" * 40})
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    workspace = make_workspace(book, planned(code), tmp_path / "workspace")
    assert workspace.worktree is None
    assert book.hasher.tree(workspace.path).digest == code.tree


def test_a_lost_worktree_of_the_users_own_stays_on_record(book: Book, repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "--quiet", "--detach", str(tmp_path / "mine"))
    shutil.rmtree(tmp_path / "mine")
    make_workspace(book, planned(captured(book, repository)), tmp_path / "workspace").discard()
    listed = git(repository, "worktree", "list")
    assert "mine" in listed
    assert "workspace" not in listed


def test_a_taken_place_is_refused_and_left_alone(book: Book, repository: Path, tmp_path: Path) -> None:
    code = captured(book, repository)
    place = tmp_path / "taken"
    place.mkdir()
    make_workspace(book, planned(code), place).discard()
    place.mkdir()
    (place / "mine").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        make_workspace(book, planned(code), place)
    assert everything(place) == {"mine": ("file", b"mine")}
    target = tmp_path / "empty"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(UsageError):
        make_workspace(book, planned(code), tmp_path / "link")


def test_what_cannot_be_had_leaves_nothing_behind(book: Book, repository: Path, tmp_path: Path) -> None:
    code = captured(book, repository).model_copy(update={"tree": "0" * 64})
    with pytest.raises(ObjectNotFound):
        make_workspace(book, planned(code), tmp_path / "workspace")
    assert not (tmp_path / "workspace").exists()
    assert git(repository, "worktree", "list").count("\n") == 1
    assert not list(tmp_path.glob(".*.partial"))


# --- data ----------------------------------------------------------------------------------------------


def committed(book: Book, path: Path, *, snapshot: bool = True) -> DataCommitted:
    uri = path.as_uri() + ("" if snapshot else "?snapshot=no")
    source = book.plugins.data_source(uri, book.settings, book.objects)
    facts = source.pin(uri).model_dump()
    return DataCommitted(**facts, name="train", role="train", provider=source.name, provider_version=source.version)


def test_data_take_the_place_of_what_the_tree_has_there(book: Book, repository: Path, tmp_path: Path) -> None:
    code = captured(book, repository)
    (repository / "data" / "a.txt").write_text("as pinned")
    data = committed(book, repository / "data")
    (repository / "data" / "a.txt").write_text("as it is now")
    workspace = make_workspace(book, planned(code, MaterialiseData(data, "data")), tmp_path / "workspace")
    assert (workspace.path / "data" / "a.txt").read_text() == "as pinned"


def test_data_of_ours_are_hidden_from_git(book: Book, repository: Path, tmp_path: Path) -> None:
    code = captured(book, repository)
    step = MaterialiseData(committed(book, repository / "data"), ".ledger-data/train/data")
    launch = Launch((), "jobs", World(), None, (InWorkspace(".ledger-out/results/model.bin"),))
    workspace = make_workspace(book, planned(code, step, launch), tmp_path / "workspace")
    assert (workspace.path / ".ledger-data" / "train" / "data" / "a.txt").read_text() == "tracked data"
    assert (workspace.path / ".ledger-out" / "results").is_dir()
    assert (workspace.path / "jobs").is_dir()
    assert ".ledger" not in git(workspace.path, "status", "--porcelain")
    assert captured(book, workspace.path).tree == code.tree


def test_pinned_data_are_linked_and_survive_the_workspace(book: Book, repository: Path, tmp_path: Path) -> None:
    code = captured(book, repository)
    original = tmp_path / "corpus"
    original.mkdir()
    (original / "a.txt").write_text("precious")
    step = MaterialiseData(committed(book, original, snapshot=False), ".ledger-data/train/corpus")
    workspace = make_workspace(book, planned(code, step), tmp_path / "workspace")
    assert (workspace.path / step.to / "a.txt").read_text() == "precious"
    workspace.discard()
    assert everything(original) == {"a.txt": ("file", b"precious")}

    (original / "a.txt").write_text("changed!")
    with pytest.raises(DataUnavailable, match=r"changed a\.txt"):
        make_workspace(book, planned(code, step), tmp_path / "workspace")
    assert not (tmp_path / "workspace").exists()


def test_nothing_is_written_or_removed_through_a_link_of_the_tree(book: Book, repository: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "train").mkdir(parents=True)
    (outside / "train" / "a.txt").write_text("precious")
    (repository / "linked").symlink_to(outside)
    code = captured(book, repository)
    data = committed(book, repository / "data")
    before = everything(outside)
    with pytest.raises(IntegrityError, match="through a link"):
        make_workspace(book, planned(code, MaterialiseData(data, "linked/train")), tmp_path / "workspace")
    launch = Launch((), ".", World(), None, (InWorkspace("linked/new/out.bin"),))
    make_workspace(book, planned(code, launch), tmp_path / "workspace").discard()
    # The link itself may give way: the data stand where it stood.
    workspace = make_workspace(book, planned(code, MaterialiseData(data, "linked")), tmp_path / "workspace")
    assert (workspace.path / "linked" / "a.txt").read_text() == "tracked data"
    assert everything(outside) == before


def test_code_may_lie_deeper_than_the_workspace(book: Book, repository: Path, tmp_path: Path) -> None:
    code = captured(book, repository)
    plan = replace(planned(code), steps=(CheckOutCode(code, "home/project"),))
    workspace = make_workspace(book, plan, tmp_path / "workspace")
    assert workspace.worktree == workspace.path / "home" / "project"
    assert captured(book, workspace.worktree).tree == code.tree
    workspace.discard()
    assert git(repository, "worktree", "list").count("\n") == 1
