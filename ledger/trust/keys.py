"""Key files: Ed25519 in PEM, as ``openssl genpkey -algorithm ed25519`` writes it, and as Ledger makes them itself.

The private key lies with the user, never with the ledger: whoever can write to the log must not be able to sign it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from ledger.errors import NotFound, UsageError
from ledger.files import sync_directory
from ledger.trust.notes import Signature, SignedHead, TreeHead, VerifierKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_PUBLIC_SUFFIX: Final = ".pub"


class SigningKey:
    """A private key that signs tree heads, each under the name of its log."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public: bytes = private.public_key().public_bytes_raw()

    def sign(self, head: TreeHead) -> SignedHead:
        """The head, signed."""
        key = VerifierKey(head.origin, self.public)
        return SignedHead(head, (Signature(key.name, key.id, self._private.sign(head.text)),))


def own_key_file(environ: Mapping[str, str]) -> Path:
    """Where the user's own key lies unless another is named: ``ledger/seal.key`` in the XDG configuration directory."""
    home = environ.get("XDG_CONFIG_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path(environ.get("HOME") or Path.home()) / ".config"
    return base / "ledger" / "seal.key"


def public_file(private: Path) -> Path:
    """The file beside a private key with its public key."""
    return private.with_name(private.stem + _PUBLIC_SUFFIX)


def make_key(path: Path) -> SigningKey:
    """A new key in the new file ``path``, readable by its owner alone, and its public key beside it.

    Raises ``FileExistsError`` where there is a file already: no key is ever overwritten.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    private = Ed25519PrivateKey.generate()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as beside:
        ours, theirs = Path(beside, "private"), Path(beside, "public")
        _write_through(ours, content, 0o600)
        _write_through(theirs, public, 0o644)
        os.link(ours, path)  # whole from the first moment and, unlike a renamed file, never in another's place
        theirs.replace(public_file(path))
    sync_directory(path.parent)
    return SigningKey(private)


def load_key(path: Path) -> SigningKey:
    """The private key in a PEM file. Raises ``NotFound``, or ``UsageError`` for what is no such key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _read(path)
    try:
        private = load_pem_private_key(content, password=None)
    except TypeError as error:  # what cryptography raises for a password that is missing
        raise UsageError(
            f"the key in {path} is encrypted", mend=f"write it without: openssl pkey -in {path} -out NEW"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} holds no private key in PEM", mend=_MAKE) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise UsageError(f"the key in {path} is of another kind than Ed25519", mend=_MAKE)
    return SigningKey(private)


def load_public(given: str, name: str) -> VerifierKey:
    """The public key that ``given`` means: a file with one in PEM or as verifier key text, or such text itself.

    A key in PEM has no name and takes ``name``. Raises ``NotFound``, or ``UsageError`` for what is no such key.
    """
    path = Path(given)
    if given.count("+") >= 2 and not path.exists():
        return VerifierKey.parse(given)
    content = _read(path)
    if b"-----BEGIN" in content:
        return VerifierKey(name, _public_bytes(path, content))
    with suppress(UnicodeDecodeError):
        return VerifierKey.parse(content.decode())
    raise UsageError(f"{path} holds no public key", mend=_GIVE)


_MAKE: Final = "`openssl genpkey -algorithm ed25519 -out FILE` makes one; `ledger seal` without --key keeps one itself"
_GIVE: Final = "give the public key in PEM, or the verifier key that `ledger seal` told"


def _public_bytes(path: Path, content: bytes) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY-----" in content:
        raise UsageError(f"{path} holds a private key", mend="give its public key, and keep this one to yourself")
    try:
        public = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} holds no public key in PEM", mend=_GIVE) from error
    if not isinstance(public, Ed25519PublicKey):
        raise UsageError(f"the key in {path} is of another kind than Ed25519", mend=_GIVE)
    return public.public_bytes_raw()


def _write_through(path: Path, content: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"there is no key file {path}", mend=_MAKE) from error
    except OSError as error:
        raise UsageError(f"the key file {path} cannot be read: {error.strerror}") from error
