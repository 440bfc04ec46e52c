"""A tracker and a data source for Ledger."""

from pathlib import Path

from ledger import hookimpl

ledger_api = 1


@hookimpl
def open_mirrors(settings):
    """The mirror ``logbook``, in the directory that ``[plugin.logbook]`` of ledger.toml names."""
    from ledger_logbook.tracker import Tracker

    table = settings.plugin_settings.get("logbook", {})
    return [Tracker(Path(table.get("directory", "logbook")).absolute())]


@hookimpl
def open_data_source(uri, objects):
    """Answer to ``zip:`` URIs."""
    if not uri.startswith("zip:"):
        return None
    from ledger_logbook.archive import Archive

    return Archive(objects)
