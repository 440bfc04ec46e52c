"""What the checkpoint store keeps of content: pieces, packed, once, as differences; and how it gives it up again."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from safetensors.numpy import save_file

from ledger.errors import CheckpointUnavailable, Conflict, DigestMismatch, IntegrityError, LedgerError, Unavailable
from ledger.files import Lent
from ledger_fsspec import encoding, markers
from ledger_fsspec import store as module
from ledger_fsspec.encoding import Base, Damaged, decode, encode, parse
from ledger_fsspec.index import Index
from ledger_fsspec.lent import LentFile
from ledger_fsspec.objects import place
from ledger_fsspec.pieces import LARGEST, lengths
from ledger_fsspec.remote import RemoteShelf
from ledger_fsspec.services import failure, may_pass
from ledger_fsspec.shelves import LocalShelf
from ledger_fsspec.store import FsspecStore
from tests.limits import files_up_to

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from ledger.events import Stored


class _Answer(Exception):
    """A library's exception with the status of the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@pytest.fixture
def store(tmp_path: Path) -> FsspecStore:
    return FsspecStore(LocalShelf(tmp_path / "store"))


def directory(path: Path, **files: bytes) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def weights(seed: int, size: int = 300_000) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (np.random.default_rng(seed).standard_normal(size) * 0.02).astype(np.float32)


def saved(path: Path, tensors: Mapping[str, Any]) -> Path:
    path.mkdir(parents=True)
    save_file(dict(tensors), path / "model.safetensors")
    return path


def objects(root: Path) -> dict[str, int]:
    return {p.relative_to(root).as_posix(): p.stat().st_size for p in (root / "objects").rglob("*") if p.is_file()}


# --- pieces


def cut(content: bytes) -> list[bytes]:
    stream = io.BytesIO(content)
    parts, start = [], 0
    for length in lengths(stream, len(content)):
        parts.append(content[start : start + length])
        start += length
    assert b"".join(parts) == content
    return parts


def test_safetensors_are_cut_between_tensors(tmp_path: Path) -> None:
    tensors = {name: weights(seed) for seed, name in enumerate("abc")}
    parts = cut((saved(tmp_path / "out", tensors) / "model.safetensors").read_bytes())
    assert [part for part in parts if len(part) > 1000] == [tensor.tobytes() for tensor in tensors.values()]


def test_zip_files_are_cut_between_members() -> None:
    members = {f"archive/data/{number}": weights(number).tobytes() for number in range(3)}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    parts = cut(stream.getvalue())
    assert [part for part in parts if len(part) > 1000] == list(members.values())


@given(st.lists(st.binary(max_size=9), max_size=5), st.lists(st.integers(0, 12), max_size=8), st.integers(0, 9))
def test_what_is_lent_reads_like_a_file(buffers: list[bytes], sizes: list[int], start: int) -> None:
    whole = b"".join(buffers)
    lent = LentFile([memoryview(buffer) for buffer in buffers])
    assert (lent.size, lent.readable(), lent.seekable()) == (len(whole), True, True)
    assert lent.read() == whole
    file = io.BytesIO(whole)
    for stream in (lent, file):
        assert stream.seek(min(start, len(whole))) == stream.tell()
    for number, size in enumerate(sizes):
        found = lent.read(size) if number % 2 else lent.take(min(size, len(whole) - lent.tell()))
        assert found == file.read(size)
    assert lent.tell() == file.tell()
    assert lent.seek(-1, io.SEEK_END) == len(whole) - 1 if whole else True
    assert lent.seek(1, io.SEEK_CUR) == len(whole) if whole else True


