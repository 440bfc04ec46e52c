"""One module for each measure: ``measure(bench) -> Table`` in this process, its legs in processes of their own."""

from __future__ import annotations

from typing import Final

NAMES: Final = {
    "log": "what a call costs the caller, points/s with finish, bytes per point",
    "kill": "points lost to SIGKILL, in a burst and at 1,000 calls/s",
    "series": "reading back one series",
    "runs": "listing and filtering 10,000 runs",
    "start": "cold start of the command line",
    "training": "overhead on a real training loop",
    "checkpoint": "what a checkpoint of 150 million parameters costs, beside torch.save, safetensors and DCP",
    "replay": "how long a replay trains, beside its original",
    "append": "events/s into the store, 1 and 8 writers, SQLite and PostgreSQL",
    "verify": "events/s of the check of the whole log",
}
"""Measure -> what it measures, in the order in which they run."""
