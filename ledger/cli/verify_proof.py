"""``ledger verify-proof``: check what somebody else proves, without their ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import click

from ledger.cli import render
from ledger.cli.options import command

if TYPE_CHECKING:
    from ledger.cli.session import Session


@command("verify-proof", example="ledger verify-proof proof.json --key seal.pub", json="what was proved")
@click.argument("proof", type=click.File("rb"), metavar="PROOF")
@click.option("--key", required=True, metavar="PUB", help="Public key in PEM, or a verifier key name+id+base64.")
def verify_proof(session: Session, proof: BinaryIO, key: str) -> None:
    """Check a proof, without the ledger.

    Opens no ledger: PROOF, the output of `ledger prove`, and the public key of whoever sealed the log are all that
    it takes. Exit code 1 means that the proof does not hold.
    """
    from ledger.trust.keys import load_public
    from ledger.trust.proof import check, parse_proof

    read = parse_proof(proof.read())
    public = load_public(key, read.head.head.origin)
    proved = check(read, public)
    first, last = proved.events[0], proved.events[-1]
    if session.json:
        facts = {"origin": proved.origin, "size": proved.size, "key": str(public), "stream": proved.stream}
        render.json_line(
            facts | {"whole": proved.whole, "global_position": proved.global_position, "events": proved.events}
        )
        return
    render.line(f"proved: {render.count(len(proved.events), 'event')} of {proved.stream}")
    render.fields(
        [
            ("from", f"{first['type']}, position {first['position']}, recorded {first['recorded_at']}"),
            ("to", f"{last['type']}, position {last['position']}, recorded {last['recorded_at']}"),
            ("place", f"event {proved.global_position} of {proved.size} that were sealed"),
            ("log", proved.origin),
            ("key", str(public)),
        ]
    )
