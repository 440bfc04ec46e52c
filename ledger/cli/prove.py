"""``ledger prove``: a proof that somebody else can check without the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.cli import render
from ledger.cli.options import command, run_argument

if TYPE_CHECKING:
    from ledger.book import Book
    from ledger.cli.counter import Counter
    from ledger.cli.session import Session
    from ledger.trust.proof import Proof


@command("prove", example="ledger prove run-7 > proof.json\nledger prove 41 > proof.json")
@run_argument("target", metavar="RUN|EVENT")
def prove(session: Session, target: str) -> None:
    """Prove a run or an event to somebody else.

    Prints a JSON object that `ledger verify-proof` checks with nothing but the public key that sealed the log. Of a
    RUN it proves all events so far; an EVENT is named by its id or its global position. The log must have been
    sealed since.
    """
    import orjson

    from ledger.cli.counter import Counter

    with session.reading() as book, Counter() as counter:
        proof = _prove(book, target, counter)
    render.exactly(orjson.dumps(proof.to_json(), option=orjson.OPT_INDENT_2) + b"\n")


def _prove(book: Book, target: str, counter: Counter) -> Proof:
    from ledger.cli.session import find_run
    from ledger.errors import NotFound, RunNotFound
    from ledger.store.base import run_stream
    from ledger.trust.proof import is_place, prove_event, prove_run

    if is_place(target):
        return prove_event(book, target, progress=counter.events)
    try:
        run = find_run(book, target)
    except RunNotFound:
        try:
            return prove_event(book, target, progress=counter.events)
        except NotFound as error:
            raise NotFound(
                f"this ledger has neither a run nor an event {target!r}",
                mend="`ledger ls` lists the runs, `ledger log RUN --json` the events with their ids",
            ) from error
    return prove_run(book, run_stream(run), progress=counter.events)
