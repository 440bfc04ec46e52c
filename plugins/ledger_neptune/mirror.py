"""Runs in the folder of Neptune's offline runs, and on request on a server."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from ledger.errors import PluginUnavailable
from ledger_neptune.limits import adapt, adapt_for_server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ledger.codec import Recorded
    from ledger.hooks.pages import Adaptation, Page
    from ledger_neptune.operations import Held
    from ledger_neptune.place import Place
    from ledger_neptune.server import Server
    from ledger_neptune.upload import There


class OfflineMirror:
    """A directory with Neptune's folder of each run. Implements ``Mirror``."""

    name = "neptune"

    def __init__(self, directory: Path) -> None:
        self.target = str(directory)
        self._directory = directory
        self._held: dict[str, Held] = {}
        """Of the run that was delivered last, so that its queue is read once and not for every delivery."""

    def deliver(self, batch: Sequence[Recorded]) -> None:
        """See ``Mirror.deliver``."""
        self._write(batch)

    def adapt(self, page: Page) -> tuple[Page, Sequence[Adaptation]]:
        """See ``Mirror.adapt``."""
        return adapt(page)

    def shows(self, run_id: str) -> Page | None:
        """See ``Mirror.shows``: read by the queue that ``neptune sync`` reads."""
        _ask_for_client()
        from ledger_neptune.operations import page_in
        from ledger_neptune.queue import folder_of_run, hold, operations

        folder = folder_of_run(self._directory, run_id)
        return page_in(operations(folder)) if hold(folder).end else None

    def close(self) -> None:
        """Nothing is kept open."""

    def _write(self, batch: Sequence[Recorded]) -> tuple[Path, Held]:
        """Bring the batch to the queue; where that is, and what it holds then."""
        _ask_for_client()
        from ledger_neptune.queue import carry_on, folder_of_run, hold

        run = batch[0].stream.removeprefix("run-")
        folder = folder_of_run(self._directory, run)
        held, self._held = self._held.get(run), {}
        if held is None or not folder.exists():
            held = hold(folder)
        carry_on(folder, run, batch, held)
        self._held[run] = held
        return folder, held


class OnlineMirror(OfflineMirror):
    """A project on a Neptune server, which is sent what the queues in the directory have and it lacks."""

    def __init__(self, directory: Path, place: Place) -> None:
        super().__init__(directory)
        self.target = f"{place.endpoint}/{place.project}"
        self._place = place
        self._server: Server | None = None
        self._there: dict[str, There] = {}
        """What the server has of the run that was delivered last."""

    def deliver(self, batch: Sequence[Recorded]) -> None:
        """See ``Mirror.deliver``."""
        folder, held = self._write(batch)
        from ledger_neptune.upload import bring, look

        run = batch[0].stream.removeprefix("run-")
        # Both are taken out, and put back if all goes well: else the server is asked again.
        server, self._server = self._connected(), None
        there, self._there = self._there.get(run), {}
        if there is None or there.offset > held.end:
            there = look(server, run, held.mark["first"])
        bring(server, there, folder)
        self._server, self._there = server, {run: there}

    def adapt(self, page: Page) -> tuple[Page, Sequence[Adaptation]]:
        """See ``Mirror.adapt``."""
        return adapt_for_server(page)

    def shows(self, run_id: str) -> Page | None:
        """See ``Mirror.shows``: read by Neptune's client."""
        _ask_for_client()
        from ledger_neptune.operations import page_in
        from ledger_neptune.upload import operations_on

        server, self._server = self._connected(), None
        found = operations_on(server, run_id)
        self._server = server
        return None if found is None else page_in(found)

    def close(self) -> None:
        """Nothing waits: a batch that was delivered is there."""
        self._server, self._there = None, {}

    def _connected(self) -> Server:
        from ledger_neptune.server import Server

        return self._server or Server(self._place)


def _ask_for_client() -> None:
    if importlib.util.find_spec("neptune") is None:
        raise PluginUnavailable("the neptune client is not installed", mend="pip install 'training-ledger[neptune]'")
