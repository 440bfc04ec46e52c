"""A directory in which a run's code and data lie as they lay when it started. Everything comes from objects.

Where the original repository and commit are at hand the tree stands in a detached git worktree, so that git
says there what it said then. Nothing of the user's is touched: not the branch, index, stash or working tree,
and no hook runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from ledger.errors import CheckpointUnavailable, IntegrityError, LedgerError, Unavailable, UsageError
from ledger.replay.layout import CHECKPOINT, DATA, OUTSIDE, InWorkspace
from ledger.replay.plan import CheckOutCode, Launch, MaterialiseData, RestoreCheckpoint

if TYPE_CHECKING:
    from ledger.book import Book
    from ledger.events import CheckpointWritten, CodeCaptured, DataCommitted
    from ledger.replay.plan import Plan

_GIT_OPTIONS: Final = tuple(
    word
    for option in (
        "core.hooksPath=/dev/null",
        "core.fsmonitor=false",
        "core.sparseCheckout=false",
        "gc.auto=0",
        "maintenance.auto=false",
        "submodule.recurse=false",
    )
    for word in ("-c", option)
)
_TIMEOUT_S: Final = 300


@dataclass(frozen=True)
class Workspace:
    """A rebuilt directory."""

    path: Path
    worktree: Path | None
    """Where in it a git worktree stands; None if there is none."""
    repository: Path | None
    """The repository that the worktree belongs to."""

    def discard(self) -> None:
        """Remove the directory, and the repository's note of the worktree; calling it twice is fine."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.worktree is not None and self.repository is not None:
            # Named, so that a note of the user's own about a lost worktree stays.
            _git(self.repository, "worktree", "remove", "--force", "--force", str(self.worktree))


class CheckpointLost(CheckpointUnavailable):
    """A checkpoint that the log has is gone, or is not what was stored."""

    def __init__(self, checkpoint: CheckpointWritten, error: LedgerError) -> None:
        super().__init__(str(error), mend=error.mend)
        self.checkpoint = checkpoint


def make_workspace(book: Book, plan: Plan, path: Path) -> Workspace:
    """Rebuild what ``plan`` needs at ``path``, which must not exist or be empty.

    Raises ``UsageError`` where it is taken, ``ObjectNotFound``, ``DigestMismatch`` or ``DataUnavailable`` where
    code or data cannot be had, ``CheckpointLost`` where that is so of the checkpoint; nothing is then left of it.
    """
    path = Path(os.path.abspath(path))
    if os.path.lexists(path) and not _is_empty(path):
        raise UsageError(f"{path} is not empty", mend="name a directory that does not exist yet")
    path.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(path, None, None)
    try:
        for step in plan.steps:
            match step:
                case CheckOutCode():
                    repository = _add_worktree(step.code, path / step.to)
                    workspace = Workspace(path, path / step.to if repository else None, repository)
                    _check_out(book, step.code, path / step.to, tracked=repository is not None)
                case MaterialiseData():
                    _materialise(book, step.commit, path, step.to)
                case RestoreCheckpoint():
                    _restore(book, step.checkpoint, path, step.to)
                case Launch():
                    _make_room(path, step)
                case _:
                    pass
    except BaseException:
        workspace.discard()
        raise
    return workspace


# --- code ------------------------------------------------------------------------------------------------


def _check_out(book: Book, code: CodeCaptured, tree: Path, *, tracked: bool) -> None:
    """Put the captured tree into ``tree``, which holds nothing but perhaps ``.git``."""
    arriving = tree.with_name(f".{uuid4().hex}.partial")
    book.objects.restore(book.objects.get_manifest(code.tree), arriving)
    try:
        tree.mkdir(parents=True, exist_ok=True)
        for child in arriving.iterdir():
            child.rename(tree / child.name)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)
    if tracked:
        # Mixed: this worktree's own index becomes the commit's, the files stay as they are.
        done = _git(tree, "reset", "--quiet", "--mixed", "HEAD")
        if done.returncode:
            raise Unavailable(
                f"git cannot make an index for {tree}: {done.stderr.strip()}",
                mend="look after that repository with `git fsck`, or move it away: the tree is rebuilt without it",
            )


def _add_worktree(code: CodeCaptured, tree: Path) -> Path | None:
    """A detached worktree of the commit, empty, and the repository it belongs to; None where there is none."""
    root = Path(code.root)
    if code.commit is None or not root.is_dir():
        return None
    top = _git(root, "rev-parse", "--show-toplevel")
    if top.returncode or Path(top.stdout.removesuffix("\n")) != root:
        return None
    added = _git(root, "worktree", "add", "--quiet", "--detach", "--no-checkout", str(tree), code.commit)
    return None if added.returncode else root


def _git(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # In a hook, GIT_DIR and its like name the repository that the hook is of.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environ |= {"GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    command = ["git", *_GIT_OPTIONS, *arguments]
    try:
        return subprocess.run(
            command,
            cwd=directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:  # no git: the tree is rebuilt all the same
        return subprocess.CompletedProcess(command, 127, "", str(error))


# --- data and outputs ------------------------------------------------------------------------------------


def _materialise(book: Book, commit: DataCommitted, path: Path, to: str) -> None:
    """Fetch one data set; what the code's tree has of it gives way."""
    place = path / to
    if not _is_inside(place.parent, path):
        raise IntegrityError(f"data {commit.name} would be written through a link to {place.parent.resolve()}")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink() or place.is_file():
        place.unlink()
    elif place.is_dir():
        shutil.rmtree(place)
    _hide(path, to, DATA)
    source = book.plugins.data_source_named(commit.provider, commit.uri, book.settings, book.objects)
    source.fetch(commit, place)


def _restore(book: Book, checkpoint: CheckpointWritten, path: Path, to: str) -> None:
    """Fetch a checkpoint; what the code's tree has under that name gives way."""
    place = path / to
    shutil.rmtree(place.parent, ignore_errors=True)
    place.parent.mkdir()
    _hide(path, to, CHECKPOINT)
    try:
        book.checkpoints().read(checkpoint, place)
    except (CheckpointUnavailable, IntegrityError) as error:
        raise CheckpointLost(checkpoint, error) from error


def _make_room(path: Path, step: Launch) -> None:
    """The working directory and those of the outputs: git keeps no empty ones, so the tree may lack them."""
    (path / step.directory).mkdir(parents=True, exist_ok=True)
    for output in step.outputs:
        if isinstance(output, InWorkspace) and _is_inside((path / output.path).parent, path):
            (path / output.path).parent.mkdir(parents=True, exist_ok=True)
            _hide(path, output.path, OUTSIDE)


def _hide(path: Path, to: str, folder: str) -> None:
    """Keep a folder of ours out of what git says about the workspace."""
    if to.split("/")[0] == folder:
        (path / folder / ".gitignore").write_text("*\n")


def _is_inside(place: Path, path: Path) -> bool:
    return Path(os.path.realpath(place)).is_relative_to(os.path.realpath(path))


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())
