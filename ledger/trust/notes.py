"""Signed notes and tree heads, as C2SP writes them: ``signed-note`` and ``tlog-checkpoint`` (https://c2sp.org).

A tree head names a log, its size and its root. Signed, it is a note of a few lines, which any program that knows
transparency logs can check::

    origin
    size in decimal
    root in base64

    — key name base64(key id ‖ signature)
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from ledger.errors import IntegrityError, UsageError
from ledger.trust.merkle import HASH_BYTES

_ED25519: Final = b"\x01"
"""signed-note's identifier of this signature type; others are passed over, as the specification asks."""
_KEY_BYTES: Final = 32
_DASH: Final = "— "
_MOST_SIGNATURES: Final = 100
_LARGEST: Final = 1 << 63


@dataclass(frozen=True)
class VerifierKey:
    """A public Ed25519 key with the name under which it signs notes."""

    name: str
    public: bytes
    """32 bytes, as RFC 8032 encodes them."""

    @property
    def id(self) -> bytes:
        """Four bytes that tell the key apart: SHA-256(name ‖ newline ‖ type ‖ key)."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_base64(_ED25519 + self.public)}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """The key that ``name+id+base64`` writes. Raises ``UsageError`` for anything else."""
        name, plus, rest = text.strip().partition("+")
        _, _, encoded = rest.partition("+")
        content = _bytes(encoded)
        key = cls(name, content[1:] if content else b"")
        if not plus or not _is_name(name) or content is None or not content.startswith(_ED25519):
            raise UsageError("this is no Ed25519 verifier key: it reads name+key id+base64", mend=_MEND)
        if len(key.public) != _KEY_BYTES or str(key) != text.strip():
            raise UsageError("this verifier key is damaged: its id is not that of the key", mend=_MEND)
        return key

    def verify(self, signature: bytes, text: bytes) -> bool:
        """Whether the key made this signature of ``text``."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class TreeHead:
    """A log at one size."""

    origin: str
    """Which log it is."""
    size: int
    root: bytes

    @property
    def text(self) -> bytes:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n".encode()


@dataclass(frozen=True)
class Signature:
    """One signature line of a note, whatever key made it."""

    name: str
    key_id: bytes
    content: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {_base64(self.key_id + self.content)}\n"


@dataclass(frozen=True)
class SignedHead:
    """A tree head and its signatures."""

    head: TreeHead
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return self.head.text.decode() + "\n" + "".join(str(signature) for signature in self.signatures)

    def signed_by(self, key: VerifierKey) -> bool:
        """Whether ``key`` signed it.

        Raises ``IntegrityError`` where a signature claims to be that key's and is not.
        """
        claimed = [s for s in self.signatures if (s.name, s.key_id) == (key.name, key.id)]
        if not all(key.verify(signature.content, self.head.text) for signature in claimed):
            raise IntegrityError(
                f"the signature of key {key.name}+{key.id.hex()} does not fit the head",
                mend="the head was altered, or never signed by that key: trust neither it nor where it came from",
            )
        return bool(claimed)


def parse_head(note: str) -> SignedHead:
    """The signed head in ``note``. Raises ``IntegrityError`` for what is none; signatures are not checked here."""
    body, blank, lines = note.rpartition("\n\n")
    parts = body.split("\n")
    signatures = [_signature(line) for line in lines.split("\n")[:-1]]
    if not blank or not lines.endswith("\n") or len(parts) != 3 or not 0 < len(signatures) <= _MOST_SIGNATURES:
        raise IntegrityError("this is no signed head: it has three lines, a blank one, and signature lines", mend=_KEPT)
    origin, size, encoded = parts
    root = _bytes(encoded)
    if not origin or not origin.isprintable() or root is None or len(root) != HASH_BYTES or not _is_size(size):
        raise IntegrityError("this is no signed head: origin, size or root cannot be read", mend=_KEPT)
    return SignedHead(TreeHead(origin, int(size), root), tuple(signatures))


_KEPT: Final = "give the text as `ledger seal` printed it, to its last newline"
_MEND: Final = "copy it whole, as `ledger seal` prints it"


def _signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    content = _bytes(encoded)
    if not line.startswith(_DASH) or not _is_name(name) or content is None or len(content) <= 4:
        raise IntegrityError("this is no signed head: a signature line cannot be read", mend=_KEPT)
    return Signature(name, content[:4], content[4:])


def _is_name(name: str) -> bool:
    return bool(name) and name.isprintable() and "+" not in name and len(name.split()) == 1 and name == name.strip()


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20 and str(int(text)) == text and int(text) < _LARGEST


def _base64(content: bytes) -> str:
    return b64encode(content).decode()


def _bytes(encoded: str) -> bytes | None:
    """What standard base64 encodes; None for any but the one right way to write it."""
    try:
        content = b64decode(encoded, validate=True)
    except (NotBase64, ValueError):
        return None
    return content if _base64(content) == encoded else None