def test_a_buffer_may_be_one_of_numbers(store: FsspecStore, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    numbers = np.arange(10, dtype=np.float32)
    for key in ("first", "first", "second"):
        stored = store.write_lent(tmp_path / "out", Lent({"numbers": [numbers.data, numbers[:3].data]}), key)
    store.read(stored, tmp_path / "back")
    assert (tmp_path / "back" / "numbers").read_bytes() == numbers.tobytes() + numbers[:3].tobytes()


def test_what_lies_in_one_buffer_is_not_copied() -> None:
    buffer = memoryview(bytearray(b"abcdef"))
    lent = LentFile([buffer, buffer])
    first, across = lent.take(4), lent.take(4)
    buffer[0:6] = b"ABCDEF"
    assert (bytes(first), bytes(across)) == (b"ABCD", b"efab")


@pytest.mark.parametrize("base", [False, True])
def test_what_is_lent_makes_the_same_objects(tmp_path: Path, base: bool) -> None:
    """So a checkpoint shares its content with one that was stored from files."""
    tensors = {name: weights(seed) for seed, name in enumerate("abc")}
    saved(tmp_path / "first", tensors | {"a": tensors["a"] * 1.0001})
    saved(tmp_path / "out", tensors)
    (tmp_path / "out" / "step").write_text("3")
    path = tmp_path / "out" / "model.safetensors"
    content = memoryview(path.read_bytes())
    stores = []
    for name in ("files", "lent"):
        store = FsspecStore(LocalShelf(tmp_path / name))
        before = store.write(tmp_path / "first", "first") if base else None
        if name == "lent":
            path.unlink()
            lent = Lent({"model.safetensors": [content[:1000], content[1000:700_000], content[700_000:]]})
            stored = store.write_lent(tmp_path / "out", lent, "second", before)
        else:
            stored = store.write(tmp_path / "out", "second", before)
        stores.append((stored.digest, stored.files, stored.stored_bytes, stored.bases, objects(tmp_path / name)))
    assert stores[0] == stores[1]


def test_small_neighbours_share_a_piece_and_large_ones_are_cut() -> None:
    header = {f"t{n}": {"data_offsets": [n * 100, n * 100 + 100]} for n in range(500)}
    header["large"] = {"data_offsets": [50_000, 50_000 + 2 * LARGEST + 7]}
    text = json.dumps(header).encode()
    sizes = [len(p) for p in cut(len(text).to_bytes(8, "little") + text + bytes(50_000 + 2 * LARGEST + 7))]
    assert sizes == [8 + len(text) + 50_000, LARGEST, LARGEST, 7]


@given(st.binary(max_size=300), st.sampled_from(["", "PK\x03\x04", "safetensors", "zip"]), st.data())
def test_whatever_a_header_claims_the_pieces_are_the_file(content: bytes, kind: str, data: st.DataObject) -> None:
    if kind == "safetensors":
        offsets = st.lists(st.one_of(st.integers(-(2**70), 2**70), st.text(), st.none()), max_size=3)
        names = st.sampled_from(["a", "b", "__metadata__"])
        text = json.dumps(data.draw(st.dictionaries(names, st.fixed_dictionaries({"data_offsets": offsets})))).encode()
        claimed = data.draw(st.sampled_from([len(text), 0, 2**63, 200_000_000]))
        content = claimed.to_bytes(8, "little") + text + content
    elif kind == "zip":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("member", content)
        damaged = bytearray(stream.getvalue())
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(0, 255))
        content = bytes(damaged)
    cut(kind.encode() + content if kind == "PK\x03\x04" else content)


# --- objects

BASE = Base("0" * 64, "1" * 64, "run-1/step-1")


def packed(raw: bytes, base: bytes | None = None) -> bytes:
    _, parts = encode(bytearray(raw), (BASE, bytearray(base)) if base is not None else None)
    return b"".join(bytes(part) for part in parts)


def unpacked(content: bytes, base: bytes | None = None) -> bytes:
    header, payload = parse(content)
    return bytes(decode(header, payload, bytearray(base) if header.base and base is not None else None))


@given(st.binary(min_size=1, max_size=2000), st.integers(1, 200), st.randoms(use_true_random=False))
def test_what_is_packed_is_unpacked_exactly(content: bytes, times: int, chance: random.Random) -> None:
    raw = content * times
    assert unpacked(packed(raw)) == raw
    other = bytearray(raw)
    other[chance.randrange(len(raw))] ^= 1
    base = chance.choice([bytes(other), chance.randbytes(len(raw))])
    assert unpacked(packed(raw, base), base) == raw


@pytest.mark.parametrize(
    ("numbers", "stride", "share"),
    [
        (weights(0), 4, 0.85),
        (weights(0).astype(np.float64), 8, 0.68),
        (weights(0).astype(np.float16), 2, 0.93),
        ((weights(0).view(np.uint32) >> 16).astype(np.uint16), 2, 0.69),  # bfloat16
        (np.arange(300_000), 8, 0.3),
        (np.frombuffer(b"all work and no play makes jack a dull boy " * 9000, np.uint8), 1, 0.01),
    ],
    ids=["float32", "float64", "float16", "bfloat16", "int64", "text"],
)
def test_numbers_are_packed_by_their_size(numbers: Any, stride: int, share: float) -> None:
    content = packed(numbers.tobytes())
    assert parse(content)[0].stride == stride
    assert len(content) < share * numbers.nbytes
    assert unpacked(content) == numbers.tobytes()


