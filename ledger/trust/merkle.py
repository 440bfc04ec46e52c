"""The Merkle tree of RFC 9162 (Certificate Transparency), section 2.1, over SHA-256. Pure: bytes in, bytes out.

Our own rather than ``pymerkle``: that library is under the GPL, hashes each leaf on its way into a tree object of its
own, and so offers no function of leaf hashes that a verifier can run over a log in pieces. What is needed here is
short, and tested with the vectors that implementations of the RFC publish.

A proof is a list of subtree hashes. Which subtrees, ``inclusion_ranges`` and ``consistency_ranges`` tell without any
hash at hand, so that a log that does not fit into memory is proved by the same rules.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

HASH_BYTES: Final = 32


def leaf_hash(data: bytes) -> bytes:
    """Hash of one leaf: SHA-256(0x00 ‖ data)."""
    return sha256(b"\x00" + data).digest()


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """Hash of the tree over these leaf hashes (section 2.1.1); of no leaves, SHA-256 of nothing.

    The roots of complete subtrees of one size, all but the last of them full, may stand for their leaves.
    """
    level = leaf_hashes
    if not level:
        return sha256().digest()
    # Pair by pair, a lone last one going up as it is: the same tree that the RFC defines from the top.
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        above = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
        level = [*above, level[-1]] if len(level) % 2 else above
    return level[0]


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """Leaves ``[start, end)`` of each subtree in the inclusion proof of a leaf, from the leaf up (section 2.1.3.1)."""
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    ranges = []
    start, end = 0, size
    while end - start > 1:
        split = start + _split(end - start)
        if index < split:
            ranges.append((split, end))
            end = split
        else:
            ranges.append((start, split))
            start = split
    return ranges[::-1]


def consistency_ranges(first: int, size: int) -> list[tuple[int, int]]:
    """Leaves ``[start, end)`` of each subtree in the proof that the tree of ``size`` extends that of ``first`` leaves.

    Section 2.1.4.1; nothing has to be shown for an empty first tree, or for the same tree.
    """
    if not 0 <= first <= size:
        raise ValueError(f"a tree of {size} leaves does not extend one of {first}")
    ranges = []
    start, end = 0, size
    while first and first != end:
        split = start + _split(end - start)
        if first <= split:
            ranges.append((split, end))
            end = split
        else:
            ranges.append((start, split))
            start = split
    # Where the way down never turned right, what is left is the first tree, whose root the verifier has.
    return ([(start, end)] if start else []) + ranges[::-1]


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int) -> list[bytes]:
    """Proof that the leaf at ``index``, from 0, is in the tree. Raises ``ValueError`` where there is none."""
    return [root(leaf_hashes[start:end]) for start, end in inclusion_ranges(index, len(leaf_hashes))]


def consistency_proof(leaf_hashes: Sequence[bytes], first: int) -> list[bytes]:
    """Proof that the tree of the ``first`` leaves was extended by the others. Raises ``ValueError``."""
    return [root(leaf_hashes[start:end]) for start, end in consistency_ranges(first, len(leaf_hashes))]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root_hash: bytes) -> bool:
    """Whether ``proof`` shows that the leaf with this hash is at ``index`` of the tree (section 2.1.3.2)."""
    if not 0 <= index < size or any(len(part) != HASH_BYTES for part in (leaf, *proof)):
        return False
    place, last, found = index, size - 1, leaf
    for part in proof:
        if last == 0:
            return False
        if place % 2 or place == last:
            found = _node(part, found)
            while place and not place % 2:
                place, last = place >> 1, last >> 1
        else:
            found = _node(found, part)
        place, last = place >> 1, last >> 1
    return last == 0 and found == root_hash


def verify_consistency(first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes) -> bool:
    """Whether ``proof`` shows that the second tree, of ``second`` leaves, begins with the first (section 2.1.4.2).

    The RFC leaves out an empty first tree and two trees of one size: these need an empty proof and the right roots.
    """
    if not 0 <= first <= second or any(len(part) != HASH_BYTES for part in (first_root, second_root, *proof)):
        return False
    if first == 0:
        return not proof and first_root == root(())
    if first == second:
        return not proof and first_root == second_root
    if not proof:
        return False
    # A first tree that is a whole subtree of the second is not repeated in the proof.
    path = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    place, last = first - 1, second - 1
    while place % 2:
        place, last = place >> 1, last >> 1
    one = two = path[0]
    for part in path[1:]:
        if last == 0:
            return False
        if place % 2 or place == last:
            one, two = _node(part, one), _node(part, two)
            while place and not place % 2:
                place, last = place >> 1, last >> 1
        else:
            two = _node(two, part)
        place, last = place >> 1, last >> 1
    return last == 0 and one == first_root and two == second_root


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _split(size: int) -> int:
    """The largest power of two below ``size``, at least 2: how many leaves go to the left."""
    return 1 << (size - 1).bit_length() - 1
