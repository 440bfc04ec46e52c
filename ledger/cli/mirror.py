"""``ledger mirror``: runs in another tracker."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli import render
from ledger.cli.options import command, run_argument
from ledger.errors import Conflict, CursorHeld, LedgerError, MirrorFailed, Unavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ledger.book import Book
    from ledger.cli.session import Session
    from ledger.hooks.pages import Adaptation
    from ledger.hooks.ports import Mirror
    from ledger.mirror.deliver import Delivery

_LAST_PATIENCE_S: Final = 600.0
"""Of who follows a run, with a tracker that is away when the run ends."""
_SHOWN: Final = 5
_DIFFERENT: Final = 1
_CANNOT: Final = 4


@command(
    "mirror",
    example="ledger mirror run-7 --to jsonl\nledger mirror run-7 --to mlflow --check\nledger mirror --all --to wandb",
    json="one run a line",
)
@run_argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--all", "everything", is_flag=True, help="All runs of this ledger.")
@click.option("--to", "name", metavar="NAME", help="Which mirror; left out, it says which there are.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is new until the run has ended.")
@click.option("--check", is_flag=True, help="Bring nothing; read the runs back and print what is not as in the log.")
@click.option("--again", is_flag=True, help="Bring all of it anew, as the run was removed there, then check.")
def mirror(
    session: Session,
    runs: tuple[str, ...],
    everything: bool,
    name: str | None,
    follow: bool,
    check: bool,
    again: bool,
) -> int:
    """Bring runs to another tracker, exactly once.

    What is new since the last time is delivered; what the tracker cannot hold as it is in the log is adapted by the
    rules of that mirror, and listed. A run that trains is not disturbed.

    Ends with 0, with 1 where --check or --again finds differences, with 4 where the tracker cannot be had: nothing is
    lost then, and the same command goes on later.
    """
    from ledger.cli.session import find_run

    if bool(runs) == everything:
        raise UsageError("which runs?", mend="name them, or say --all")
    if sum((follow, check, again)) > 1:
        raise UsageError("--follow, --check and --again exclude each other", mend="give one of them")
    if follow and len(runs) != 1:
        raise UsageError("--follow follows one run", mend="start one command for each run, or leave --follow out")
    with session.reading() as book:
        to = _mirror(book, name)
        chosen = list(book.names()) if everything else [find_run(book, run) for run in runs]
        errand = _Errand(session, book, to)
        try:
            if follow:
                return errand.follow(chosen[0])
            return errand.of_each(chosen, errand.check if check else errand.again if again else errand.bring)
        finally:
            to.close()


def _mirror(book: Book, name: str | None) -> Mirror:
    try:
        return book.plugins.mirror(name or "", book.settings)
    except UsageError as error:
        if name is None:
            raise UsageError("--to is missing: which mirror?", mend=error.mend) from error
        raise


class _Errand:
    """What one call of the command does, run by run; each method returns an exit code."""

    def __init__(self, session: Session, book: Book, mirror: Mirror) -> None:
        self._session = session
        self._book = book
        self._mirror = mirror
        self._names = book.names()
        self._adapted: set[Adaptation] = set()
        """What was told of a run before: thousands of runs are adapted alike."""

    def of_each(self, runs: Sequence[str], errand: Callable[[str], int]) -> int:
        """The worst of their exit codes. Where one run fails by itself, it is told, and the others are not left out."""
        if len(runs) == 1:
            return errand(runs[0])
        return max(map(partial(self._told_if_it_fails, errand), runs), default=0)

    def _told_if_it_fails(self, errand: Callable[[str], int], run: str) -> int:
        try:
            return errand(run)
        except LedgerError as error:
            if isinstance(error, Unavailable) and not isinstance(error, MirrorFailed):
                raise  # the tracker or the log is away: so it is for the others
            render.talk(f"{self._names[run]}: {error}; {error.mend}" if error.mend else f"{self._names[run]}: {error}")
            return _CANNOT

    def bring(self, run: str) -> int:
        """Deliver what is new."""
        from ledger.mirror.cursor import behind

        delivery = self._delivery(run)
        if behind(self._book, self._mirror, run):
            self._catch_up(run, delivery)
        self._delivered(run, delivery)
        return 0

    def again(self, run: str) -> int:
        """Deliver all of it, and say whether the tracker then shows it: what is there already stays as it is."""
        self._catch_up(run, self._delivery(run), again=True)
        return self.check(run)

    def follow(self, run: str) -> int:
        """Deliver until the run has ended."""
        delivery = self._delivery(run, patience_s=_LAST_PATIENCE_S)
        with self._told_how_far(run):
            delivery.follow()
        self._delivered(run, delivery)
        return 0

    def check(self, run: str) -> int:
        """Print the differences."""
        from ledger.mirror.check import check

        checked = check(self._book, self._mirror, run)
        name = self._names[run]
        if self._session.json:
            found = [asdict(each) for each in checked.differences]
            self._line(run, behind=checked.behind, differences=found, **_listed(checked.adaptations))
        else:
            count = render.count(len(checked.differences), "difference")
            render.line(f"{name}: {count if checked.differences else 'no difference'} in {self._mirror.name}")
            for each in checked.differences:
                render.line(f"  {each.what}: expected {each.expected}, shown {each.shown}")
            self._tell(checked.adaptations)
        if checked.behind:
            render.talk(
                f"{self._mirror.name} is {render.count(checked.behind, 'event')} behind {name}: "
                f"`ledger mirror {name} --to {self._mirror.name}` catches it up"
            )
        elif checked.differences:
            render.talk(
                f"remove {name} from {self._mirror.name}, unless it is gone; "
                f"then `ledger mirror {name} --to {self._mirror.name} --again` brings all of it anew"
            )
        return _DIFFERENT if checked.differences else 0

    def _delivery(self, run: str, **patience: float) -> Delivery:
        from ledger.mirror.deliver import Delivery

        return Delivery(self._book, self._mirror, run, told=_told_once(), **patience)

    def _catch_up(self, run: str, delivery: Delivery, *, again: bool = False) -> None:
        from ledger.cli.counter import Counter

        total = self._total(run)
        with self._told_how_far(run), Counter() as counter:
            delivery.catch_up(again=again, progress=lambda position: counter.events(position + 1, total))

    def _delivered(self, run: str, delivery: Delivery) -> None:
        events, adaptations = delivery.events, list(delivery.adaptations)
        if self._session.json:
            self._line(run, events=events, **_listed(adaptations))
            return
        name, to = self._names[run], f"{self._mirror.name} ({self._mirror.target})"
        render.line(
            f"{name}: {render.count(events, 'event')} brought to {to}" if events else f"{name}: nothing new for {to}"
        )
        self._tell(adaptations)

    def _tell(self, adaptations: Sequence[Adaptation]) -> None:
        """The first few that are new; --json has them all."""
        new = [each for each in adaptations if each not in self._adapted]
        self._adapted |= set(new)
        for each in new[:_SHOWN]:
            render.line(f"  adapted: {each.what}: {each.rule}")
        if len(new) > _SHOWN:
            render.line(f"  adapted: {len(new) - _SHOWN} more; --json lists them")

    def _line(self, run: str, **facts: Any) -> None:
        where = {"mirror": self._mirror.name, "target": self._mirror.target}
        render.json_line({"run": self._names[run], "id": run, **where, **facts})

    def _total(self, run: str) -> int:
        from ledger.store.base import run_stream

        version, _ = self._book.store.head(run_stream(run))
        return version + 1

    @contextmanager
    def _told_how_far(self, run: str) -> Iterator[None]:
        """Where the run cannot be brought now, how far the tracker is behind is told, too."""
        from ledger.mirror.cursor import behind

        try:
            yield
        except MirrorFailed:
            raise
        except (Unavailable, CursorHeld) as error:
            events = behind(self._book, self._mirror, run)
            name, to = self._names[run], self._mirror.name
            kind = Conflict if isinstance(error, CursorHeld) else Unavailable  # the latter concerns all runs
            raise kind(
                f"{error}; {to} is {render.count(events, 'event')} behind {name}, and nothing is lost",
                mend=f"{error.mend}; then `ledger mirror {name} --to {to}` goes on",
            ) from error


def _told_once() -> Callable[[str], None]:
    """Says what was not said just before: a tracker that is away for days fills no log."""
    last = ""

    def tell(text: str) -> None:
        nonlocal last
        if text != last:
            render.talk(text)
        last = text

    return tell


def _listed(adaptations: Sequence[Adaptation]) -> dict[str, Any]:
    return {"adaptations": [asdict(each) for each in adaptations]}
