"""The exact working tree: every byte that git would commit or has committed, as it lies on the disk."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ledger.errors import DataUnavailable, DigestMismatch
from ledger.events import CodeCaptured, OmittedFile
from ledger.objects.manifest import Entry, Manifest
from ledger.record.capture.git import Checkout, GitError, find_root, list_tree, look
from ledger.record.capture.interpreter import Interpreter, interpreter_of
from ledger.record.capture.secret_names import is_secret_file
from ledger.record.capture.secrets import Redactor
from ledger.settings import FOLDER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from ledger.objects.hashing import Hasher
    from ledger.objects.store import ObjectStore

_SKIPPED: Final = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        ".bzr",
        ".jj",
        ".venv",
        "__pycache__",
        "node_modules",
        ".ipynb_checkpoints",
        FOLDER,
    }
    | {".mypy_cache", ".pytest_cache", ".ruff_cache", ".tox", ".nox"}
)
"""Folders that are not the user's work, where no git says what is."""
_NEVER: Final = frozenset({"__pycache__", FOLDER})
"""Folders that are left out in a git repository, too, unless they are tracked: the run itself writes them."""
_TRIES: Final = 3
_WITHHELD: Final = "withheld: looks like a secret"
_CHANGING: Final = "it kept changing while it was captured"


@dataclass(frozen=True)
class _Found:
    """What there is to capture, before anything is read."""

    root: Path
    checkout: Checkout | None
    tracked: frozenset[str]
    untracked: frozenset[str]
    omitted: tuple[OmittedFile, ...] = ()


def capture_code(
    directory: Path,
    objects: ObjectStore,
    hasher: Hasher,
    *,
    limit_bytes: int,
    exclude: Collection[Path] = (),
    entry_point: str | None = None,
    interpreter: Interpreter | None = None,
) -> CodeCaptured:
    """Keep the working tree around ``directory``, the command's, and say what was kept.

    In a git repository: all that is tracked or is neither tracked nor ignored, submodules included, with no
    change to index, branch or stash. Elsewhere, or where git fails, the entry point's directory. ``exclude``
    are absolute paths that are recorded elsewhere. Of what is more than ``limit_bytes`` the largest files are
    left out; these, and files that are secrets by name, are told in ``omitted``. Raises what
    ``ObjectStore.put_tree`` does where objects cannot be written.
    """
    directory = Path(os.path.realpath(directory))
    found = _find(directory, _script(directory, entry_point))
    choice = _Choice(found, _outside(exclude, found.root, directory))
    choice.fit(limit_bytes)
    manifest, unread = _keep(found.root, choice, objects, hasher)
    checkout = found.checkout
    return CodeCaptured(
        root=str(found.root),
        directory=Path(os.path.relpath(directory, found.root)).as_posix(),
        repository=_public(checkout.remote) if checkout else None,
        commit=checkout.commit if checkout else None,
        branch=checkout.branch if checkout else None,
        dirty=checkout is not None and choice.dirty(checkout),
        tree=manifest.digest,
        files=manifest.files,
        bytes=manifest.bytes,
        entry_point=_relative(directory, entry_point, found.root),
        python_path=tuple(_inside((interpreter or interpreter_of()).imports, found.root)),
        omitted=tuple(sorted((*choice.omitted, *unread), key=lambda o: (-o.bytes, o.path))),
    )


def changed_since(code: CodeCaptured, objects: ObjectStore, hasher: Hasher) -> list[str]:
    """``changed a.py``, ``missing b.py``: captured files that are no longer what they were. New ones do not
    count.

    Raises ``ObjectNotFound`` where the manifest of the tree is gone.
    """
    root = Path(code.root)
    before = objects.get_manifest(code.tree).entries
    now = _now(root, [entry.path for entry in before], hasher)
    return [
        f"{'changed' if os.path.lexists(root / entry.path) else 'missing'} {entry.path}"
        for entry in before
        if now.get(entry.path) != entry
    ]


def _now(root: Path, names: list[str], hasher: Hasher) -> dict[str, Entry]:
    """Those of ``names`` that can be read."""
    choice = _Choice(_Found(root, None, frozenset(names), frozenset()), ())
    return {entry.path: entry for entry in _read(root, choice, hasher)[0]}


# --- what there is ---------------------------------------------------------------------------------------


def _script(directory: Path, entry_point: str | None) -> Path | None:
    """The entry point, where it is a file of the user's and not a command found on PATH."""
    script = directory / entry_point if entry_point else None
    if script is None or not script.is_file() or str(script.parent) in os.get_exec_path():
        return None
    return Path(os.path.realpath(script))


