"""The repository of the working directory, and what is uncommitted in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.errors import DataUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable


def root_of(directory: Path | None) -> Path:
    """The root of the git repository at ``directory``, or else of the one that the working directory lies in."""
    from dvc.scm import SCM, SCMError

    try:
        return Path(SCM(str(directory or os.getcwd()), search_parent_directories=directory is None).root_dir)
    except SCMError:
        raise DataUnavailable(
            f"{directory or os.getcwd()} is no git repository",
            mend="start in the repository that holds the .dvc files, or name it: dvc+file:///REPOSITORY//PATH@REV",
        ) from None


def working_tree(directory: Path | None) -> Path | None:
    """``directory``, if files are checked out there; a bare repository has none."""
    return directory if directory and (directory / ".git").exists() else None


def uncommitted(root: Path, path: str, outputs: Iterable[str]) -> list[str]:
    """What at or below ``path`` is not as in the newest commit: for git, and for DVC's ``outputs`` there.

    Data that are not checked out are no change. Raises ``DataUnavailable`` where DVC cannot tell.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    targets: dict[str, list[str]] = {}
    try:
        for output in outputs:
            # The folder of data that are not checked out may not be there.
            folder = next(parent for parent in (root / output).parents if parent.is_dir())
            repo = Repo.find_root(str(folder))
            targets.setdefault(repo, []).append(os.path.relpath(root / output, repo))
        found = {name for repo, names in targets.items() for name in _of_dvc(repo, names)}
    except DvcException as error:
        raise DataUnavailable(
            f"what is uncommitted in {root} cannot be told ({type(error).__name__})",
            mend="see `dvc data status`, or name the commit: @HEAD",
        ) from None
    return sorted(found | set(_of_git(root, path)))


def _of_dvc(repo: str, targets: list[str]) -> list[str]:
    from dvc.repo import Repo

    with Repo(repo) as opened:
        status = opened.data_status(targets=targets, untracked_files="no")
    # What DVC calls deleted in the working directory may never have been checked out.
    kinds = {"committed": ("added", "modified", "deleted", "renamed"), "uncommitted": ("added", "modified", "renamed")}
    return [str(name) for state, changes in kinds.items() for kind in changes for name in status[state].get(kind, [])]


def _of_git(root: Path, path: str) -> list[str]:
    from dvc.scm import SCM

    staged, unstaged, untracked = SCM(str(root)).status(untracked_files="all")
    names = {*unstaged, *untracked, *(name for names in staged.values() for name in names)}
    return [name for name in names if f"{name}/".startswith(f"{path}/")]
