"""Runs in the folder of Neptune's offline runs."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from ledger.errors import PluginUnavailable
from ledger_neptune.limits import adapt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ledger.codec import Recorded
    from ledger.hooks.pages import Adaptation, Page
    from ledger_neptune.operations import Held


class NeptuneMirror:
    """A directory with Neptune's folder of each run. Implements ``Mirror``."""

    name = "neptune"

    def __init__(self, directory: Path) -> None:
        self.target = str(directory)
        self._directory = directory
        self._held: dict[str, Held] = {}
        """Of the run that was delivered last, so that its queue is read once and not for every delivery."""

    def deliver(self, batch: Sequence[Recorded]) -> None:
        """See ``Mirror.deliver``."""
        _ask_for_client()
        from ledger_neptune.queue import carry_on, hold, place

        run = batch[0].stream.removeprefix("run-")
        folder = place(self._directory, run)
        held, self._held = self._held.get(run), {}
        if held is None or not folder.exists():
            held = hold(folder)
        carry_on(folder, run, batch, held)
        self._held[run] = held

    def adapt(self, page: Page) -> tuple[Page, Sequence[Adaptation]]:
        """See ``Mirror.adapt``."""
        return adapt(page)

    def shows(self, run_id: str) -> Page | None:
        """See ``Mirror.shows``: read by the queue that ``neptune sync`` reads."""
        _ask_for_client()
        from ledger_neptune.operations import page_in
        from ledger_neptune.queue import hold, operations, place

        folder = place(self._directory, run_id)
        return page_in(operations(folder)) if hold(folder).end else None

    def close(self) -> None:
        """Nothing is kept open."""


def _ask_for_client() -> None:
    if importlib.util.find_spec("neptune") is None:
        raise PluginUnavailable("the neptune client is not installed", mend="pip install 'training-ledger[neptune]'")