def _find(directory: Path, script: Path | None) -> _Found:
    start = directory
    try:
        root = find_root(directory)
        if script is not None and (root is None or not script.is_relative_to(root)):
            start = script.parent
            root = find_root(start)
        if root is not None:
            listing = list_tree(root)
            return _Found(root, look(root), listing.tracked, listing.untracked)
    except GitError as error:
        note = OmittedFile(path=".git", bytes=0, reason=f"git failed, so this is a plain directory: {error}")
        start = script.parent if script is not None else directory
        return _plain(start, (note,))
    return _plain(start, ())


def _plain(root: Path, notes: tuple[OmittedFile, ...]) -> _Found:
    omitted = list(notes)

    def unlisted(error: OSError) -> None:
        path = _printable(os.path.relpath(error.filename, root))
        omitted.append(OmittedFile(path=path, bytes=0, reason=f"cannot be listed: {error.strerror}"))

    names = set()
    for place, folders, files in os.walk(root, onerror=unlisted):
        folders[:] = [] if "pyvenv.cfg" in files else sorted(f for f in folders if f not in _SKIPPED)
        links = [f for f in folders if os.path.islink(os.path.join(place, f))]
        here = os.path.relpath(place, root)
        names |= {os.path.normpath(os.path.join(here, f)) for f in (*files, *links)}
        if here != "." and not folders and not files:
            names.add(here)
    return _Found(root, None, frozenset(), frozenset(names), tuple(omitted))


# --- what of it is kept ----------------------------------------------------------------------------------


