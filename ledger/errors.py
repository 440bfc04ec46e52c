"""Every exception that Ledger raises, and the exit code of the command line for each.

::

    LedgerError                      4  cannot be done, and why
    ├── UsageError                   2  the request itself is wrong
    │   ├── InvalidRecipe
    │   └── InvalidSettings
    ├── NotFound                     3  no such run, checkpoint, object …
    │   ├── RunNotFound
    │   └── ObjectNotFound
    ├── Unavailable                  4  it exists, but cannot be had now
    │   ├── StoreUnavailable
    │   │   ├── SchemaMismatch
    │   │   └── StoreDamaged         1 from `ledger verify`, which was to find out
    │   ├── DataUnavailable
    │   ├── PluginUnavailable
    │   │   └── MirrorFailed
    │   └── CheckpointUnavailable
    ├── Conflict                     4  somebody else was first
    │   ├── ConcurrentAppend
    │   ├── FencedAttempt
    │   ├── CursorHeld
    │   └── JournalMoved
    ├── NotReplayable                4  decided before a device-hour is spent
    │   └── ReplayRefused
    ├── IntegrityError               1  checked and found wrong
    │   └── DigestMismatch
    └── CommandFailed                5  the recorded or replayed command failed

A message says what is wrong and why; ``mend`` says what the reader can do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHOWN: Final = 5


class LedgerError(Exception):
    """Something Ledger cannot do. ``str()`` says what and why, ``mend`` what to do about it."""

    exit_code: ClassVar[int] = 4

    def __init__(self, message: str, *, mend: str | None = None) -> None:
        super().__init__(message)
        self.mend = mend


class UsageError(LedgerError):
    """The request is malformed: an argument, a setting, a URI."""

    exit_code = 2


class InvalidRecipe(UsageError):
    """A recipe that is missing, malformed, or has a key or value that the trainer does not take."""


class InvalidSettings(UsageError):
    """ledger.toml or a LEDGER_… variable cannot be read."""


class NotFound(LedgerError):
    """What was named does not exist in this ledger."""

    exit_code = 3


class RunNotFound(NotFound):
    """No run answers to that name, UUID or prefix, or more than one does."""


class ObjectNotFound(NotFound):
    """No object with that digest is stored beside this ledger."""


class Unavailable(LedgerError):
    """It exists, but cannot be had now."""


class StoreUnavailable(Unavailable):
    """The log cannot be opened, read or written."""


class SchemaMismatch(StoreUnavailable):
    """The log has the schema of an older or a newer version of Ledger than this one."""


class StoreDamaged(StoreUnavailable):
    """The database finds that its own files are damaged."""


class DataUnavailable(Unavailable):
    """Data cannot be read, is gone, or is no longer what was pinned."""


class PluginUnavailable(Unavailable):
    """A plugin that is needed is not installed, or is broken."""


class MirrorFailed(PluginUnavailable):
    """A mirror's code failed at one run; with another run it may not."""


class CheckpointUnavailable(Unavailable):
    """No whole checkpoint can be had."""


class Conflict(LedgerError):
    """Another process was first."""


class ConcurrentAppend(Conflict):
    """The stream is not at the version that the writer expected."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(
            f"stream {stream} is at version {actual}, not at {expected}: another process has appended to it",
            mend="read the stream again, then decide anew",
        )
        self.stream = stream
        self.expected = expected
        self.actual = actual


class FencedAttempt(Conflict):
    """The run has been resumed elsewhere; this older attempt may not append any more."""

    def __init__(self, stream: str, attempt: int, current: int) -> None:
        super().__init__(
            f"attempt {attempt} of {stream} may not append: attempt {current} has taken over",
            mend="stop this process; `ledger show` tells where the newer attempt runs",
        )
        self.stream = stream
        self.attempt = attempt
        self.current = current


class CursorHeld(Conflict):
    """Another process delivers this run to that tracker at this moment."""

    def __init__(self, stream: str, mirror: str, holder: str) -> None:
        super().__init__(
            f"{holder.partition(', started ')[0]} delivers {stream} to {mirror} at this moment",
            mend="let it finish, or stop it: what it was at is delivered by whoever comes next",
        )
        self.holder = holder


class JournalMoved(Conflict):
    """The log has taken over this part of the journal already, or a part before it is missing."""

    def __init__(self, journal: str, position: int) -> None:
        super().__init__(
            f"the log has journal {journal} up to byte {position} already",
            mend="go on from there",
        )
        self.journal = journal
        self.position = position


class NotReplayable(LedgerError):
    """The facts do not suffice to repeat a run; ``reasons`` names every one of them."""

    def __init__(self, run: str, reasons: tuple[str, ...]) -> None:
        super().__init__(f"{run} cannot be replayed: " + "; ".join(reasons))
        self.reasons = reasons


class ReplayRefused(NotReplayable):
    """A plugin's ``before_replay`` vetoed the replay."""

    def __init__(self, reason: str) -> None:
        LedgerError.__init__(self, reason)
        self.reasons = (reason,)


class IntegrityError(LedgerError):
    """Bytes are not what the log says that they are."""

    exit_code = 1


class DigestMismatch(IntegrityError):
    """Content does not have the digest it was stored or pinned under."""

    def __init__(self, what: str, expected: str, actual: str, *, mend: str | None = None) -> None:
        super().__init__(f"{what} has digest {actual[:12]}…, expected {expected[:12]}…", mend=mend)
        self.expected = expected
        self.actual = actual


class CommandFailed(LedgerError):
    """The recorded or replayed command ended with a failure of its own; its exit code is in the event."""

    exit_code = 5


def some(what: str, names: Sequence[str]) -> str:
    """``what`` and the first few of ``names``, and how many more there are: for a message that stays readable."""
    more = len(names) - _SHOWN
    return f"{what} {', '.join(names[:_SHOWN])}" + (f" and {more} more" if more > 0 else "")
