"""The objects of a commit, as what a data source pins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ledger.errors import DataUnavailable
from ledger.hooks.listing import SINGLE, Listing
from ledger_lakefs.lake import Lake, Object
from ledger_lakefs.uris import Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ledger.hooks.listing import File


class CommitListing(Listing):
    """What lies at a ``Place``. ``about`` is what goes on record of its commit: all of it where it is pinned."""

    probes: ClassVar[int] = 16
    """Enough to see that a garbage collection went through them: lakeFS still lists what it has removed."""
    mend_changed: ClassVar[str] = (
        "somebody changed the data behind lakeFS: put them back, or start a new run on what is there"
    )

    def __init__(self, path: str, about: Mapping[str, Any] | None = None) -> None:
        self._place = Place.parse(path)
        super().__init__(path, commit=self._place.commit)
        self._about = dict(about or {})
        self._lake = Lake.found()
        self.endpoint = self._lake.endpoint

    def files(self) -> Iterator[Object]:
        """See ``Listing``."""
        return self._lake.objects(self._place)

    def read(self, file: File, start: int, end: int) -> bytes:
        """See ``Listing``; by the id of the commit."""
        path = self._place.path if file.name == SINGLE else self._place.path + file.name
        return self._lake.read(self._place, path, start, end)

    def address(self, file: File) -> str:
        """See ``Listing``."""
        # lakeFS never writes to an address twice. An object that was imported lies where others can write: what they
        # change shows when it is fetched, and as another checksum when it is imported again.
        return file.address if isinstance(file, Object) else super().address(file)

    def details(self, files: Sequence[File]) -> dict[str, Any]:
        """See ``Listing``."""
        return self._about

    def nothing(self) -> DataUnavailable:
        """See ``Listing``."""
        where = self._place.path.rstrip("/") or "the root"
        return DataUnavailable(
            f"there are no files at {where} in {self._about.get('ref', self.commit)} of the repository "
            f"{self._place.repository}",
            mend="check the path with `lakectl fs ls`, and that the data are committed",
        )