def test_noise_costs_nothing_but_a_header() -> None:
    noise = random.Random(0).randbytes(1 << 20)
    assert len(packed(noise)) < len(noise) + 300


@given(st.binary(max_size=200))
def test_what_is_no_object_is_called_damaged(content: bytes) -> None:
    with pytest.raises(Damaged):
        parse(content)


# --- once


def test_what_two_checkpoints_share_is_kept_once(store: FsspecStore, tmp_path: Path) -> None:
    frozen, head = weights(1), weights(2, 20_000)
    first = store.write(saved(tmp_path / "a", {"frozen": frozen, "head": head}), "run-1/step-1")
    second = store.write(saved(tmp_path / "b", {"frozen": frozen, "head": head + 1}), "run-1/step-2")
    assert first.stored_bytes > 0.8 * frozen.nbytes
    assert second.stored_bytes < head.nbytes + 2000
    again = store.write(tmp_path / "a", "run-2/step-1")  # a replay, a fork, the best one of the same step
    assert again.stored_bytes == os.path.getsize(tmp_path / "store/run-2/step-1/checkpoint.json")
    replicas = directory(tmp_path / "c", rank0=frozen.tobytes(), rank1=frozen.tobytes())
    assert store.write(replicas, "run-3/step-1").stored_bytes < 2000


def test_what_others_need_survives_a_delete(store: FsspecStore, tmp_path: Path) -> None:
    frozen = weights(1).tobytes()
    first = store.write(directory(tmp_path / "a", frozen=frozen, head=b"1"), "run-1/step-1")
    second = store.write(directory(tmp_path / "b", frozen=frozen, head=b"2"), "run-1/step-2")
    store.delete(first)
    assert len(objects(tmp_path / "store")) == 2
    store.read(second, tmp_path / "back")
    store.delete(second)
    assert objects(tmp_path / "store") == {}


# --- differences


def chain(store: FsspecStore, home: Path, length: int) -> list[Stored]:
    """Checkpoints of slowly moving weights, each stored as the difference to the one before."""
    tensor, written = weights(0), []
    for step in range(length):
        out = saved(home / f"step-{step}", {"w": tensor})
        written.append(store.write(out, f"run-1/step-{step}", written[-1] if written else None))
        tensor = tensor + np.abs(tensor) * weights(step + 1) * np.float32(1e-3)
    return written


