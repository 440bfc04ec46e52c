"""How far the log is in each writer's journal, kept so that a change of it is seen.

A wrong place would lose facts, or record them twice. Nothing else in the log tells where it should be, so each place
carries a digest of its own. It guards against damage, not against somebody who computes it again.
"""

from __future__ import annotations

from typing import Any, Final

from ledger.codec import canonical_digest
from ledger.errors import IntegrityError

MEND: Final = "put back a copy of the database from before that"


def place_digest(journal: str, position: int) -> str:
    """SHA-256 over the canonical JSON of both, in hexadecimal."""
    return canonical_digest({"journal": journal, "position": position})


def intact(journal: Any, position: Any, digest: Any) -> bool:
    """Whether a row, whose values may be of any type, is as it was written."""
    try:
        return bool(digest == place_digest(journal, position))
    except (TypeError, ValueError):  # bytes, or text that is no Unicode
        return False


def checked_place(journal: str, position: Any, digest: Any) -> int:
    """The position in a row. Raises ``IntegrityError`` where it is not what was written."""
    if not intact(journal, position, digest):
        raise IntegrityError(
            f"how far the log is in journal {journal} cannot be told: its row in journal_position was changed",
            mend=MEND,
        )
    return int(position)
