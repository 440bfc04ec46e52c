"""What a user may call a run, and how a store looks for it."""

from __future__ import annotations

import re
from typing import Final

from ledger.store.base import run_stream

LATEST: Final = "latest"
_NAME: Final = re.compile(r"run-([1-9][0-9]{0,17})")
_PREFIX: Final = re.compile(r"[0-9a-f]{4}[0-9a-f-]{0,32}")
_STREAM: Final = re.compile(r"run-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def run_name(number: int) -> str:
    """The name of the ``number``-th run that this ledger named."""
    return f"run-{number}"


def as_number(reference: str) -> int | None:
    """42 for ``run-42``; None for anything that is not a run's name."""
    match = _NAME.fullmatch(reference)
    return int(match[1]) if match else None


def as_stream_prefix(reference: str) -> str | None:
    """What the streams begin with that a stream, a UUID or at least four characters of one may mean."""
    reference = reference.lower()
    if _STREAM.fullmatch(reference):
        return reference
    return run_stream(reference) if _PREFIX.fullmatch(reference) else None
