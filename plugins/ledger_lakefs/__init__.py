"""Data in lakeFS, pinned to an immutable commit. See ``ledger_lakefs.source``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.errors import InvalidSettings
from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger import ObjectStore, Settings
    from ledger.codec import Recorded
    from ledger.hooks.ports import DataSource


class LakefsPlugin:
    """The hooks; an object, because the settings that decide about tags come with the first URI that is opened."""

    def __init__(self) -> None:
        self._tags_runs = False

    @hookimpl
    def open_data_source(self, uri: str, settings: Settings, objects: ObjectStore) -> DataSource | None:
        """Answer to ``lakefs:`` URIs."""
        if not uri.lower().startswith("lakefs:"):
            return None
        self._tags_runs = _tags_runs(settings)
        from ledger_lakefs.source import LakefsSource

        return LakefsSource(objects, settings.scratch / "lakefs")

    @hookimpl
    def events_appended(self, recorded: Sequence[Recorded]) -> None:
        """Tag the commits that a run reads, where the settings ask for it."""
        if self._tags_runs and any(each.type == "data.committed" for each in recorded):
            from ledger_lakefs.tags import tag_commits

            tag_commits(recorded)


def _tags_runs(settings: Settings) -> bool:
    table = settings.plugin_settings.get("lakefs", {})
    for key, value in table.items():
        if key != "tag_runs" or not isinstance(value, bool):
            raise InvalidSettings(
                f"ledger.toml: plugin.lakefs.{key} = {value!r} is not understood",
                mend="the one setting of [plugin.lakefs] is tag_runs = true or false; "
                "endpoint and keys are taken from the environment or ~/.lakectl.yaml",
            )
    return bool(table.get("tag_runs", False))


plugin = LakefsPlugin()