class _Choice:
    """The names to keep, and those not to, with the reason."""

    def __init__(self, found: _Found, outside: tuple[str, ...]) -> None:
        self._root = found.root
        self._outside = outside
        self._links: dict[str, bool] = {}
        self.files: dict[str, int] = {}
        """Size of each regular file."""
        self.links: list[str] = []
        self.directories: list[str] = []
        self.omitted = list(found.omitted)
        self._tracked = found.tracked
        environments = self._environments(found.untracked)
        for name in sorted(found.tracked | found.untracked):
            tracked = name in found.tracked
            if not self._is_outside(name) and (tracked or not self._is_by_product(name, environments)):
                self._consider(name.removesuffix("/"), tracked)

    def dirty(self, checkout: Checkout) -> bool:
        """Whether what is kept, or would be but for its size, is not the commit's."""
        changed = any(not self._is_outside(name) for name in checkout.changed)
        names = (*self.files, *self.links, *(o.path for o in self.omitted))
        return changed or any(name not in self._tracked for name in names)

    def fit(self, limit: int) -> None:
        """Leave out the largest files until the rest is within ``limit`` bytes."""
        total = sum(self.files.values())
        for name, size in sorted(self.files.items(), key=lambda item: (-item[1], item[0])):
            if total <= limit:
                return
            total -= size
            del self.files[name]
            reason = f"over the limit of {limit / 1e6:g} MB: raise capture.code_limit_mb in ledger.toml"
            self.omitted.append(OmittedFile(path=name, bytes=size, reason=reason))

    def _consider(self, name: str, tracked: bool) -> None:
        try:
            status = os.lstat(self._root / name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._omit(name, 0, f"cannot be read: {error.strerror}")
            return
        if self._behind_link(os.path.dirname(name)):
            return  # git takes it for deleted, and the link that stands in its way is kept
        if not _is_portable(name):
            self._omit(name, status.st_size, "its name is not UTF-8, or has a backslash in it")
        elif stat.S_ISLNK(status.st_mode):
            self.links.append(name)
        elif stat.S_ISREG(status.st_mode):
            if not tracked and is_secret_file(name):
                self._omit(name, status.st_size, _WITHHELD)
            else:
                self.files[name] = status.st_size
        elif stat.S_ISDIR(status.st_mode):
            # A submodule that was never fetched, or an empty directory outside git.
            if not any(os.scandir(self._root / name)):
                self.directories.append(name)
        else:
            self._omit(name, 0, "a socket, pipe or device")

    def _omit(self, name: str, size: int, reason: str) -> None:
        self.omitted.append(OmittedFile(path=_printable(name), bytes=size, reason=reason))

    def _behind_link(self, folder: str) -> bool:
        if not folder:
            return False
        if folder not in self._links:
            here = os.path.islink(self._root / folder)
            self._links[folder] = here or self._behind_link(os.path.dirname(folder))
        return self._links[folder]

    def _is_outside(self, name: str) -> bool:
        return bool(self._outside) and any(_is_below(name.removesuffix("/"), path) for path in self._outside)

    def _environments(self, names: Iterable[str]) -> tuple[str, ...]:
        """Untracked virtual environments: they are recorded as packages, and hold gigabytes."""
        found = [os.path.dirname(name) for name in names if os.path.basename(name) == "pyvenv.cfg"]
        for name in sorted(n for n in found if n):
            self._omit(name, 0, "a virtual environment: recorded as its packages")
        return tuple(name for name in found if name)

    @staticmethod
    def _is_by_product(name: str, environments: tuple[str, ...]) -> bool:
        return not _NEVER.isdisjoint(name.split("/")) or any(_is_below(name, path) for path in environments)


def _outside(exclude: Iterable[Path], root: Path, directory: Path) -> tuple[str, ...]:
    """Excluded paths relative to the root, except one that holds the command's directory itself."""
    real = [os.path.realpath(path) for path in exclude]
    top = str(root)
    return tuple(
        os.path.relpath(path, top) for path in real if _is_below(path, top) and not _is_below(str(directory), path)
    )


def _is_below(name: str, folder: str) -> bool:
    return name == folder or name.startswith(folder.rstrip("/") + "/")


def _is_portable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return "\\" not in name


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# --- keeping it ------------------------------------------------------------------------------------------


def _keep(root: Path, choice: _Choice, objects: ObjectStore, hasher: Hasher) -> tuple[Manifest, list[OmittedFile]]:
    """Store all that was chosen; what cannot be read, or does not hold still, is told."""
    for _ in range(_TRIES):
        entries, unread = _read(root, choice, hasher)
        manifest = Manifest.of(entries)
        try:
            objects.put_tree(root, manifest)
        except (DigestMismatch, DataUnavailable):
            continue  # something writes into the tree, perhaps a log of this very run
        return manifest, unread
    still = [entry for entry in entries if _holds_still(root, entry, objects)]
    names = {entry.path for entry in still}
    changing = (entry for entry in entries if entry.path not in names)
    unread += [OmittedFile(path=entry.path, bytes=entry.bytes, reason=_CHANGING) for entry in changing]
    manifest = Manifest.of(still)
    objects.put_tree(root, manifest)
    return manifest, unread


def _read(root: Path, choice: _Choice, hasher: Hasher) -> tuple[list[Entry], list[OmittedFile]]:
    entries = [_directory(name) for name in choice.directories]
    unread: list[OmittedFile] = []
    for name in choice.links:
        try:
            entries.append(_link(root, name))
        except OSError as error:
            unread.append(OmittedFile(path=name, bytes=0, reason=f"cannot be read: {error.strerror}"))
    try:
        entries += hasher.files(root, choice.files)
    except DataUnavailable:  # one of them; find out which
        for name, size in choice.files.items():
            try:
                entries += hasher.files(root, [name])
            except DataUnavailable as error:
                unread.append(OmittedFile(path=name, bytes=size, reason=str(error)))
    return entries, unread


def _link(root: Path, name: str) -> Entry:
    target = os.readlink(os.fsencode(root / name))
    return Entry(name, hashlib.sha256(target).hexdigest(), len(target), "link")


def _directory(name: str) -> Entry:
    return Entry(name, hashlib.sha256().hexdigest(), 0, "directory")


def _holds_still(root: Path, entry: Entry, objects: ObjectStore) -> bool:
    try:
        objects.put_tree(root, Manifest((entry,)))
    except (DigestMismatch, DataUnavailable):
        return False
    return True


# --- what is said about it -------------------------------------------------------------------------------


def _public(url: str | None) -> str | None:
    """A remote's URL without credentials; still one that git can fetch from."""
    if url is None:
        return None
    scheme, mark, rest = url.partition("://")
    if mark and scheme.lower() in ("http", "https"):
        host, slash, path = rest.partition("/")
        url = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return Redactor({}).url(url)


def _relative(directory: Path, entry_point: str | None, root: Path) -> str | None:
    if entry_point is None:
        return None
    script = Path(os.path.realpath(directory / entry_point))
    inside = script.is_file() and script.is_relative_to(root)
    return script.relative_to(root).as_posix() if inside else entry_point


def _inside(directories: Iterable[str], root: Path) -> Iterator[str]:
    for directory in directories:
        if Path(directory).is_relative_to(root) and "site-packages" not in directory:
            yield Path(directory).relative_to(root).as_posix()
