"""``zip:/data/words.zip``: the files in an archive. One that holds a single file, at its top, is that file."""

import hashlib
import os
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from ledger import Entry, Hasher, Manifest
from ledger.errors import DataUnavailable, ObjectNotFound, UsageError, some
from ledger.events import DataCommit
from ledger.files import appearing
from ledger.hooks.ports import Availability


class Archive:
    """Implements ``ledger.hooks.ports.DataSource``; what an archive held once it does not keep."""

    name = "logbook"
    version = "1.0"

    def __init__(self, objects):
        self._objects = objects

    def pin(self, uri):
        """The archive's digest, and that of all that is in it."""
        path = Path(uri.removeprefix("zip:"))
        if not path.is_absolute() or path.suffix != ".zip":
            raise UsageError(f"{uri} names no archive", mend="write zip:/absolute/path.zip")
        manifest = listed(path)
        self._objects.put_bytes(manifest.content)
        return DataCommit(
            uri=uri, commit=Hasher().file(path).digest, path=str(path), digest=manifest.digest,
            files=manifest.files, bytes=manifest.bytes,
        )  # fmt: skip

    def fetch(self, commit, dest):
        """Unpack, and look again at what was unpacked."""
        if os.path.lexists(dest):
            raise UsageError(f"{dest} exists already", mend="name a path that does not")
        self._require(commit, listed(Path(commit.path)))
        with appearing(dest) as new, ZipFile(commit.path) as archive:
            for name, content in contents(archive):
                place = new if name == "." else new / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
            self._require(commit, Hasher().tree(new))

    def open(self, commit):
        """The archive as a file system."""
        from fsspec.implementations.zip import ZipFileSystem

        self._require(commit, listed(Path(commit.path)))
        return ZipFileSystem(commit.path), ""

    def check(self, commit):
        """Whether the archive still holds what was pinned."""
        try:
            self._require(commit, listed(Path(commit.path)))
        except DataUnavailable as error:
            return Availability(False, str(error))
        return Availability(True)

    def _require(self, commit, found):
        if found.digest == commit.digest:
            return
        try:
            changes = self._objects.get_manifest(commit.digest).changes(found)
        except ObjectNotFound:
            changes = ["files that cannot be named"]
        raise DataUnavailable(
            some(f"{commit.path} is no longer what was pinned:", changes), mend="put the archive back as it was"
        )


def listed(path):
    """The manifest of an archive. Raises ``DataUnavailable``; ``IntegrityError`` for names that lead out of it."""
    try:
        with ZipFile(path) as archive:
            return Manifest.of(
                Entry(name, hashlib.sha256(content).hexdigest(), len(content)) for name, content in contents(archive)
            )
    except (OSError, BadZipFile) as error:
        raise DataUnavailable(
            f"cannot read {path}: {error}", mend="check the path, and that it is an archive"
        ) from error


def contents(archive):
    """Every file by its name."""
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    single = len(names) == 1 and "/" not in names[0]
    for name in names:
        yield "." if single else name, archive.read(name)
