"""``ledger verify``: whether anything that was recorded has changed since."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.cli import render
from ledger.cli.options import command, run_argument
from ledger.errors import IntegrityError, NotFound, StoreDamaged, UsageError

if TYPE_CHECKING:
    from ledger.cli.session import Session
    from ledger.trust.notes import SignedHead, VerifierKey
    from ledger.trust.verify import Report


@command(
    "verify",
    example="ledger verify\nledger verify run-7\nledger verify --head head.txt --key seal.pub",
    json="what was checked and found",
)
@click.option("--head", "head_file", metavar="FILE", help="A head that `ledger seal` printed: the log must extend it.")
@click.option("--key", metavar="PUB", help="The public key that it must be signed by; otherwise your own.")
@run_argument(required=False, metavar="[RUN]")
def verify(session: Session, run: str | None, head_file: str | None, key: str | None) -> int:
    """Check that nothing recorded was altered.

    Recomputes the digest of every event, the order and completeness of the log, its seals, the digest of every object
    and checkpoint, and compares what lists and searches show with the log; of one RUN, it checks the events, objects
    and checkpoints. It names the first event that is not as it was recorded, or else all that is wrong besides. The log
    alone cannot show that its end was cut off, or that all of it was written anew: a head that was kept elsewhere can.
    """
    from ledger.cli.counter import Counter
    from ledger.cli.session import find_run
    from ledger.trust.verify import verify as check

    if key and not head_file:
        raise UsageError("--key is the key of a head, and no head is given", mend="give --head FILE, too")
    head = _read_head(head_file) if head_file else None
    public = _public_key(head, key) if head else None
    try:
        with session.reading() as book, Counter() as counter:
            run_id = find_run(book, run) if run else None
            report = check(book, run=run_id, head=head, key=public, processes=os.cpu_count() or 1, progress=counter)
    except StoreDamaged as error:
        # For other commands something that they need is out of reach; here it is the answer.
        raise IntegrityError(str(error), mend=error.mend) from error
    if session.json:
        render.json_line(_facts(report))
    else:
        _print(report, head)
    return 1 if report.problems else 0


def _read_head(file: str) -> SignedHead:
    from ledger.trust.notes import parse_head

    try:
        return parse_head(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {file}", mend="`ledger seal > head.txt` makes one") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no signed head", mend="give the file that `ledger seal` wrote") from error


def _public_key(head: SignedHead, given: str | None) -> VerifierKey | None:
    """The key that is given or, where it may have signed the head, the user's own."""
    from ledger.trust.keys import load_public, own_key_file, public_file

    if given:
        return load_public(given, head.head.origin)
    own = public_file(own_key_file(os.environ))
    key = load_public(str(own), head.head.origin) if own.exists() else None
    return key if key and any(s.key_id == key.id for s in head.signatures) else None


def _print(report: Report, head: SignedHead | None) -> None:
    for problem in report.problems:
        render.line(str(problem))
    for mend in dict.fromkeys(problem.mend for problem in report.problems if problem.mend):
        render.talk(f"mend: {mend}")
    render.line(render.DOT.join(_parts(report)))
    if report.extended and report.head_signed:
        render.line(f"the log extends the head of {report.extended.size} events, whose signature is good")
    elif report.extended:
        render.line(f"the log extends the head of {report.extended.size} events")
    if head and not report.head_signed:
        render.talk("the signature of the head was not checked: give the key that sealed it with --key")
    if report.seconds > 1:
        render.talk(f"{report.events_per_second:,.0f} events/s")


def _parts(report: Report) -> list[str]:
    problems = render.count(len(report.problems), "problem") if report.problems else "ok"
    parts = [problems, f"{render.count(report.events, 'event')} in {render.count(report.streams, 'stream')}"]
    if report.seals:
        parts.append(f"{render.count(report.seals, 'seal')}, the last over {render.count(report.sealed, 'event')}")
    if report.objects is not None:
        parts.append(render.count(report.objects, "object"))
    if report.checkpoints is not None:
        parts.append(render.count(report.checkpoints, "checkpoint"))
    return parts if report.objects is not None else [*parts, "objects and checkpoints were not looked at"]


def _facts(report: Report) -> dict[str, Any]:
    return {
        "ok": not report.problems,
        "problems": [{"kind": p.kind, "where": p.where, "why": p.why, "mend": p.mend} for p in report.problems],
        "events": report.events,
        "streams": report.streams,
        "root": report.root.hex() if report.root else None,
        "seals": report.seals,
        "sealed_events": report.sealed,
        "head_size": report.extended.size if report.extended else None,
        "head_signature_checked": report.head_signed,
        "consistency": [part.hex() for part in report.consistency],
        "objects": report.objects,
        "checkpoints": report.checkpoints,
        "seconds": report.seconds,
        "events_per_second": report.events_per_second,
    }
