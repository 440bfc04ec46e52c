"""A manifest stands for every name and every byte, and for nothing that could leave its root."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import Entry, Manifest
from ledger.errors import IntegrityError

if TYPE_CHECKING:
    import random

    from ledger.objects.manifest import Mode

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
DIGESTS = st.binary(max_size=4).map(lambda content: hashlib.sha256(content).hexdigest())
MODES: st.SearchStrategy[Mode] = st.sampled_from(["file", "executable", "link", "directory"])


def _free(paths: set[str]) -> list[str]:
    """Those that do not lie below another."""
    return sorted(path for path in paths if not any(path.startswith(f"{other}/") for other in paths))


@st.composite
def entries(draw: st.DrawFn) -> list[Entry]:
    paths = _free(draw(st.sets(PATHS, max_size=8)))
    return [Entry(path, draw(DIGESTS), draw(st.integers(0, 1 << 50)), draw(MODES)) for path in paths]


@given(entries())
def test_parsing_its_content_gives_it_back(listed: list[Entry]) -> None:
    manifest = Manifest.of(listed)
    assert Manifest.parse(manifest.content) == manifest
    assert hashlib.sha256(manifest.content).hexdigest() == manifest.digest


@given(entries(), st.randoms(use_true_random=False))
def test_order_does_not_matter(listed: list[Entry], chance: random.Random) -> None:
    shuffled = list(listed)
    chance.shuffle(shuffled)
    assert Manifest.of(shuffled) == Manifest.of(listed)
    assert Manifest.of(shuffled).digest == Manifest.of(listed).digest


@given(entries().filter(bool), st.data())
def test_every_field_of_every_entry_decides_the_digest(listed: list[Entry], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(listed) - 1))
    entry = listed[index]
    other = data.draw(
        st.sampled_from(
            [
                dataclasses.replace(entry, path=entry.path + "x"),
                dataclasses.replace(entry, digest=hashlib.sha256(entry.digest.encode()).hexdigest()),
                dataclasses.replace(entry, bytes=entry.bytes + 1),
                dataclasses.replace(entry, mode="link" if entry.mode != "link" else "file"),
            ]
        )
    )
    if other.path in {e.path for e in listed}:
        return
    assert Manifest.of([*listed[:index], other, *listed[index + 1 :]]).digest != Manifest.of(listed).digest


@given(
    entries(),
    PATHS,
    st.sampled_from(["/{}", "../{}", "{}/..", "{}/../x", "./{}", "{}/./x", "{}//x", "{}/", "a\\{}", "{}\0"]),
)
def test_unsafe_paths_are_always_refused(listed: list[Entry], path: str, form: str) -> None:
    bad = Entry(form.format(path), hashlib.sha256().hexdigest(), 0)
    with pytest.raises(IntegrityError):
        Manifest.of([*listed, bad])
    with pytest.raises(IntegrityError):
        Manifest.parse(json.dumps([dataclasses.asdict(bad)]).encode())


@pytest.mark.parametrize("paths", [["a", "a"], ["a", "a/b"], ["a/b", "a/b/c/d"], [".", "a"], ["", "a"], [".."]])
def test_paths_that_exclude_each_other_are_refused(paths: list[str]) -> None:
    with pytest.raises(IntegrityError):
        Manifest.of(Entry(path, hashlib.sha256().hexdigest(), 0) for path in paths)


@given(entries(), entries())
def test_changes_tell_what_became_of_each_name(before: list[Entry], after: list[Entry]) -> None:
    old, new = Manifest.of(before), Manifest.of(after)
    names = {e.path: e for e in before}, {e.path: e for e in after}
    expected = {f"missing {path}" for path in names[0].keys() - names[1].keys()}
    expected |= {f"new {path}" for path in names[1].keys() - names[0].keys()}
    expected |= {f"changed {p}" for p in names[0].keys() & names[1].keys() if names[0][p] != names[1][p]}
    changes = old.changes(new)
    assert set(changes) == expected
    assert len(changes) == len(expected)
    assert (changes == []) == (old.digest == new.digest)


@given(st.binary(max_size=60))
def test_anything_else_is_no_manifest(content: bytes) -> None:
    if content == b"[]":
        return
    with pytest.raises(IntegrityError):
        Manifest.parse(content)


@pytest.mark.parametrize(
    "content",
    [
        b"[ ]",
        b"{}",
        b"3",
        b'["a"]',
        b'[{"path":"a"}]',
        b'[{"bytes":0,"digest":"d","mode":"socket","path":"a"}]',
        b'[{"bytes":0,"digest":"d","mode":[],"path":"a"}]',
        b'[{"bytes":0,"digest":"d","mode":"file","path":7}]',
        b'[{"digest":"d","bytes":0,"mode":"file","path":"a"}]',
    ],
)
def test_near_misses_are_no_manifest(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        Manifest.parse(content)


def test_sizes() -> None:
    digest = hashlib.sha256().hexdigest()
    manifest = Manifest.of([Entry("a", digest, 3), Entry("l", digest, 2, "link"), Entry("d", digest, 0, "directory")])
    assert (manifest.files, manifest.bytes) == (2, 5)
