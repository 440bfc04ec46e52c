"""The data source behind ``lakefs:`` URIs.

``lakefs://corpus/main/clean/`` is what lies below ``clean/`` at the last commit of the branch ``main``; a tag, the id
of a commit and expressions such as ``main~1`` are understood, too, and a path without a final slash may name a
single object. Percent-encoding in the path is decoded; a question mark in a name is written ``%3F``. Options:
``?commit=MESSAGE`` commits what is uncommitted on the branch before it is pinned, ``?keep=no`` keeps no copy of what
is read to be digested.

What a pin costs: see ``ledger.hooks.listed``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Final

from ledger import __version__
from ledger.errors import DataUnavailable
from ledger.hooks.listed import ListedSource
from ledger_lakefs.commit import CommitListing
from ledger_lakefs.lake import Lake
from ledger_lakefs.uris import Asked, Place

if TYPE_CHECKING:
    from lakefs_sdk.models import Commit

_SHOWN: Final = 5


class UncommittedData(DataUnavailable):
    """The branch holds changes that are not committed: nothing immutable to pin."""


class LakefsSource(ListedSource):
    """A ``DataSource``: the commit is lakeFS's."""

    name = "lakefs"
    version = __version__
    listing = CommitListing

    def resolve(self, uri: str) -> CommitListing:
        """See ``ListedSource``. Raises ``UncommittedData`` where the branch holds changes at that path."""
        asked = Asked.parse(uri)
        commit = self._commit(asked)
        place = Place(asked.repository, commit.id, asked.path)
        if not place.is_directory and not self._lake.is_file(place):
            place = replace(place, path=f"{place.path}/")
        about = {
            "endpoint": self._lake.endpoint,
            "repository": asked.repository,
            "ref": asked.ref,
            "message": commit.message,
            "committer": commit.committer,
            "created": commit.creation_date,
            "metadata": commit.metadata or {},
        }
        return CommitListing(str(place), about)

    def keeps(self, uri: str) -> bool:
        """See ``ListedSource``."""
        return Asked.parse(uri).keep

    def commit(self, uri: str, message: str) -> None:
        """See ``Committing``."""
        self._commit_changes(Asked.parse(uri), message)

    @cached_property
    def _lake(self) -> Lake:
        return Lake.found()

    def _commit(self, asked: Asked) -> Commit:
        if asked.message is not None:
            self._commit_changes(asked, asked.message)
        else:
            self._refuse_changes(asked)
        return self._lake.commit_at(asked.repository, asked.ref)

    def _changes_on_branch(self, asked: Asked) -> list[str]:
        """The first few that are uncommitted at the path."""
        if not asked.may_be_branch or not self._lake.is_branch(asked.repository, asked.ref):
            return []
        return list(islice(self._lake.uncommitted(asked.repository, asked.ref, asked.path), _SHOWN + 1))

    def _commit_changes(self, asked: Asked, message: str) -> None:
        if not self._changes_on_branch(asked):
            return
        try:
            self._lake.commit(asked.repository, asked.ref, message)
        except DataUnavailable:  # of several runs that are started together, one is the first
            if self._changes_on_branch(asked):
                raise

    def _refuse_changes(self, asked: Asked) -> None:
        changes = self._changes_on_branch(asked)
        if changes:
            more = " and more" if len(changes) > _SHOWN else ""
            raise UncommittedData(
                f"the branch {asked.ref} of the repository {asked.repository} holds changes that are not "
                f"committed: {', '.join(changes[:_SHOWN])}{more}",
                mend='commit them first: --commit "message" does it (in a program, ?commit=MESSAGE at the end of the '
                f"URI), or take the last commit as it is: lakefs://{asked.repository}/{asked.ref}@/{asked.path}",
            )
