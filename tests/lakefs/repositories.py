"""What a lakeFS server keeps: repositories with branches, commits, tags and objects, as far as its API shows them.

A branch is a commit and what was staged on it since. A commit's id is a digest of its content, as lakeFS's are.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import uuid4


class Refused(Exception):
    """An answer other than the one that was hoped for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Object:
    path: str
    checksum: str
    size: int
    address: str
    mtime: int
    content_type: str
    metadata: Mapping[str, str]

    def told(self, address: str | None = None) -> dict[str, object]:
        return {
            "path": self.path,
            "path_type": "object",
            "physical_address": address or self.address,
            "checksum": self.checksum,
            "size_bytes": self.size,
            "mtime": self.mtime,
            "content_type": self.content_type,
            "metadata": dict(self.metadata),
        }


Tree = Mapping[str, Object]


@dataclass(frozen=True)
class Commit:
    parents: tuple[str, ...]
    committer: str
    message: str
    created: int
    metadata: Mapping[str, str]
    tree: Tree

    @property
    def meta_range(self) -> str:
        return _digest([[path, each.checksum, each.address] for path, each in self.tree.items()])

    @property
    def id(self) -> str:
        return _digest([self.parents, self.committer, self.message, self.created, dict(self.metadata), self.meta_range])

    def told(self) -> dict[str, object]:
        return {
            "id": self.id,
            "parents": list(self.parents),
            "committer": self.committer,
            "message": self.message,
            "creation_date": self.created,
            "meta_range_id": self.meta_range,
            "metadata": dict(self.metadata),
        }


@dataclass
class Branch:
    commit: str
    staged: dict[str, Object | None] = field(default_factory=dict)
    """What was done since the commit; None for what was removed."""


class Repository:
    def __init__(self, name: str, namespace: str, default_branch: str, *, bare: bool) -> None:
        self.name = name
        self.namespace = namespace.rstrip("/")
        self.default_branch = default_branch
        self.created = int(time.time())
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, Branch] = {}
        self.tags: dict[str, str] = {}
        if not bare:
            first = self._keep(Commit((), "", "Repository created", self.created, {}, {}))
            self.branches[default_branch] = Branch(first.id)

    def told(self) -> dict[str, object]:
        return {
            "id": self.name,
            "storage_namespace": self.namespace,
            "default_branch": self.default_branch,
            "creation_date": self.created,
        }

    # --- refs -------------------------------------------------------------------------------------------------

    def branch(self, name: str) -> Branch:
        if not re.fullmatch(r"\w[\w-]*", name):
            raise Refused(400, "argument branchID: validation error: invalid value")
        if name not in self.branches:
            raise Refused(404, f"branch '{name}': not found")
        return self.branches[name]

    def commit_at(self, ref: str) -> Commit:
        """The commit that a ref means: a whole id before a branch, a tag, or the start of an id; then modifiers."""
        base, *modifiers = re.findall(r"(?:^|[~^@$])[^~^@$]*", ref)
        commit = self._base(base)
        for modifier in modifiers:
            commit = self._modified(commit, base, modifier, alone=len(modifiers) == 1)
        return commit

    def tree_at(self, ref: str) -> Tree:
        """What a ref shows: of a branch also what is not committed."""
        branch = self.branches.get(ref) if ref not in self.commits else None
        tree = self.commit_at(ref).tree
        if branch is None:
            return tree
        shown = dict(tree) | branch.staged
        return {path: shown[path] for path in in_order(shown) if shown[path] is not None}

    def _base(self, name: str) -> Commit:
        if name in self.commits:
            return self.commits[name]
        if name in self.branches:
            return self.commits[self.branches[name].commit]
        if name in self.tags:
            return self.commits[self.tags[name]]
        begun = [each for each in self.commits if re.fullmatch("[0-9a-f]{6,64}", name) and each.startswith(name)]
        if len(begun) != 1:
            raise Refused(404, f"ref '{name}': not found")
        return self.commits[begun[0]]

    def _modified(self, commit: Commit, base: str, modifier: str, *, alone: bool) -> Commit:
        kind, number = modifier[0], modifier[1:]
        if kind == "@" and not number and alone and base in self.branches:
            return commit
        if kind == "$":
            raise Refused(400, "reference to staging area with $ is not a commit")
        if kind not in "~^" or not re.fullmatch(r"\d*", number):
            raise Refused(400, "validation error: invalid reference")
        count = int(number or 1)
        for _ in range(count if kind == "~" else min(count, 1)):
            if kind == "^" and count > len(commit.parents):
                raise Refused(400, "validation error: invalid reference")
            if not commit.parents:
                raise Refused(404, "commit: not found")
            commit = self.commits[commit.parents[0 if kind == "~" else count - 1]]
        return commit

    # --- changes ----------------------------------------------------------------------------------------------

    def stage(self, branch: str, path: str, content: bytes, content_type: str, metadata: Mapping[str, str]) -> Object:
        made = Object(
            path,
            hashlib.md5(content, usedforsecurity=False).hexdigest(),
            len(content),
            f"{self.namespace}/data/{uuid4().hex}",
            int(time.time()),
            content_type,
            metadata,
        )
        self.branch(branch).staged[path] = made
        return made

    def remove(self, branch: str, path: str) -> None:
        if path in self.tree_at(branch):
            self.branch(branch).staged[path] = None

    def diff(self, branch: str) -> list[dict[str, object]]:
        """What is uncommitted."""
        at = self.branch(branch)
        before = self.commits[at.commit].tree
        found: list[dict[str, object]] = []
        for path in in_order(at.staged):
            now, was = at.staged[path], before.get(path)
            if now is None and was is None:
                continue
            if now is not None and was is not None and (now.checksum, now.size) == (was.checksum, was.size):
                continue
            kind = "removed" if now is None else "changed" if was else "added"
            size = (now or was).size  # type: ignore[union-attr]
            found.append({"type": kind, "path": path, "path_type": "object", "size_bytes": size})
        return found

    def commit(self, branch: str, message: str, committer: str, metadata: Mapping[str, str]) -> Commit:
        at = self.branch(branch)
        if not self.diff(branch):
            raise Refused(400, "commit: no changes")
        parent = at.commit
        tree = self.tree_at(branch)
        made = self._keep(Commit((parent,), committer, message, int(time.time()), metadata, tree))
        self.branches[branch] = Branch(made.id)
        return made

    def add_branch(self, name: str, source: str) -> str:
        if name in self.branches:
            raise Refused(409, f"branch '{name}' already exists: not unique")
        commit = self.commit_at(source)
        self.branches[name] = Branch(commit.id)
        return commit.id

    def add_tag(self, name: str, ref: str) -> str:
        if not re.fullmatch(r"\w[\w.~-]*", name):
            raise Refused(400, "argument tag: validation error")
        if name in self.tags:
            raise Refused(409, f"tag '{name}' already exists: not unique")
        self.tags[name] = self.commit_at(ref).id
        return self.tags[name]

    def _keep(self, commit: Commit) -> Commit:
        commit = replace(commit, tree={path: commit.tree[path] for path in in_order(commit.tree)})
        self.commits[commit.id] = commit
        return commit


def in_order(paths: Mapping[str, object]) -> list[str]:
    """Paths as lakeFS sorts them: by their bytes."""
    return sorted(paths, key=lambda path: path.encode())


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
