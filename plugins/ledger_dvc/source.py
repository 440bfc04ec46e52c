"""The data source behind ``dvc:`` and ``dvc+…:`` URIs.

``dvc://data/train@v1.2`` is what lies at ``data/train``, from the root of the git repository that the working directory
is in, at the commit that ``v1.2`` means now: what DVC tracks there, read from its cache or a remote, and what git
itself holds. ``dvc+https://HOST/REPOSITORY.git//data/train@v1.2`` is the same of another repository. Without a revision
the newest commit is taken, and refused where that is not what lies in the working directory.

What a pin costs: DVC knows no SHA-256, so each file is read once, in full, each time that it is pinned. ``fetch`` reads
it again: from the cache, where it was fetched or pulled before, else from the remote.
"""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ledger import Entry, Manifest, __version__
from ledger.errors import DataUnavailable, IntegrityError, Unavailable, some
from ledger.events import DataCommit
from ledger.files import appearing, refuse_taken
from ledger.hooks.ports import Availability
from ledger_dvc.here import root_of, uncommitted, working_tree
from ledger_dvc.library import require
from ledger_dvc.repository import Repository
from ledger_dvc.uris import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from ledger import ObjectStore
    from ledger_dvc.repository import File

_THREADS: Final = 8
_HEAD: Final = re.compile(r"^HEAD(?![\w./-])")


class UncommittedData(DataUnavailable):
    """No revision was named, and what lies in the working directory is not the newest commit."""


class DvcSource:
    """A ``DataSource``: the commit is git's, DVC's hashes are in the details, and the manifest is kept as an object."""

    name = "dvc"
    version = __version__

    def __init__(self, objects: ObjectStore) -> None:
        require()
        self._objects = objects

    def pin(self, uri: str) -> DataCommit:
        """See ``DataSource``. Raises ``UncommittedData`` where no revision is named and something is not committed."""
        asked = Place.parse(uri)
        if asked.directory or not asked.repository:
            asked = replace(asked, repository=root_of(asked.directory).as_uri())
        repository = _open(asked)
        files, outputs = repository.files(asked.path), repository.outputs(asked.path)
        tree = working_tree(asked.directory)
        if tree and asked.rev is None:
            _refuse_uncommitted(tree, asked.path, outputs)
        manifest = _manifest(files, lambda file: _digest(repository.pieces(file)))
        self._objects.put_bytes(manifest.content)
        return DataCommit(
            uri=uri,
            commit=repository.commit,
            path=str(replace(asked, rev=repository.commit)),
            digest=manifest.digest,
            files=manifest.files,
            bytes=manifest.bytes,
            details={"repository": asked.repository, "rev": asked.rev, "md5": outputs, **repository.facts},
        )

    def fetch(self, commit: DataCommit, dest: Path) -> None:
        """See ``DataSource``; copies out of DVC's cache or a remote, and leaves the working directory alone."""
        refuse_taken(dest)
        place, repository = _reopen(commit)
        files = repository.files(place.path)
        with appearing(dest) as root:
            manifest = _manifest(files, lambda file: _write(repository.pieces(file), file, root))
            if manifest.digest != commit.digest:
                changes = self._objects.changes_since(commit.digest, manifest)
                raise DataUnavailable(
                    some(f"{place.path} at {commit.commit[:12]} is no longer what was pinned:", changes),
                    mend="somebody changed DVC's cache or remote: put the content back, or start a new run",
                )

    def open(self, commit: DataCommit) -> tuple[Any, str]:
        """See ``DataSource``; DVC's own file system, read-only, at the commit."""
        place, repository = _reopen(commit)
        return repository.fs, f"/{place.path}"

    def check(self, commit: DataCommit) -> Availability:
        """See ``DataSource``; asks cache and remotes for the files, and reads none."""
        try:
            place, repository = _reopen(commit)
            gone = repository.missing(repository.files(place.path))
        except Unavailable as error:
            return Availability.lacking(error)
        if gone:
            return Availability(False, some(f"in no cache and in no remote of {repository.location}:", gone))
        return Availability(True)


def _refuse_uncommitted(root: Path, path: str, outputs: Iterable[str]) -> None:
    if changes := uncommitted(root, path, outputs):
        raise UncommittedData(
            some(f"what lies at {path} is not what the newest commit says; changed:", changes),
            mend="`dvc add` or `dvc commit` and then `git commit` first, or take the newest commit as it is: @HEAD",
        )


def _open(place: Place) -> Repository:
    tree = working_tree(place.directory)
    if tree:
        return Repository(str(tree), place.rev or "HEAD")
    # DVC keeps its clone for the process, and HEAD there is the branch that was asked for first.
    rev = None if place.rev in (None, "HEAD") else _HEAD.sub("refs/remotes/origin/HEAD", place.rev)
    return Repository(f"file://{place.directory}" if place.directory else place.repository, rev)


def _reopen(commit: DataCommit) -> tuple[Place, Repository]:
    """The repository on record; where it is not there any more, another clone that the working directory lies in."""
    place = Place.parse(commit.path)
    try:
        return place, _open(place)
    except DataUnavailable:
        if not place.directory:
            raise
        with suppress(DataUnavailable):
            return place, _open(replace(place, repository=root_of(None).as_uri()))
        raise


def _manifest(files: list[File], digest: Callable[[File], tuple[str, int]]) -> Manifest:
    try:
        Manifest.of(Entry(file.name, "", 0) for file in files)  # names first: the next line may write to them
    except IntegrityError as error:
        raise DataUnavailable(f"the data cannot be had as files: {error}", mend="rename the file and commit") from error
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(digest, files))
    return Manifest.of(
        Entry(file.name, found, size, "executable" if file.executable else "file")
        for file, (found, size) in zip(files, digests, strict=True)
    )


def _digest(pieces: Iterator[bytes]) -> tuple[str, int]:
    """SHA-256 and length of a stream."""
    actual, size = hashlib.sha256(), 0
    for piece in pieces:
        actual.update(piece)
        size += len(piece)
    return actual.hexdigest(), size


def _write(pieces: Iterator[bytes], file: File, root: Path) -> tuple[str, int]:
    target = root if file.name == "." else root / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(
        os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o777 if file.executable else 0o666), "wb"
    ) as stream:

        def passing() -> Iterator[bytes]:
            for piece in pieces:
                stream.write(piece)
                yield piece

        return _digest(passing())
