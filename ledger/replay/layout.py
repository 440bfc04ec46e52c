"""Where things lie in a workspace, and what that makes of a command that names them by where they lay. Pure.

A workspace mirrors the nearest directory that holds both the code and the working directory, so that relative
paths mean what they meant. What lay elsewhere gets a place of its own.
"""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from ledger.hooks.uris import scheme

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ledger.events import DataCommit
    from ledger.objects.manifest import Manifest
    from ledger.read.state import RunState

DATA: Final = ".ledger-data"
"""Where in a workspace the data lie that did not lie beside the code."""
OUTSIDE: Final = ".ledger-out"
"""Where in a workspace a replay writes what its original wrote outside of the code's directory."""
CHECKPOINT: Final = ".ledger-checkpoint"
"""Where in a workspace the checkpoint is that a replay of a part goes on from."""
_ASSIGNMENT: Final = re.compile(r"[\w.+~-]+=")


@dataclass(frozen=True, slots=True)
class InWorkspace:
    """A path below the workspace, wherever that will be, with ``prefix`` before it (``--data=``)."""

    path: str
    prefix: str = ""

    def at(self, workspace: Path | str) -> str:
        """The word, once it is known where the workspace is."""
        return self.prefix + os.path.normpath(os.path.join(workspace, self.path))


Word = str | InWorkspace
"""A word of a command or an entry of a search path."""


def spelled(word: Word, workspace: Path | str) -> str:
    """``word`` for a workspace in this place."""
    return word.at(workspace) if isinstance(word, InWorkspace) else word


class Layout:
    """The workspace of one run."""

    def __init__(self, state: RunState) -> None:
        if state.code is None:
            raise ValueError("a run without code has no layout")
        root, asked = state.code.root, state.started.directory
        real = os.path.normpath(os.path.join(root, state.code.directory))
        base = os.path.commonpath([root, real])
        self.code = os.path.relpath(root, base)
        """Where the tree goes, relative to the workspace."""
        self.directory = os.path.relpath(real, base)
        """The working directory, relative to the workspace."""
        # The user may have come by another way than the real path: through a link.
        asked_base = os.path.normpath(os.path.join(asked, *[".."] * len(_parts(self.directory))))
        asked_root = os.path.normpath(os.path.join(asked_base, self.code))
        self._mirrored = ((root, self.code), (asked_root, self.code), (real, self.directory), (asked, self.directory))
        self._real = real
        self._asked = asked
        self._base = asked_base
        self._moved: dict[str, str] = {}
        """Places outside of what is mirrored, and where they are in the workspace."""

    def mirrored(self, path: str) -> str | None:
        """Where a place in the code's or the working directory is, relative to the workspace; None elsewhere."""
        path = os.path.normpath(path)
        # The deepest one decides: a replay's working directory may lie below its original's code.
        around = [(place, to) for place, to in self._mirrored if is_below(path, place)]
        if not around:
            return None
        place, to = max(around, key=lambda each: len(each[0]))
        return os.path.normpath(os.path.join(to, os.path.relpath(path, place)))

    def place_data(self, data: Mapping[str, DataCommit], tree: Manifest | None) -> dict[str, str]:
        """The place of each data set: where it lay if that is mirrored and its own, else below ``DATA``."""
        links = {e.path for e in tree.entries if e.mode == "link"} if tree else set()
        paths = {name: commit.path for name, commit in data.items() if scheme(commit.uri) == "file"}
        places = {}
        for name, commit in data.items():
            path = paths.get(name)
            to = self.mirrored(path) if path else None
            holds = path is not None and any(is_below(m, path) for m, _ in self._mirrored)
            nested = path is not None and any(is_below(path, p) for n, p in paths.items() if n != name)
            behind = to is not None and any(self._in_code(to, link) for link in links)
            if to is None or holds or nested or behind:
                to = f"{DATA}/{_safe(name)}/{_safe(os.path.basename(commit.path.rstrip('/')) or name)}"
                if path is not None and not holds:
                    self._moved[path] = to
            places[name] = to
        return places

    def place_outputs(self, paths: Iterable[str]) -> tuple[Word, ...]:
        """The place of each output, given by the path that the run's log has for it."""
        words: list[Word] = []
        for path in paths:
            place = os.path.normpath(os.path.join(self._real, path))
            to = self.mirrored(place)
            if to is None:
                to = self._moved[place] = OUTSIDE + place
            words.append(InWorkspace(to))
        return tuple(words)

    def artifact(self, path: str) -> str:
        """An artifact's path in a form that is the same for an original and for its replay elsewhere."""
        place = os.path.normpath(os.path.join(self._asked, path))
        outside = os.path.join(self._base, OUTSIDE)
        if is_below(place, outside):
            return place.removeprefix(outside)
        return self.mirrored(place) or place

    def word(self, word: str) -> Word:
        """A word of the command, rewritten if it names a place that is elsewhere now."""
        found = self._place(word)
        if found is not None:
            return InWorkspace(found)
        assignment = _ASSIGNMENT.match(word)
        if assignment:
            found = self._place(word[assignment.end() :])
            if found is not None:
                return InWorkspace(found, assignment[0])
        return word

    def _place(self, path: str) -> str | None:
        if not path:
            return None
        absolute = os.path.normpath(os.path.join(self._real, path))
        for place in sorted(self._moved, key=len, reverse=True):
            if is_below(absolute, place):
                return os.path.normpath(os.path.join(self._moved[place], os.path.relpath(absolute, place)))
        return self.mirrored(path) if os.path.isabs(path) else None

    def _in_code(self, to: str, link: str) -> bool:
        """Whether a place is behind a link of the captured tree: what is put there would land outside."""
        place = os.path.normpath(os.path.join(self.code, link))
        return to != place and is_below(to, place)


def is_below(path: str, place: str) -> bool:
    """Whether ``path`` is ``place`` or lies below it; both normal."""
    return path == place or path.startswith(place.rstrip("/") + "/")


def _parts(directory: str) -> list[str]:
    return [part for part in PurePosixPath(directory).parts if part != "."]


def _safe(name: str) -> str:
    """``name`` as one plain segment of a path."""
    return re.sub(r"[^\w.-]|^\.+", "_", name)
