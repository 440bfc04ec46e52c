"""Questions to git that leave a repository as it was: no lock, no refreshed index, no hook."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_TIMEOUT_S: Final = 120
# The file-system monitor is a hook, and keeps its answers in the index.
_OPTIONS: Final = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.untrackedCache=keep")
_KEPT: Final = ("GIT_CONFIG", "GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM")


class GitError(Exception):
    """git is missing, or could not answer."""


@dataclass(frozen=True)
class Listing:
    """Names in a working tree, relative to its root, forward slashes; submodules and nested repositories
    too."""

    tracked: frozenset[str]
    untracked: frozenset[str]
    """Neither tracked nor ignored."""


@dataclass(frozen=True)
class Checkout:
    """What a repository says about its working tree."""

    root: Path
    remote: str | None
    """URL as the repository has it, with whatever credentials are in there."""
    commit: str | None
    branch: str | None
    changed: tuple[str, ...]
    """Tracked names whose content in the index or on disk is not the commit's."""


def find_root(directory: Path) -> Path | None:
    """The root of the working tree that holds ``directory``; None outside any. Raises ``GitError``."""
    if not any((d / ".git").exists() for d in (directory, *directory.parents)):
        return None
    return Path(os.path.realpath(_git(directory, "rev-parse", "--show-toplevel").removesuffix("\n")))


def look(root: Path) -> Checkout:
    """Where the working tree at ``root`` stands. Raises ``GitError``."""
    branch = _ask(root, "symbolic-ref", "-q", "--short", "HEAD")
    return Checkout(
        root=root,
        remote=_remote(root, branch),
        commit=_ask(root, "rev-parse", "-q", "--verify", "HEAD^{commit}"),
        branch=branch,
        changed=tuple(_changed(root)),
    )


def list_tree(root: Path) -> Listing:
    """All names that git knows or would add, in ``root`` and the repositories within. Raises
    ``GitError``."""
    tracked = _names(root, "--cached")
    untracked = _names(root, "--others", "--exclude-standard")
    listing = (set(tracked), set(untracked))
    for names, into in ((tracked, 0), (untracked, 1)):
        for name in names:
            inner = root / name
            if inner.is_symlink() or not (inner / ".git").exists():
                continue
            listing[into].discard(name)
            within = list_tree(inner)
            prefix = name.removesuffix("/") + "/"
            # What an untracked repository tracks is in a repository of its own all the same.
            listing[0].update(prefix + n for n in within.tracked)
            listing[1].update(prefix + n for n in within.untracked)
    return Listing(frozenset(listing[0]), frozenset(listing[1]))


def _changed(root: Path) -> Iterator[str]:
    status = _git(root, "status", "--porcelain", "-z", "--untracked-files=no", "--ignore-submodules=none")
    fields = iter(status.split("\0"))
    for field in fields:
        if field:
            yield field[3:]
            if field[0] in "RC":  # the old name follows
                yield next(fields)


def _remote(root: Path, branch: str | None) -> str | None:
    remotes = (_ask(root, "remote") or "").split("\n")
    upstream = _ask(root, "config", "--get", f"branch.{branch}.remote") if branch else None
    name = next((n for n in (upstream, "origin", *remotes) if n and n in remotes), None)
    return _ask(root, "config", "--get", f"remote.{name}.url") if name else None


def _names(root: Path, *options: str) -> list[str]:
    return [name for name in _git(root, "ls-files", "-z", *options).split("\0") if name]


def _ask(root: Path, *arguments: str) -> str | None:
    """An answer that may not exist; None then."""
    return _run(root, *arguments).stdout.removesuffix(b"\n").decode("utf-8", "surrogateescape") or None


def _git(root: Path, *arguments: str) -> str:
    done = _run(root, *arguments)
    if done.returncode:
        raise GitError(done.stderr.decode("utf-8", "replace").strip() or f"git {arguments[0]}: {done.returncode}")
    return done.stdout.decode("utf-8", "surrogateescape")


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    # Inside a hook GIT_DIR and its like name another repository, or another index, than that of the
    # directory.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith(_KEPT)}
    environ |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        return subprocess.run(
            ["git", *_OPTIONS, *arguments],
            cwd=root,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise GitError("git is not installed") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GitError(str(error)) from error
