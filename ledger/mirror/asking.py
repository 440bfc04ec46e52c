"""Calls of a mirror's methods: what it prints and what it raises are laid at its door."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ledger.errors import LedgerError, MirrorFailed
from ledger.hooks.guard import contained
from ledger.hooks.ports import Noting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ledger.codec import Recorded
    from ledger.hooks.pages import Adaptation, Page
    from ledger.hooks.ports import Mirror

T = TypeVar("T")


def deliver(mirror: Mirror, batch: Sequence[Recorded]) -> None:
    """See ``Mirror.deliver``."""
    place = f"events {batch[0].position} to {batch[-1].position} of {batch[0].stream}"
    _ask(mirror, f"with {place}", partial(mirror.deliver, batch))


def adapt(mirror: Mirror, page: Page) -> tuple[Page, Sequence[Adaptation]]:
    """See ``Mirror.adapt``."""
    return _ask(mirror, "adapting a page", partial(mirror.adapt, page))


def shows(mirror: Mirror, run_id: str) -> Page | None:
    """See ``Mirror.shows``."""
    return _ask(mirror, f"reading back {run_id}", partial(mirror.shows, run_id))


def noted(mirror: Mirror, run_id: str) -> Sequence[Adaptation]:
    """See ``Noting.noted``; nothing of a mirror that notes nothing."""
    return _ask(mirror, f"reading back {run_id}", partial(mirror.noted, run_id)) if isinstance(mirror, Noting) else ()


def _ask(mirror: Mirror, doing: str, call: Callable[[], T]) -> T:
    name = f"mirror {mirror.name}"
    try:
        return contained(name, call)
    except LedgerError:
        raise
    except Exception as error:
        raise MirrorFailed(
            f"the {name} failed {doing}: {type(error).__name__}: {error}",
            mend="report it to the plugin's authors; what was delivered before stays, and nothing is lost",
        ) from error
