"""``ledger seal``: sign the log as it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ledger.cli import render
from ledger.cli.options import command

if TYPE_CHECKING:
    from ledger.cli.session import Session
    from ledger.trust.keys import SigningKey


@command("seal", example="ledger seal > head.txt\nledger seal --key team.pem", json="the signed head")
@click.option("--key", "key_file", type=click.Path(path_type=Path), metavar="FILE", help="Ed25519 private key in PEM.")
def seal(session: Session, key_file: Path | None) -> None:
    """Sign the log as it is; print the signed head.

    Keep what it prints where nobody who can write to the ledger can change it: `ledger verify --head` then shows
    whether the log still holds, unchanged, all that it held today. Without --key the key is your own, made on first
    use in ~/.config/ledger/seal.key, with its public key in seal.pub beside it.
    """
    from ledger.cli.counter import Counter
    from ledger.trust.notes import VerifierKey
    from ledger.trust.seal import seal as sign

    key = _key(key_file)
    with session.reading() as book, Counter() as counter:
        signed = sign(book, key, processes=os.cpu_count() or 1, progress=counter.events)
    public = VerifierKey(signed.head.origin, key.public)
    if session.json:
        head = signed.head
        facts = {"origin": head.origin, "size": head.size, "root": head.root.hex(), "key": str(public)}
        render.json_line(facts | {"head": str(signed)})
    else:
        render.exactly(str(signed).encode())
    render.talk(f"sealed {render.count(signed.head.size, 'event')}; keep this head elsewhere")
    render.talk(f"checked with the key {public}")


def _key(file: Path | None) -> SigningKey:
    """The key in ``file``, or the user's own, made if there is none yet."""
    from ledger.trust.keys import load_key, make_key, own_key_file, public_file

    if file:
        return load_key(file)
    own = own_key_file(os.environ)
    try:
        key = make_key(own)
    except FileExistsError:
        return load_key(own)
    render.talk(f"made a new key, yours alone: {own}")
    render.talk(f"give its public key to those who check: {public_file(own)}")
    return key
