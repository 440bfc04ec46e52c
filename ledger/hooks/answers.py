"""What a plugin's answer to a hook must be: each of these gives the answer back, or raises ``TypeError``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ledger.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable


def ignored(_: Any) -> None:
    """Whatever it is."""


def optional(proper: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What is ``proper``, or None."""
    return lambda answer: None if answer is None else proper(answer)


def a(port: type) -> Callable[[Any], Any]:
    """Something with all that ``port`` has."""

    def proper(answer: Any) -> Any:
        if not isinstance(answer, port):
            raise TypeError(f"it answered with {type(answer).__name__}, which is no {port.__name__}")
        return answer

    return proper


def list_of(kind: type) -> Callable[[Any], list[Any]]:
    """Any number of these; nothing at all is none."""
    return lambda answer: [a(kind)(each) for each in answer or ()]


def table(answer: Any) -> dict[str, Any]:
    """Values by name; nothing at all is none."""
    return dict(a(Mapping)({} if answer is None else answer))


def words(answer: Any) -> list[str]:
    """An argument vector."""
    if isinstance(answer, str):
        raise TypeError("it answered with one text, not with a list of words")
    if not (found := [a(str)(word) for word in answer]):
        raise TypeError("it answered with no words at all")
    return found


def event_types(answer: Any) -> list[type[Event]]:
    """Classes of events; nothing at all is none."""
    types = list(answer or ())
    if strange := [each for each in types if not (isinstance(each, type) and issubclass(each, Event))]:
        raise TypeError(f"it answered with {strange[0]!r}, which is no type of event")
    return types
