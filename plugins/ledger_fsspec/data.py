"""The data source behind ``s3:``, ``gs:``, ``abfs:``, ``https:`` and every other URL that fsspec can read.

The commit is the digest of all names and bytes. Where the service keeps versions, each file is pinned by the
version that was read, and a pin outlives what is written over it; where it does not, the pin says so, and what
changed is found and named before anything trains on it. What a pin costs: see ``ledger.hooks.listed``.
"""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ledger import __version__
from ledger.errors import ObjectNotFound, Unavailable
from ledger.files import refuse_taken
from ledger.hooks.listed import ListedSource
from ledger.hooks.ports import Availability
from ledger_fsspec.asked import Asked
from ledger_fsspec.files import Files

if TYPE_CHECKING:
    from pathlib import Path

    from ledger import Manifest
    from ledger.events import DataCommit


class FsspecSource(ListedSource):
    """A ``DataSource`` over ``Files``; a copy goes into the ledger's objects where the URI says ``?snapshot=yes``."""

    name = "fsspec"
    version = __version__
    listing = Files

    def resolve(self, uri: str) -> Files:
        """See ``ListedSource``."""
        return Files(Asked.parse(uri).url)

    def keeps(self, uri: str) -> bool:
        """See ``ListedSource``; a snapshot is made of what is kept."""
        asked = Asked.parse(uri)
        return asked.keep or asked.snapshot

    def outlives(self, commit: DataCommit) -> bool:
        """See ``ListedSource``."""
        return commit.details.get("versions") == "kept"

    def pin(self, uri: str) -> DataCommit:
        """See ``DataSource``."""
        commit = super().pin(uri)
        if not Asked.parse(uri).snapshot:
            return commit
        if self._objects.missing(manifest := self._objects.get_manifest(commit.digest)):
            self._keep_snapshot(commit, manifest)
        return commit.model_copy(update={"snapshot": True})

    def fetch(self, commit: DataCommit, dest: Path) -> None:
        """See ``DataSource``; from the snapshot, where there is one."""
        refuse_taken(dest)
        if snapshot := self._snapshot(commit):
            self._objects.restore(snapshot, dest)
        else:
            super().fetch(commit, dest)

    def check(self, commit: DataCommit) -> Availability:
        """See ``DataSource``."""
        return Availability(True) if self._snapshot(commit) else super().check(commit)

    def _keep_snapshot(self, commit: DataCommit, manifest: Manifest) -> None:
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self._scratch) as folder:
                root = self._scratch / folder / "copy"
                super().fetch(commit, root)
                self._objects.put_tree(root, manifest)
        except OSError as error:
            raise Unavailable(
                f"cannot write below {self._scratch}: {error.strerror}",
                mend="make room there, or leave ?snapshot=yes out of the URI",
            ) from error

    def _snapshot(self, commit: DataCommit) -> Manifest | None:
        """What the copy holds, if there is a whole one."""
        if not commit.snapshot:
            return None
        try:
            manifest = self._objects.get_manifest(commit.digest)
        except ObjectNotFound:
            return None
        return None if self._objects.missing(manifest) else manifest
