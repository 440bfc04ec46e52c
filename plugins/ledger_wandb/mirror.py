"""Runs as W&B's offline files, which ``wandb sync`` uploads, and on request uploaded by it at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger_wandb.client import ask_for_client
from ledger_wandb.limits import adapt
from ledger_wandb.records import Place

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ledger.codec import Recorded
    from ledger.hooks.pages import Adaptation, Page
    from ledger_wandb.records import Held


class OfflineMirror:
    """A directory with W&B's folders of each run. Implements ``Mirror``."""

    name = "wandb"

    def __init__(self, directory: Path, entity: str, project: str) -> None:
        self.target = str(directory)
        self._directory = directory
        self._entity = entity
        self._project = project
        self._held: dict[str, Held] = {}
        """Of the run that was delivered last, so that its file is read once and not for every delivery."""

    def deliver(self, batch: Sequence[Recorded]) -> None:
        """See ``Mirror.deliver``."""
        self._write(batch)

    def adapt(self, page: Page) -> tuple[Page, Sequence[Adaptation]]:
        """See ``Mirror.adapt``."""
        return adapt(page)

    def shows(self, run_id: str) -> Page | None:
        """See ``Mirror.shows``: read by ``wandb leet inspect``."""
        from ledger_wandb.file import find
        from ledger_wandb.shown import in_files

        files = find(self._directory, run_id)
        return in_files(files) if files else None

    def close(self) -> None:
        """Nothing is kept open."""

    def _write(self, batch: Sequence[Recorded]) -> tuple[list[Path], Held]:
        ask_for_client()
        from ledger_wandb.file import carry_on

        run = batch[0].stream.removeprefix("run-")
        place = Place(run, self._entity, self._project)
        last, self._held = self._held.get(run), {}
        files, held = carry_on(self._directory, place, batch, last)
        self._held[run] = held
        return files, held


class OnlineMirror(OfflineMirror):
    """A W&B server, which ``wandb sync`` gives each delivery. The files of what it has stay in the directory."""

    def __init__(self, directory: Path, entity: str, project: str, base_url: str) -> None:
        super().__init__(directory, entity, project)
        self.target = "/".join(filter(None, (base_url.rstrip("/"), entity, project)))
        self._base_url = base_url

    def deliver(self, batch: Sequence[Recorded]) -> None:
        """See ``Mirror.deliver``."""
        from ledger_wandb.upload import upload

        files, held = self._write(batch)
        place = Place(held.run.run_id, self._entity, self._project or held.project)
        upload(files, held.mark["first"], self._base_url, place)

    def shows(self, run_id: str) -> Page | None:
        """See ``Mirror.shows``: read by W&B's public API."""
        ask_for_client()
        from ledger_wandb.file import find, hold
        from ledger_wandb.shown import on_server

        files = find(self._directory, run_id)
        project = self._project or (hold(files).project if files else "")
        return on_server(self._base_url, Place(run_id, self._entity, project)) if project else None
