"""The Merkle tree against published vectors, and against the definition of the RFC written down once more."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.trust import tree
from ledger.trust.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
    verify_consistency,
    verify_inclusion,
)
from ledger.trust.tree import LogTree

# The tree of the Certificate Transparency reference implementations: eight leaves, the root at each size, and proofs.
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {  # (index, size): proof
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCY = {  # (first, second): proof
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
    (6, 7): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}
HASHES = [leaf_hash(leaf) for leaf in LEAVES]


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size: int) -> None:
    assert root(HASHES[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_published_inclusion_proofs(index: int, size: int) -> None:
    proof = inclusion_proof(HASHES[:size], index)
    assert [part.hex() for part in proof] == INCLUSION[index, size]
    assert verify_inclusion(HASHES[index], index, size, proof, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("first", "second"), CONSISTENCY)
def test_published_consistency_proofs(first: int, second: int) -> None:
    proof = consistency_proof(HASHES[:second], first)
    assert [part.hex() for part in proof] == CONSISTENCY[first, second]
    roots = [bytes.fromhex(ROOTS[size]) for size in (first, second)]
    assert verify_consistency(first, second, proof, *roots)


# --- the definitions of sections 2.1.1, 2.1.3.1 and 2.1.4.1, word for word ----------------------------------------


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(d: list[bytes]) -> bytes:
    if not d:
        return sha256().digest()
    if len(d) == 1:
        return d[0]
    k = split(len(d))
    return sha256(b"\x01" + mth(d[:k]) + mth(d[k:])).digest()


def path(m: int, d: list[bytes]) -> list[bytes]:
    if len(d) == 1:
        return []
    k = split(len(d))
    return [*path(m, d[:k]), mth(d[k:])] if m < k else [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: list[bytes], b: bool) -> list[bytes]:
    if m == len(d):
        return [] if b else [mth(d)]
    k = split(len(d))
    return [*subproof(m, d[:k], b), mth(d[k:])] if m <= k else [*subproof(m - k, d[k:], False), mth(d[:k])]


sizes = st.integers(1, 300)


def hashes(size: int) -> list[bytes]:
    return [leaf_hash(n.to_bytes(4, "big")) for n in range(size)]


@given(sizes, st.data())
def test_proofs_are_those_of_the_definition(size: int, data: st.DataObject) -> None:
    d = hashes(size)
    index, first = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    assert root(d) == mth(d)
    assert inclusion_proof(d, index) == path(index, d)
    assert consistency_proof(d, first) == subproof(first, d, True)


def altered(proof: list[bytes], data: st.DataObject) -> list[bytes]:
    """The proof with one bit flipped, one part missing, one too many, or two exchanged."""
    how = data.draw(st.sampled_from(("flip", "drop", "add", "swap") if proof else ("add",)))
    n = data.draw(st.integers(0, len(proof) - 1)) if proof else 0
    if how == "flip":
        bit = data.draw(st.integers(0, 255))
        part = (int.from_bytes(proof[n], "big") ^ 1 << bit).to_bytes(32, "big")
        return [*proof[:n], part, *proof[n + 1 :]]
    if how == "drop":
        return proof[:n] + proof[n + 1 :]
    if how == "add":
        return [*proof[:n], data.draw(st.binary(min_size=32, max_size=32)), *proof[n:]]
    return proof[n:] + proof[:n] if len(proof) > 1 and n else [*proof, proof[0]]


@given(sizes, st.data())
def test_inclusion_holds_for_this_leaf_at_this_place_only(size: int, data: st.DataObject) -> None:
    d = hashes(size)
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(d, index)
    assert verify_inclusion(d[index], index, size, proof, root(d))
    assert not verify_inclusion(d[index], index, size, altered(proof, data), root(d))
    assert not verify_inclusion(leaf_hash(b"another"), index, size, proof, root(d))
    assert not verify_inclusion(d[index], index, size, proof, leaf_hash(b"another"))
    other = data.draw(st.integers(-1, size + 1).filter(lambda n: n != index))
    assert not verify_inclusion(d[index], other, size, proof, root(d))


@given(sizes, st.data())
def test_consistency_holds_for_these_two_trees_only(size: int, data: st.DataObject) -> None:
    d = hashes(size)
    first = data.draw(st.integers(0, size))
    old, new, proof = root(d[:first]), root(d), consistency_proof(d, first)
    assert verify_consistency(first, size, proof, old, new)
    assert not verify_consistency(first, size, altered(proof, data), old, new)
    assert not verify_consistency(first, size, proof, leaf_hash(b"another"), new)
    if first:
        assert not verify_consistency(first, size, proof, old, leaf_hash(b"another"))
        rewritten = [leaf_hash(b"another"), *d[1:]]
        assert not verify_consistency(first, size, consistency_proof(rewritten, first), old, root(rewritten))
    assert not verify_consistency(size + 1, size, proof, old, new)


def test_hashes_of_another_length_prove_nothing() -> None:
    assert not verify_inclusion(b"short", 0, 1, [], b"short")
    assert not verify_consistency(1, 1, [], b"", b"")


@pytest.mark.parametrize("index", [-1, 3])
def test_there_is_no_proof_for_a_leaf_that_is_not_there(index: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        inclusion_proof(hashes(3), index)


@given(st.integers(0, 70), st.data())
def test_a_tree_in_chunks_is_the_same_tree(size: int, data: st.DataObject) -> None:
    d = hashes(size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "CHUNK", 8)
        log = LogTree(size, [root(d[n : n + 8]) for n in range(0, size, 8)], lambda start, end: d[start:end])
        before = data.draw(st.integers(0, size))
        assert log.root() == root(d)
        assert log.root(before) == root(d[:before])
        assert log.consistency(before) == consistency_proof(d, before)
        if before:
            index = data.draw(st.integers(0, before - 1))
            assert log.inclusion(index, before) == inclusion_proof(d[:before], index)
