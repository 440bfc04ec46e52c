"""The names below a root, in the form in which a manifest keeps them.

A link that stays inside the root is kept as a link, its target relative, so that a copy is whole wherever it
lies. A link that leaves the root is followed, so that data behind it are covered like all others.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledger.errors import DataUnavailable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from ledger.objects.manifest import Mode


@dataclass(frozen=True, slots=True)
class Name:
    """One file, inner link or empty directory."""

    path: str
    """Relative to the root, with forward slashes."""
    place: str
    """Absolute path to read it from."""
    mode: Mode
    target: str | None = None
    """Of a link."""


def walk(root: Path, *, exclude: Collection[str] = (), follow: bool = False) -> Iterator[Name]:
    """Every name below the directory ``root``, except the subtrees whose relative paths are in ``exclude``.

    ``follow`` follows the links that stay inside, too. Raises ``DataUnavailable``, naming the path, for what
    cannot be listed, loops and dangling links, names that are not UTF-8 or hold a backslash, sockets, pipes
    and devices.
    """
    top = os.path.realpath(root)
    yield from _Walk(top, frozenset(exclude), follow).below("", top, ())


def file_mode(status: os.stat_result) -> Mode:
    """``executable`` where the owner may execute it, else ``file``."""
    return "executable" if status.st_mode & stat.S_IXUSR else "file"


def inner_target(root: str, path: str) -> str | None:
    """Target of the link at ``path`` below the real path ``root``, relative to the link; None if it leaves
    the root.

    Raises ``DataUnavailable`` for a loop or a dangling link.
    """
    place = os.path.join(root, path)
    try:
        target = os.readlink(place)
        real = os.path.realpath(place, strict=True)
    except OSError as error:
        raise DataUnavailable(
            f"{place} is a symbolic link that leads nowhere: {error.strerror}",
            mend="remove the link, or restore what it points to",
        ) from error
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        return None
    parent = os.path.dirname(path)
    plain = os.path.normpath(os.path.join(parent, target))
    stays = not os.path.isabs(target) and plain != ".." and not plain.startswith("../")
    if stays and os.path.realpath(os.path.join(root, plain)) == real:
        return target
    return os.path.relpath(real, os.path.join(root, parent))


class _Walk:
    def __init__(self, root: str, exclude: frozenset[str], follow: bool) -> None:
        self._root = root
        self._exclude = exclude
        self._follow = follow

    def below(self, path: str, place: str, above: tuple[tuple[int, int], ...]) -> Iterator[Name]:
        """Names below the directory ``place``, called ``path``; ``above`` are those that hold it."""
        try:
            status = os.stat(place)
            with os.scandir(place) as listing:
                children = list(listing)
        except OSError as error:
            raise DataUnavailable(
                f"cannot list {place}: {error.strerror}", mend="make it readable, or leave it out"
            ) from error
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise DataUnavailable(
                f"{place} leads back to a directory that holds it: the links form a loop",
                mend="remove the link",
            )
        if not children and path:
            yield Name(_checked(path, place), place, "directory")
        for child in children:
            inner = f"{path}/{child.name}" if path else child.name
            if inner not in self._exclude:
                yield from self._one(inner, child, (*above, here))

    def _one(self, path: str, child: os.DirEntry[str], above: tuple[tuple[int, int], ...]) -> Iterator[Name]:
        place = child.path
        if child.is_symlink():
            target = inner_target(self._root, path)
            if target is not None and not self._follow:
                yield Name(_checked(path, place), place, "link", _checked(target, place))
                return
        try:
            status = child.stat()
        except OSError as error:
            raise DataUnavailable(f"cannot read {place}: {error.strerror}") from error
        if stat.S_ISDIR(status.st_mode):
            yield from self.below(path, place, above)
        elif stat.S_ISREG(status.st_mode):
            yield Name(_checked(path, place), place, file_mode(status))
        else:
            raise DataUnavailable(
                f"{place} is a socket, pipe or device, which has no content to keep", mend="move it elsewhere"
            )


def _checked(name: str, place: str) -> str:
    """``name``, if a manifest can hold it: its bytes must mean the same on every machine."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataUnavailable(
            f"the name {os.fsencode(place)!r} is not UTF-8",
            mend="rename the file; `convmv` does whole directories",
        ) from error
    if "\\" in name:
        raise DataUnavailable(f"the name {place!r} holds a backslash", mend="rename the file")
    return name
