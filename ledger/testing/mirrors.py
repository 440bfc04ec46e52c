"""Conformance of a ``Mirror``::

class TestMyMirror(BaseMirrorTests):
    @pytest.fixture
    def open_mirror(self, tmp_path):
        return functools.partial(MyMirror, tmp_path)

    @pytest.fixture
    def unreachable(self): ...

    @pytest.fixture
    def occupy(self): ...

Every test delivers made-up runs of its own (``EVENTFUL`` has all that a run can have) and asks a new mirror what the
tracker shows. It needs ``hypothesis``.
"""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.codec import new_id
from ledger.errors import Conflict, Unavailable
from ledger.hooks.differences import differences
from ledger.hooks.pages import Page, Point, added, page_of, whole_page
from ledger.hooks.ports import Mirror
from ledger.testing.builders import stream
from ledger.testing.eventful import EVENTFUL, STORIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from multiprocessing.connection import Connection

    from ledger.codec import Recorded
    from ledger.hooks.differences import Difference

_PATIENCE_S: Final = 120.0
_SPAWN: Final = multiprocessing.get_context("spawn")
"""Forked, a process would have half of a client's threads."""


class BaseMirrorTests:
    """What every mirror promises. Override the fixtures and, where it applies, the capabilities."""

    @pytest.fixture
    def open_mirror(self) -> Callable[[], Mirror]:
        """Opens a mirror as a fresh process would, each time to the same tracker.

        It must pickle (a ``functools.partial`` of the mirror's class does): other processes call it, too.
        """
        raise NotImplementedError

    @pytest.fixture
    def unreachable(self) -> Callable[[], AbstractContextManager[None]]:
        """Makes a context in which the tracker is there, but cannot be reached."""
        raise NotImplementedError

    @pytest.fixture
    def occupy(self) -> Callable[[str], None]:
        """Gives the tracker, by its own means, a run that is not Ledger's where the run of this UUID would go."""
        raise NotImplementedError

    @property
    def can_be_unreachable(self) -> bool:
        """Capability: the tracker can be away for a while."""
        return True

    @property
    def can_be_occupied(self) -> bool:
        """Capability: somebody else can have a run where one of Ledger's would go."""
        return True

    @property
    def client(self) -> str:
        """Module of the tracker's client, which takes long to import; empty without one."""
        return ""

    @property
    def secrets(self) -> Sequence[str]:
        """Credentials that the mirror was opened with, which it must keep to itself."""
        return ()

    @property
    def kills(self) -> int:
        """How often a process that delivers a run is killed on the way."""
        return 4

    # --- what it is -------------------------------------------------------------------------------------------

    def test_is_a_mirror(self, open_mirror: Callable[[], Mirror]) -> None:
        with closing(open_mirror()) as mirror, closing(open_mirror()) as again:
            assert isinstance(mirror, Mirror)
            assert mirror.name
            assert mirror.target
            assert (again.name, again.target) == (mirror.name, mirror.target)

    def test_keeps_credentials_out_of_its_target(self, open_mirror: Callable[[], Mirror]) -> None:
        with closing(open_mirror()) as mirror:
            assert not [secret for secret in self.secrets if secret in mirror.target]

    def test_opening_imports_no_client(self, open_mirror: Callable[[], Mirror]) -> None:
        if not self.client:
            pytest.skip("this mirror needs no client")
        assert self.client not in _asked(_modules_of, open_mirror)

    # --- what it adapts ---------------------------------------------------------------------------------------

    def test_adapting_is_pure(self, open_mirror: Callable[[], Mirror]) -> None:
        with closing(open_mirror()) as mirror:

            @_many
            @given(pages())
            def check(page: Page) -> None:
                before = repr(page)
                first, second = mirror.adapt(page), mirror.adapt(page)
                assert repr(page) == before
                assert repr(first) == repr(second)

            check()

    def test_what_is_adapted_in_parts_is_what_is_adapted_whole(self, open_mirror: Callable[[], Mirror]) -> None:
        with closing(open_mirror()) as mirror:

            @_many
            @given(pages(), pages())
            def check(page: Page, more: Page) -> None:
                whole = mirror.adapt(added(page, more))[0]
                parts = added(mirror.adapt(page)[0], mirror.adapt(more)[0])
                assert differences(whole, parts) == []

            check()

    def test_adapting_keeps_apart_what_is_apart_and_tells_of_every_change(
        self, open_mirror: Callable[[], Mirror]
    ) -> None:
        with closing(open_mirror()) as mirror:

            @_many
            @given(pages())
            def check(page: Page) -> None:
                adapted, told = mirror.adapt(page)
                assert len(adapted.config) >= len(page.config)
                assert len(adapted.fields) >= len(page.fields)
                assert len(adapted.points) >= len(page.points)
                assert len(set(adapted.tags)) >= len(page.tags)
                assert len({p.metric for p in adapted.points}) >= len({p.metric for p in page.points})
                assert bool(told) >= bool(differences(page, adapted))
                assert all(one.what and one.rule for one in told)

            check()

    # --- what the tracker shows -------------------------------------------------------------------------------

    @pytest.mark.parametrize("story", STORIES)
    def test_the_tracker_shows_the_run(self, open_mirror: Callable[[], Mirror], story: str) -> None:
        run = new_id()
        events = stream(STORIES[story], run_id=run)
        _deliver(open_mirror, events)
        assert _wrong(open_mirror, events) == []

    def test_a_run_that_was_never_delivered_is_not_there(self, open_mirror: Callable[[], Mirror]) -> None:
        _deliver(open_mirror, _eventful(new_id()))
        with closing(open_mirror()) as mirror:
            assert mirror.shows(new_id()) is None

    def test_two_runs_do_not_mix(self, open_mirror: Callable[[], Mirror]) -> None:
        one, other = (_eventful(new_id()) for _ in range(2))
        with closing(open_mirror()) as mirror:
            first, rest = _cut(one, 2)
            mirror.deliver(first)
            mirror.deliver(other)
            mirror.deliver(rest)
        assert _wrong(open_mirror, one) == []
        assert _wrong(open_mirror, other) == []

    # --- exactly once -----------------------------------------------------------------------------------------

    def test_delivered_twice_it_is_shown_once(self, open_mirror: Callable[[], Mirror]) -> None:
        events = _eventful(new_id())
        _deliver(open_mirror, events)
        _deliver(open_mirror, events)
        assert _wrong(open_mirror, events) == []

    def test_an_older_part_that_comes_again_changes_nothing(self, open_mirror: Callable[[], Mirror]) -> None:
        events = _eventful(new_id())
        _deliver(open_mirror, events)
        _deliver(open_mirror, events[: len(events) // 2])
        assert _wrong(open_mirror, events) == []

    def test_batches_may_overlap(self, open_mirror: Callable[[], Mirror]) -> None:
        events = _eventful(new_id())
        third = len(events) // 3
        _deliver(open_mirror, events[: 2 * third], events[third:], events[2 * third :])
        assert _wrong(open_mirror, events) == []

    def test_each_batch_may_come_from_a_new_mirror(self, open_mirror: Callable[[], Mirror]) -> None:
        events = _eventful(new_id())
        for batch in _cut(events, 5):
            _deliver(open_mirror, batch)
        assert _wrong(open_mirror, events) == []

    def test_killed_on_the_way_and_restarted_it_is_shown_once(self, open_mirror: Callable[[], Mirror]) -> None:
        _deliver(open_mirror, _eventful(new_id()))  # what is done once in a tracker's life is done
        run, chance = new_id(), random.Random(0)
        batches = _cut(_eventful(run), 2 * self.kills)
        begun = 0
        for _ in range(self.kills):
            begun = _killed(open_mirror, run, len(batches), begun, chance)
        _deliver(open_mirror, *batches[begun:])
        assert _wrong(open_mirror, _eventful(run)) == []

    # --- what can go wrong ------------------------------------------------------------------------------------

    def test_nothing_is_lost_while_the_tracker_is_away(
        self, open_mirror: Callable[[], Mirror], request: pytest.FixtureRequest
    ) -> None:
        if not self.can_be_unreachable:
            pytest.skip("this tracker cannot be away")
        unreachable = request.getfixturevalue("unreachable")
        before, meanwhile = _cut(_eventful(new_id()), 2)
        _deliver(open_mirror, before)
        with unreachable(), pytest.raises(Unavailable) as told:
            _deliver(open_mirror, meanwhile)
        _has_a_mend(told.value, self.secrets)
        _deliver(open_mirror, meanwhile)
        assert _wrong(open_mirror, [*before, *meanwhile]) == []

    def test_a_tracker_that_is_away_shows_nothing(
        self, open_mirror: Callable[[], Mirror], request: pytest.FixtureRequest
    ) -> None:
        if not self.can_be_unreachable:
            pytest.skip("this tracker cannot be away")
        unreachable = request.getfixturevalue("unreachable")
        events = _eventful(new_id())
        _deliver(open_mirror, events)
        with unreachable(), pytest.raises(Unavailable) as told:
            _wrong(open_mirror, events)
        _has_a_mend(told.value, self.secrets)

    def test_another_run_in_its_place_is_left_alone(
        self, open_mirror: Callable[[], Mirror], request: pytest.FixtureRequest
    ) -> None:
        if not self.can_be_occupied:
            pytest.skip("nobody else can have a run there")
        run = new_id()
        request.getfixturevalue("occupy")(run)
        with pytest.raises(Conflict) as told:
            _deliver(open_mirror, _eventful(run))
        _has_a_mend(told.value, self.secrets)


def expected_page(mirror: Mirror, events: Sequence[Recorded]) -> Page:
    """What the tracker is to show of a run with these events, by the mirror's own rules."""
    return mirror.adapt(whole_page(map(page_of, events)))[0]


def _eventful(run: str) -> list[Recorded]:
    return stream(EVENTFUL, run_id=run)


def _deliver(open_mirror: Callable[[], Mirror], *batches: Sequence[Recorded]) -> None:
    with closing(open_mirror()) as mirror:
        for batch in batches:
            mirror.deliver(batch)


def _wrong(open_mirror: Callable[[], Mirror], events: Sequence[Recorded]) -> list[Difference]:
    """What the tracker shows otherwise than a run with these events."""
    with closing(open_mirror()) as mirror:
        shown = mirror.shows(events[0].stream.removeprefix("run-"))
        assert shown is not None, "the tracker has no such run"
        return differences(expected_page(mirror, events), shown)


def _cut(events: Sequence[Recorded], parts: int) -> list[Sequence[Recorded]]:
    """The events in so many batches of about one size."""
    ends = [len(events) * n // parts for n in range(parts + 1)]
    return [events[start:end] for start, end in pairwise(ends)]


def _has_a_mend(error: Conflict | Unavailable, secrets: Sequence[str]) -> None:
    assert error.mend
    assert not [secret for secret in secrets if secret in f"{error} {error.mend}"]


# --- other processes -------------------------------------------------------------------------------------------


def _killed(open_mirror: Callable[[], Mirror], run: str, parts: int, start: int, chance: random.Random) -> int:
    """Deliver from batch ``start`` in a process that is killed during the batch after it; that batch."""
    ours, theirs = _SPAWN.Pipe(duplex=False)
    child = _SPAWN.Process(target=_deliver_parts, args=(open_mirror, run, parts, start, theirs))
    child.start()
    theirs.close()
    begun, began, took = start, 0.0, 0.0
    for _ in range(2):
        assert ours.poll(_PATIENCE_S), "the process that delivers says nothing"
        begun, took, began = ours.recv(), time.monotonic() - began, time.monotonic()
    time.sleep(chance.uniform(0, took))
    child.kill()
    child.join()
    ours.close()
    assert child.exitcode in (-signal.SIGKILL, 0), "the process that delivers failed: see its output"
    return begun


def _deliver_parts(open_mirror: Callable[[], Mirror], run: str, parts: int, start: int, connection: Connection) -> None:
    with closing(open_mirror()) as mirror:
        for number, batch in enumerate(_cut(_eventful(run), parts)[start:], start):
            connection.send(number)
            mirror.deliver(batch)


def _asked(function: Callable[[Callable[[], Mirror], Connection], None], open_mirror: Callable[[], Mirror]) -> Any:
    """What ``function`` sends from a process of its own."""
    ours, theirs = _SPAWN.Pipe(duplex=False)
    child = _SPAWN.Process(target=function, args=(open_mirror, theirs))
    child.start()
    theirs.close()
    try:
        assert ours.poll(_PATIENCE_S), "no answer"
        return ours.recv()
    finally:
        child.join()


def _modules_of(open_mirror: Callable[[], Mirror], connection: Connection) -> None:
    import sys

    with closing(open_mirror()):
        connection.send(set(sys.modules))


# --- any page --------------------------------------------------------------------------------------------------


def _many(check: Callable[..., None]) -> Callable[..., None]:
    return settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))(check)


def pages() -> st.SearchStrategy[Page]:
    """Any page, with names that are close to each other and values of every kind."""
    names = st.text(max_size=20) | st.sampled_from(_ODD_NAMES)
    texts = st.text(max_size=30) | st.sampled_from(("x" * 400, "y" * 7000, "z" * 20_000, "\0", "a\nb"))
    numbers = st.integers(-(2**63), 2**63 - 1) | st.floats()
    scalars = texts | numbers | st.booleans()
    points = st.builds(
        Point,
        metric=names.filter(bool),
        step=st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False, width=32),
        time=st.floats(0, 4e9),
        value=st.floats(),
        attempt=st.integers(1, 9),
    )
    facts = st.dictionaries(names, scalars, max_size=5)
    return st.builds(
        Page,
        config=facts,
        fields=facts,
        tags=st.lists(texts, unique=True, max_size=4).map(tuple),
        points=st.lists(points, max_size=5).map(tuple),
    )


_ODD_NAMES: Final = (
    "a b", "a_b", "a/b", "a.b", "a%b", "a%20b", "a@b", "a:b", "/a", "a/", "a//b", "../a", "A", "a", "ä", "a\u0308",
    "\N{SNOWMAN}", "_x", "system/x", "_step", "x" * 251, "x" * 300, "x" * 301,
)  # fmt: skip
"""Names that are close to each other, and that one tracker or another does not take."""
