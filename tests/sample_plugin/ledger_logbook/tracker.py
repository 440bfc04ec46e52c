"""Each run a directory, each event a file that says what it adds to the run's page."""

import json
import os
from dataclasses import asdict

from ledger.errors import Unavailable
from ledger.files import appearing, sync_directory
from ledger.hooks.pages import Page, Point, page_of, whole_page


class Tracker:
    """Implements ``ledger.hooks.ports.Mirror``."""

    name = "logbook"

    def __init__(self, directory):
        self.target = str(directory)
        self._directory = directory

    def deliver(self, batch):
        """One file for each event, there whole or not at all: so one that comes again changes nothing."""
        place = self._directory / batch[0].stream.removeprefix("run-")
        for recorded in batch:
            dest = place / f"{recorded.position:09}.json"
            if not dest.exists():
                with appearing(dest) as new, new.open("w") as file:
                    json.dump(asdict(page_of(recorded)), file)
                    file.flush()
                    os.fsync(file.fileno())
        sync_directory(place)

    def adapt(self, page):
        """Everything is shown as it is: a file can hold it all."""
        return page, ()

    def shows(self, run_id):
        """The sum of what the files of the run say."""
        place = self._directory / run_id
        try:
            names = sorted(name for name in os.listdir(place) if name.endswith(".json"))
            return whole_page(as_page(json.loads((place / name).read_text())) for name in names)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(f"{place} cannot be read: {error.strerror}", mend="check that disk") from error

    def close(self):
        """Nothing is kept open."""


def as_page(told):
    """The page that was written as JSON."""
    points = tuple(Point(**point) for point in told["points"])
    return Page(told["config"], told["fields"], tuple(told["tags"]), points)