def same(store: FsspecStore, stored: Stored, out: Path, dest: Path) -> bool:
    store.read(stored, dest)
    return (dest / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_a_difference_is_smaller_and_names_its_bases(store: FsspecStore, tmp_path: Path) -> None:
    first, second, third = chain(store, tmp_path, 3)
    assert first.bases == ()
    assert second.bases == (first.digest,)
    assert third.bases == tuple(sorted([first.digest, second.digest]))
    assert third.stored_bytes < second.stored_bytes * 1.1 < first.stored_bytes * 0.7
    assert same(store, third, tmp_path / "step-2", tmp_path / "back")


def test_deleting_a_base_keeps_what_is_needed_of_it(store: FsspecStore, tmp_path: Path) -> None:
    first, second, third = chain(store, tmp_path, 3)
    store.delete(first)
    store.delete(second)
    assert same(store, third, tmp_path / "step-2", tmp_path / "back")
    store.delete(third)
    assert objects(tmp_path / "store") == {}


def test_a_lost_base_is_named(store: FsspecStore, tmp_path: Path) -> None:
    first, _, third = chain(store, tmp_path, 3)
    index = Index.parse((tmp_path / "store/run-1/step-0/checkpoint.json").read_bytes())
    largest = max(index.objects, key=lambda name: index.objects[name])
    (tmp_path / "store" / place(largest)).unlink()
    assert list(store.list("")) == []
    with pytest.raises(CheckpointUnavailable) as caught:
        store.read(third, tmp_path / "back")
    assert "model.safetensors of checkpoint run-1/step-2" in str(caught.value)
    assert f"difference to checkpoint run-1/step-0 ({first.digest[:12]}" in str(caught.value)
    assert caught.value.mend


@pytest.mark.parametrize("damage", ["lost", "altered"])
def test_a_base_that_is_gone_costs_room_and_nothing_else(store: FsspecStore, tmp_path: Path, damage: str) -> None:
    (first,) = chain(store, tmp_path, 1)
    if damage == "lost":
        store.delete(first)
    else:
        for path in objects(tmp_path / "store"):
            os.truncate(tmp_path / "store" / path, 100)
    out = saved(tmp_path / "next", {"w": weights(9)})
    stored = store.write(out, "run-1/step-9", first)
    assert stored.bases == ()
    assert same(store, stored, out, tmp_path / "back")


def test_without_a_base_a_checkpoint_stands_alone(store: FsspecStore, tmp_path: Path) -> None:
    _, second = chain(store, tmp_path, 2)
    full = store.write(tmp_path / "step-1", "run-2/step-1")
    assert second.bases
    assert full.bases == ()
    assert full.digest == second.digest


def test_a_replay_of_a_chain_adds_nothing(store: FsspecStore, tmp_path: Path) -> None:
    first, _ = chain(store, tmp_path, 2)
    again = store.write(tmp_path / "step-1", "run-2/step-1", first)
    assert again.stored_bytes == os.path.getsize(tmp_path / "store/run-2/step-1/checkpoint.json")


def test_writing_again_repairs_a_chain(store: FsspecStore, tmp_path: Path) -> None:
    first, second = chain(store, tmp_path, 2)
    for path in objects(tmp_path / "store"):
        os.truncate(tmp_path / "store" / path, 100)
    assert store.write(tmp_path / "step-0", "run-1/step-0") == first
    repaired = store.write(tmp_path / "step-1", "run-1/step-1", first)
    assert (repaired.digest, repaired.bases) == (second.digest, second.bases)
    assert same(store, repaired, tmp_path / "step-1", tmp_path / "back")


# --- hostile bytes


def test_an_index_that_contradicts_itself_is_refused(store: FsspecStore, tmp_path: Path) -> None:
    stored = store.write(directory(tmp_path / "out", model=b"1"), "run-1/step-1")
    path = tmp_path / "store/run-1/step-1/checkpoint.json"
    index = Index.parse(path.read_bytes())
    outside = "../" * 8 + "etc/passwd"
    for files, needed in [
        ({"model": ((outside, 1),)}, {outside: 1}),
        ({"model": (("0" * 64, 1),)}, {}),
        ({"model": (("0" * 64, 1 << 60),)}, {"0" * 64: 1}),
        ({"model": (), "more": ()}, {}),
        ({}, {}),
    ]:
        path.write_bytes(Index(index.manifest, files, needed, (), 1).content)
        with pytest.raises(IntegrityError):
            store.read(stored, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_chain_that_bites_its_tail_ends(store: FsspecStore, tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(600)
    stored = store.write(directory(tmp_path / "out", model=noise), "run-1/step-1")
    (path,) = objects(tmp_path / "store")
    name = "".join(path.split("/")[1:])
    _, parts = encode(bytearray(noise), (Base(name, "1" * 64, "run-1/step-1"), bytearray(noise)))
    (tmp_path / "store" / path).write_bytes(b"".join(bytes(part) for part in parts))
    with pytest.raises(DigestMismatch):
        store.read(stored, tmp_path / "back")


def test_a_plane_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    bomb = packed(bytes(LARGEST))
    header, payload = parse(bomb)
    claimed = type(header)(100, header.stride, header.planes, None)
    with pytest.raises(Damaged):
        decode(claimed, payload, None)


# --- sweeping


def test_sweep_finds_what_is_left_over(store: FsspecStore, tmp_path: Path) -> None:
    kept = store.write(directory(tmp_path / "a", model=b"kept"), "run-1/step-1")
    gone = store.write(directory(tmp_path / "b", model=b"gone"), "run-1/step-2")
    (tmp_path / "store/run-1/step-2/checkpoint.json").unlink()  # as a delete that was killed leaves it
    (lost,) = [p for p in objects(tmp_path / "store") if _raw(tmp_path, p) == b"gone"]
    stale = tmp_path / "store/pending/1000000000-0123"
    stale.parent.mkdir(exist_ok=True)
    stale.touch()
    found = [(each.path, each.reason) for each in store.sweep(dry=True)]
    assert found == [
        ("pending/1000000000-0123", "left over by a process that was killed"),
        (lost, "no checkpoint needs it"),
    ]
    assert [(each.path, each.reason) for each in store.sweep(dry=False)] == found
    assert list(store.sweep(dry=False)) == []
    assert list(store.list("")) == [kept]
    with pytest.raises(CheckpointUnavailable):
        store.read(gone, tmp_path / "back")


def _raw(home: Path, path: str) -> bytes:
    return unpacked((home / "store" / path).read_bytes())


def test_nothing_is_swept_while_somebody_writes(
    store: FsspecStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    stored = store.write(directory(tmp_path / "a", model=b"1"), "run-1/step-1")
    with markers.Markers(LocalShelf(tmp_path / "store")).writing():
        store.delete(stored)  # that writer may just have found the content there already
        assert len(objects(tmp_path / "store")) == 1
        for dry in (True, False):
            with pytest.raises(Conflict, match="being written"):
                list(store.sweep(dry=dry))
    assert [each.reason for each in store.sweep(dry=False)] == ["no checkpoint needs it"]


def test_a_writer_waits_for_a_sweeper(store: FsspecStore, tmp_path: Path) -> None:
    out = directory(tmp_path / "a", model=b"1")
    writer = threading.Thread(target=store.write, args=(out, "run-1/step-1"))
    with markers.Markers(LocalShelf(tmp_path / "store")).sweeping(0):
        writer.start()
        pending = tmp_path / "store/pending"
        while not (pending.exists() and os.listdir(pending)):
            pass
        writer.join(0.6)
        assert writer.is_alive()
        assert objects(tmp_path / "store") == {}
    writer.join(60)
    assert [stored.uri.rpartition("/")[2] for stored in store.list("")] == ["step-1"]


def test_marks_of_the_dead_expire(tmp_path: Path) -> None:
    now = [1_000_000.0]
    marks = markers.Markers(LocalShelf(tmp_path / "store"), clock=lambda: now[0])
    with suppress(RuntimeError), marks.writing():
        writer = dict(LocalShelf(tmp_path / "store").sizes("pending"))
        raise RuntimeError
    for path in writer:  # as if the process had been killed
        LocalShelf(tmp_path / "store").write(path, [b"{}"])
    with pytest.raises(Conflict), marks.sweeping(0):
        pass
    now[0] += markers.WRITER_STALE_HOURS * 3600 - 1
    with pytest.raises(Conflict), marks.sweeping(0):
        pass
    now[0] += 1
    with marks.sweeping(0):
        pass
    assert marks.stale().keys() == writer.keys()


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="no telling which process a mark means")
@pytest.mark.parametrize("folder", [markers.WRITING, markers.SWEEPING])
def test_nobody_waits_for_a_process_that_was_killed(store: FsspecStore, tmp_path: Path, folder: str) -> None:
    kept = store.write(directory(tmp_path / "a", model=b"1"), "run-1/step-1")
    doing = {markers.WRITING: "writing()", markers.SWEEPING: "sweeping(0)"}[folder]
    program = f"""
import pathlib, time
from ledger_fsspec.markers import Markers
from ledger_fsspec.shelves import LocalShelf
with Markers(LocalShelf(pathlib.Path({str(tmp_path / "store")!r}))).{doing}:
    print("marked", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "marked\n"
        marks = markers.Markers(LocalShelf(tmp_path / "store"))
        assert marks.stale() == {}
        process.kill()
    (mark,) = marks.stale()
    assert mark.startswith(f"{folder}/")
    began = time.monotonic()
    store.write(directory(tmp_path / "b", model=b"2"), "run-1/step-2")
    store.delete(kept)
    assert len(objects(tmp_path / "store")) == 1
    assert [each.path for each in store.sweep(dry=False)] == [mark]
    assert time.monotonic() - began < 60


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="no telling which process a mark means")
def test_a_writer_at_work_lives_whatever_the_clock_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = markers.Markers(LocalShelf(tmp_path / "store"))
    with marks.writing():
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: time.time() - 5)  # as if the clock had been set
        assert marks.stale() == {}
        with pytest.raises(Conflict), marks.sweeping(0):
            pass
        monkeypatch.setattr(os, "kill", _not_ours)
        assert marks.stale() == {}


def _not_ours(pid: int, signal: int) -> None:
    raise PermissionError


def test_a_writer_that_took_too_long_gives_up(
    store: FsspecStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(markers, "WRITER_HOURS", 0)
    with pytest.raises(Unavailable, match="hours"):
        store.write(directory(tmp_path / "a", model=b"1"), "run-1/step-1")
    assert list(store.list("")) == []


def test_a_sweep_that_gets_nowhere_ends(store: FsspecStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(directory(tmp_path / "a", model=b"1"), "run-1/step-1")
    (tmp_path / "store/run-1/step-1/checkpoint.json").unlink()
    monkeypatch.setattr(markers, "SWEEPER_MINUTES", 0)
    with pytest.raises(Unavailable, match="takes too long") as caught:
        list(store.sweep(dry=False))
    assert caught.value.mend
    assert len(objects(tmp_path / "store")) == 1


def test_a_damaged_index_stops_the_sweep(store: FsspecStore, tmp_path: Path) -> None:
    store.write(directory(tmp_path / "a", model=b"1"), "run-1/step-1")
    other = store.write(directory(tmp_path / "b", model=b"2"), "run-1/step-2")
    os.truncate(tmp_path / "store/run-1/step-1/checkpoint.json", 20)
    with pytest.raises(IntegrityError, match="run-1/step-1"):
        list(store.sweep(dry=False))
    store.delete(other)
    assert len(objects(tmp_path / "store")) == 2


class Killed(BaseException):
    """Stands for SIGKILL: nobody catches it, and what was begun stays."""


class Mortal(LocalShelf):
    """A shelf whose process dies after so many changes."""

    left: int | None = None

    def _step(self) -> None:
        if self.left is not None:
            if not self.left:
                raise Killed
            self.left -= 1

    def write(self, path: str, parts: Sequence[Any]) -> None:
        self._step()
        super().write(path, parts)

    def create(self, path: str, parts: Sequence[Any]) -> bool:
        self._step()
        return super().create(path, parts)

    def remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._step()
            super().remove([path])


CONTENT = st.lists(st.integers(0, 3), min_size=1, max_size=3)


def _file(number: int) -> bytes:
    return bytes([number]) * 70_000


class Stores(RuleBasedStateMachine):
    """Writers, deleters and sweepers that are killed anywhere: no checkpoint that is there ever loses anything."""

    checkpoints = Bundle("checkpoints")

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self._home = tempfile.TemporaryDirectory()
        self.home = Path(self._home.name)
        self.now = 1_000_000_000.0
        self.number = 0
        self.kept: dict[str, tuple[Stored, list[int]]] = {}

    def teardown(self) -> None:
        self._home.cleanup()

    def open(self, changes: int | None = None) -> FsspecStore:
        shelf = Mortal(self.home / "store")
        shelf.left = changes
        opened = FsspecStore(shelf)
        opened._markers = markers.Markers(shelf, clock=lambda: self.now)
        return opened

    def _write(self, content: list[int], base: Stored | None, changes: int | None) -> Stored | None:
        self.number += 1
        key = f"run-1/step-{self.number}"
        out = directory(self.home / f"out-{self.number}", **{f"f{n}": _file(c) for n, c in enumerate(content)})
        try:
            stored = self.open(changes).write(out, key, base)
        except Killed:
            stored = next(iter(self.open().list(key)), None)
        if stored is not None:
            self.kept[stored.uri] = (stored, content)
        return stored

    @rule(target=checkpoints, content=CONTENT)
    def write(self, content: list[int]) -> Stored | None:
        return self._write(content, None, None)

    @rule(target=checkpoints, content=CONTENT, base=checkpoints)
    def write_on_a_base(self, content: list[int], base: Stored | None) -> Stored | None:
        return self._write(content, base, None)

    @rule(content=CONTENT, changes=st.integers(0, 8))
    def write_and_die(self, content: list[int], changes: int) -> None:
        self._write(content, None, changes)

    @rule(stored=consumes(checkpoints), changes=st.one_of(st.none(), st.integers(0, 6)))
    def delete(self, stored: Stored | None, changes: int | None) -> None:
        if stored is None:
            return
        with suppress(Killed):
            self.open(changes).delete(stored)
        if not list(self.open().list(stored.uri.partition("/store/")[2])):
            self.kept.pop(stored.uri, None)
        self.now += 3600  # nobody waits in this test for the mark of a sweeper that died

    @rule(changes=st.one_of(st.none(), st.integers(0, 6)), hours=st.sampled_from([0, 25]))
    def sweep(self, changes: int | None, hours: int) -> None:
        self.now += hours * 3600
        with suppress(Killed, Conflict), pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_PATIENCE", 0.0)
            list(self.open(changes).sweep(dry=False))
            if hours and changes is None:
                needed = {p for stored, _ in self.kept.values() for p in self._needs(stored)}
                assert set(objects(self.home / "store")) == needed
        self.now += 3600

    def _needs(self, stored: Stored) -> Iterator[str]:
        index = self.home / "store" / stored.uri.partition("/store/")[2] / "checkpoint.json"
        yield from (place(name) for name in Index.parse(index.read_bytes()).objects)

    @invariant()
    def every_checkpoint_is_whole(self) -> None:
        assert {stored.uri for stored in self.open().list("")} == set(self.kept)
        for stored, content in self.kept.values():
            self.number += 1
            dest = self.home / f"back-{self.number}"
            self.open().read(stored, dest)
            assert [(dest / f"f{n}").read_bytes() for n in range(len(content))] == [*map(_file, content)]


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


def test_many_writers_and_sweepers_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads with stores of their own, as processes on other hosts would be."""
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    failures: list[BaseException] = []
    written: list[Stored] = []
    stop = threading.Event()

    def write(worker: int) -> None:
        store = FsspecStore(LocalShelf(tmp_path / "store"))
        chance = random.Random(worker)
        try:
            for step in range(12):
                out = directory(tmp_path / f"{worker}-{step}", w=bytes([chance.randrange(3)]) * 70_000, n=b"%d" % step)
                stored = store.write(out, f"run-{worker}/step-{step}")
                if step % 3:
                    store.delete(stored)
                else:
                    written.append(stored)
        except LedgerError as error:
            failures.append(error)

    def sweep() -> None:
        store = FsspecStore(LocalShelf(tmp_path / "store"))
        while not stop.is_set():
            try:
                list(store.sweep(dry=False))
            except Conflict:
                continue
            except LedgerError as error:
                failures.append(error)
                return

    writers = [threading.Thread(target=write, args=(worker,)) for worker in range(3)]
    sweeper = threading.Thread(target=sweep)
    for thread in [*writers, sweeper]:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    sweeper.join()
    assert failures == []
    store = FsspecStore(LocalShelf(tmp_path / "store"))
    for number, stored in enumerate(written):
        store.read(stored, tmp_path / f"back-{number}")
    assert len(written) == 12


# --- no room, no permission, other people's files


def test_an_index_that_does_not_fit_is_none(store: FsspecStore, tmp_path: Path) -> None:
    """It is one write, of which a full disk takes a part."""
    first = store.write(directory(tmp_path / "first", model=b"1"), "run-1/step-1")
    out = directory(tmp_path / "out", **{f"{'long' * 40}-{number}": b"2" for number in range(60)})
    with files_up_to(8192), pytest.raises(Unavailable, match="File too large") as caught:
        store.write(out, "run-1/step-2")
    assert caught.value.mend
    assert list(store.list("")) == [first]
    assert list(store.sweep(dry=True)) == []
    assert store.write(out, "run-1/step-2").files


def test_a_file_that_does_not_fit_is_not_read_by_halves(store: FsspecStore, tmp_path: Path) -> None:
    stored = store.write(directory(tmp_path / "out", model=bytes(10_000)), "run-1/step-1")
    with files_up_to(8192), pytest.raises(Unavailable, match="File too large"):
        store.read(stored, tmp_path / "back")
    assert not (tmp_path / "back").exists()


class Closed(LocalShelf):
    """A shelf with a folder that somebody else has closed to us; root may list any."""

    def __init__(self, root: Path, closed: Path) -> None:
        super().__init__(root)
        self._closed = str(closed)

    def sizes(self, path: str, *, without: Collection[str] = ()) -> dict[str, int]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "scandir", self._scandir)
            return super().sizes(path, without=without)

    def _scandir(self, path: str) -> Any:
        if path == self._closed:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return SCANDIR(path)


SCANDIR = os.scandir


def test_a_disk_that_is_full_to_the_last_byte_can_be_cleared_up(store: FsspecStore, tmp_path: Path) -> None:
    kept = store.write(directory(tmp_path / "a", model=b"kept"), "run-1/step-1")
    store.write(directory(tmp_path / "b", model=b"gone"), "run-1/step-2")
    (tmp_path / "store/run-1/step-2/checkpoint.json").unlink()
    with files_up_to(0):
        (left,) = store.sweep(dry=True)
        with pytest.raises(Unavailable, match="File too large"):
            list(store.sweep(dry=False))
    assert list(store.sweep(dry=False)) == [left]
    assert list(store.list("")) == [kept]


def test_what_cannot_be_listed_is_not_taken_for_nothing(store: FsspecStore, tmp_path: Path) -> None:
    stored = store.write(directory(tmp_path / "a", model=b"theirs"), "run-1/step-1")
    mine = store.write(directory(tmp_path / "b", model=b"mine"), "run-2/step-1")
    other = FsspecStore(Closed(tmp_path / "store", tmp_path / "store/run-1"))
    for act in (lambda: list(other.sweep(dry=False)), lambda: other.delete(mine)):
        with pytest.raises(Unavailable, match="Permission denied"):
            act()
    store.read(stored, tmp_path / "back")


def test_files_of_others_are_not_swept(store: FsspecStore, tmp_path: Path) -> None:
    store.write(directory(tmp_path / "a", model=b"1"), "run-1/step-1")
    theirs = [
        tmp_path / "store" / name for name in ("tmp/notes.txt", "objects/table.csv", "objects/ab/cd", "pending/x")
    ]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("precious")
    assert list(store.sweep(dry=False)) == []
    assert all(path.read_text() == "precious" for path in theirs)


def test_an_object_leads_nowhere_outside(store: FsspecStore, tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(600)
    for name in ("../../../secret", "/etc/passwd", 7, ["a"]):
        base = Base(name, "1" * 64, "run-1/step-1")  # type: ignore[arg-type]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(encoding, "_best_stride", lambda sample: (1, float(sample.any())))  # any base is taken
            _, parts = encode(bytearray(noise), (base, bytearray(noise)))
        with pytest.raises(Damaged):
            parse(b"".join(bytes(part) for part in parts))


def test_a_machine_that_slept_gives_up_what_it_wrote(tmp_path: Path) -> None:
    """Its own clock stood still meanwhile, and the mark may have been swept."""
    now = [1_000_000.0]
    marks = markers.Markers(LocalShelf(tmp_path / "store"), clock=lambda: now[0])
    with marks.writing() as in_time:
        in_time()
        now[0] += markers.WRITER_HOURS * 3600 + 1
        with pytest.raises(Unavailable, match="hours"):
            in_time()


@pytest.mark.parametrize(
    ("error", "kind", "passes"),
    [
        (OSError("503 Slow Down: bucket/run-1/step-403/checkpoint.json"), errno.EIO, True),
        (_Answer(403, "no"), errno.EACCES, False),
        (_Answer(401, "who"), errno.EACCES, False),
        (_Answer(507, "no"), errno.ENOSPC, False),
        (_Answer(429, "Quota exceeded for quota metric 'Requests per minute'"), errno.EIO, True),
        (OSError("An error occurred (QuotaExceeded) when calling the PutObject operation"), errno.ENOSPC, False),
    ],
)
def test_what_a_service_means(error: Exception, kind: int, passes: bool) -> None:
    assert (failure(error).errno, may_pass(error)) == (kind, passes)


def test_a_place_without_credentials_is_told_from_an_unknown_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(Unavailable, match="az://container/x") as caught:
        module.open_store("az://container/x")
    assert "credentials" in str(caught.value.mend)
    assert module.open_store("nobody-knows://this") is None


def test_the_place_is_checked_before_it_is_needed(tmp_path: Path) -> None:
    good = FsspecStore(LocalShelf(tmp_path / "store"))
    good.check()
    assert list(good.sweep(dry=True)) == []
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(Unavailable) as caught:
        FsspecStore(LocalShelf(tmp_path / "file")).check()
    assert caught.value.mend


def test_other_file_systems_take_a_way_round(tmp_path: Path) -> None:
    """Where nothing says that a file is there whole or not at all, it is moved to its name."""
    shelf = RemoteShelf(f"local://{tmp_path / 'store'}")
    store = FsspecStore(shelf)
    stored = store.write(directory(tmp_path / "out", model=b"1"), "run-1/step-1")
    store.read(stored, tmp_path / "back")
    assert store.write(tmp_path / "out", "run-1/step-1") == stored
    assert os.listdir(tmp_path / "store/tmp") == []
    store.delete(stored)
    assert list(store.list("")) == []
