"""What a repository holds: commits, what is uncommitted, objects and their bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from ledger.errors import DataUnavailable
from ledger.hooks.listing import SINGLE, File
from ledger_lakefs.access import find_access
from ledger_lakefs.server import Malformed, NotThere, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lakefs_sdk.models import Commit

    from ledger_lakefs.uris import Place


@dataclass(frozen=True)
class Object(File):
    """One object of a commit."""

    address: str = ""
    """Where lakeFS keeps the bytes; another upload gets another one."""


class Lake:
    """Reads one server, and commits and tags where it is told to."""

    def __init__(self, server: Server) -> None:
        self.endpoint = server.endpoint
        self._server = server
        self._client = server.client
        self._presigns: dict[str, bool] = {}

    @classmethod
    def found(cls) -> Lake:
        """The one that the environment names. Raises ``DataUnavailable`` where it names none."""
        return cls(Server(find_access(os.environ)))

    # --- commits ----------------------------------------------------------------------------------------------

    def commit_at(self, repository: str, ref: str) -> Commit:
        """The commit that a branch, tag, id or expression means now."""
        what = f"{ref} of the repository {repository}"
        try:
            return self._server.call(what, self._client.commits_api.get_commit, repository, ref)
        except NotThere as error:
            raise self._why_not(repository, ref, error) from error

    def is_branch(self, repository: str, ref: str) -> bool:
        """Whether ``ref`` is the name of a branch."""
        try:
            self._server.call(f"the branch {ref}", self._client.branches_api.get_branch, repository, ref)
        except (NotThere, Malformed):  # names of tags may hold what names of branches may not
            return False
        return True

    def uncommitted(self, repository: str, branch: str, path: str) -> Iterator[str]:
        """What was done at or below ``path`` since the last commit: ``added a``, ``removed b``, ``changed c``."""
        path = path.rstrip("/")
        for change in self._server.listing(
            f"what is uncommitted on {branch}", self._client.branches_api.diff_branch, repository, branch, prefix=path
        ):
            if not path or change.path == path or change.path.startswith(f"{path}/"):
                yield f"{change.type} {change.path}"

    def commit(self, repository: str, branch: str, message: str) -> None:
        """Commit all that is uncommitted on the branch."""
        from lakefs_sdk.models import CommitCreation

        self._server.call(
            f"a commit on {branch} of {repository}",
            self._client.commits_api.commit,
            repository,
            branch,
            CommitCreation(message=message, metadata={"committed-by": "training-ledger"}),
        )

    def tag(self, repository: str, tag: str, commit: str) -> bool:
        """Make the tag, or find it on this commit already; False where it stands on another one."""
        from lakefs_sdk.models import TagCreation

        what, api = f"the tag {tag} of {repository}", self._client.tags_api
        try:
            self._server.call(what, api.create_tag, repository, TagCreation(id=tag, ref=commit))
        except DataUnavailable as error:
            try:
                made = self._server.call(what, api.get_tag, repository, tag)
            except NotThere:
                raise error from None
            return bool(made.commit_id == commit)
        return True

    # --- objects ----------------------------------------------------------------------------------------------

    def is_file(self, place: Place) -> bool:
        """Whether an object has exactly this path."""
        return bool(self._stat(place)) if not place.is_directory else False

    def objects(self, place: Place) -> Iterator[Object]:
        """All objects of a place, by name; none where there is nothing."""
        if not place.is_directory:
            if stats := self._stat(place):
                yield _object(SINGLE, stats)
            return
        for stats in self._server.listing(
            str(place),
            self._client.objects_api.list_objects,
            place.repository,
            place.commit,
            prefix=place.path,
            user_metadata=False,
        ):
            yield _object(stats.path.removeprefix(place.path), stats)

    def read(self, place: Place, path: str, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` of an object: straight from where lakeFS keeps them, where it offers that."""
        presigned = self._presigned(place.repository)
        try:
            return self._read(place, path, start, end, presign=presigned)
        except DataUnavailable:
            if not presigned:
                raise
            # Where only the address was at fault, made for a network that we are not in, the server reads from now on.
            piece = self._read(place, path, start, end, presign=False)
            self._presigns[place.repository] = False
            return piece

    def _read(self, place: Place, path: str, start: int, end: int, *, presign: bool) -> bytes:
        return bytes(
            self._server.call(
                f"{path} in {place}",
                self._client.objects_api.get_object,
                place.repository,
                place.commit,
                path,
                range=f"bytes={start}-{end - 1}",
                presign=presign,
            )
        )

    def _stat(self, place: Place) -> Any | None:
        try:
            return self._server.call(
                str(place),
                self._client.objects_api.stat_object,
                place.repository,
                place.commit,
                place.path,
                user_metadata=False,
            )
        except NotThere:
            return None

    def _presigned(self, repository: str) -> bool:
        if repository not in self._presigns:
            self._presigns[repository] = self._offers_presigned(repository)
        return self._presigns[repository]

    def _offers_presigned(self, repository: str) -> bool:
        config = self._server.call("the server's configuration", self._client.config_api.get_config)
        storages = config.storage_config_list or []
        if len(storages) > 1:
            about = self._server.call(repository, self._client.repositories_api.get_repository, repository)
            return any(each.pre_sign_support for each in storages if each.blockstore_id == about.storage_id)
        return bool(config.storage_config and config.storage_config.pre_sign_support)

    def _why_not(self, repository: str, ref: str, error: NotThere) -> NotThere:
        """A ref that is not there, or its repository, or all commits: only the server can tell."""
        api = self._client
        try:
            self._server.call(f"the repository {repository}", api.repositories_api.get_repository, repository)
        except NotThere:
            return NotThere(
                f"there is no repository {repository} in lakeFS at {self.endpoint}",
                mend="check its name with `lakectl repo list`, and that the endpoint is the right one",
            )
        listed = self._server.listing("its branches", api.branches_api.list_branches, repository)
        branches = [branch.id for branch in islice(listed, 10)]
        if not branches:
            return NotThere(
                f"the repository {repository} has no commits", mend="commit the data first: `lakectl commit`"
            )
        return NotThere(
            f"the repository {repository} has no branch, tag or commit {ref}",
            mend=f"its branches are {', '.join(branches)}",
        )


def _object(name: str, stats: Any) -> Object:
    return Object(name, stats.size_bytes or 0, stats.checksum, address=stats.physical_address)
