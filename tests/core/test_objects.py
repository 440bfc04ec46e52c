"""The content-addressed store: durable, verified, never half-written; over local files and over memory."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import Entry, Hasher, Manifest, ObjectStore
from ledger.errors import (
    DataUnavailable,
    DigestMismatch,
    LedgerError,
    ObjectNotFound,
    StoreUnavailable,
    Unavailable,
    UsageError,
)
from tests.limits import files_up_to

if TYPE_CHECKING:
    from collections.abc import Callable

ABSENT = "0" * 64


@pytest.fixture(params=["file", "path", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    home = tmp_path / "the objects # 100%"
    return {"file": home.as_uri(), "path": str(home), "memory": f"memory://{uuid.uuid4()}"}[request.param]


@pytest.fixture
def store(url: str, tmp_path: Path) -> ObjectStore:
    return ObjectStore(url, scratch=tmp_path / "scratch")


@pytest.fixture
def files(url: str, tmp_path: Path) -> Callable[[], dict[str, bytes]]:
    """What lies in the store, by path below its root."""

    def look() -> dict[str, bytes]:
        if url.startswith("memory:"):
            fs = fsspec.filesystem("memory")
            root = fs._strip_protocol(url)
            return {name[len(root) + 1 :]: fs.cat_file(name) for name in fs.find(root)}
        root = tmp_path / "the objects # 100%"
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    return look


@pytest.fixture
def damage(url: str, tmp_path: Path) -> Callable[[str, bytes | None], None]:
    """Replace the bytes of an object behind the store's back, or remove them."""

    def do(digest: str, content: bytes | None) -> None:
        key = f"{digest[:2]}/{digest[2:]}"
        if url.startswith("memory:"):
            fs = fsspec.filesystem("memory")
            fs.rm_file(f"{url}/{key}") if content is None else fs.pipe_file(f"{url}/{key}", content)
            return
        path = tmp_path / "the objects # 100%" / key
        path.unlink()
        if content is not None:
            path.write_bytes(content)

    return do


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub/empty").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"one")
    (root / "twin.txt").write_bytes(b"one")
    (root / "nothing").write_bytes(b"")
    (root / "sub/tool").write_bytes(b"#!/bin/sh\n")
    (root / "sub/tool").chmod(0o755)
    (root / "sub/link").symlink_to("../a.txt")
    (root / "absolute").symlink_to(root / "sub")
    return root


def test_bytes_come_back(store: ObjectStore) -> None:
    digest = store.put_bytes(b"content")
    assert digest == hashlib.sha256(b"content").hexdigest()
    assert store.has(digest)
    assert store.get_bytes(digest) == b"content"
    assert store.get_bytes(store.put_bytes(b"")) == b""
    assert not store.has(ABSENT)


def test_a_key_is_the_digest_and_nothing_else_is_left(
    store: ObjectStore, files: Callable[[], dict[str, bytes]]
) -> None:
    digest = store.put_bytes(b"content")
    assert files() == {f"{digest[:2]}/{digest[2:]}": b"content"}


def test_a_file_comes_back(store: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom(3_000_001)
    (tmp_path / "f").write_bytes(content)
    digest = store.put_file(tmp_path / "f")
    store.fetch_file(digest, tmp_path / "new/g")
    assert (tmp_path / "new/g").read_bytes() == content
    assert os.access(tmp_path / "new/g", os.W_OK)
    assert store.put_file(tmp_path / "f", digest) == digest


def test_fetching_replaces_a_file_only_when_verified(
    store: ObjectStore, damage: Callable[[str, bytes | None], None], tmp_path: Path
) -> None:
    (tmp_path / "g").write_bytes(b"before")
    digest = store.put_bytes(b"content")
    damage(digest, b"cOntent")
    with pytest.raises(DigestMismatch):
        store.fetch_file(digest, tmp_path / "g")
    assert (tmp_path / "g").read_bytes() == b"before"
    damage(digest, b"content")
    store.fetch_file(digest, tmp_path / "g")
    assert (tmp_path / "g").read_bytes() == b"content"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.endswith(".partial")) == []


def test_damage_and_absence_name_the_object(
    store: ObjectStore, damage: Callable[[str, bytes | None], None], tmp_path: Path
) -> None:
    digest = store.put_bytes(b"content")
    damage(digest, b"cOntent")
    for read in (store.get_bytes, lambda d: store.fetch_file(d, tmp_path / "g"), store.get_manifest):
        with pytest.raises(DigestMismatch, match=digest) as caught:
            read(digest)
        assert caught.value.mend
    damage(digest, None)
    with pytest.raises(ObjectNotFound, match=digest):
        store.get_bytes(digest)
    with pytest.raises(ObjectNotFound, match=digest):
        store.fetch_file(digest, tmp_path / "g")
    assert not (tmp_path / "g").exists()


def test_a_truncated_object_is_missing_and_put_again(
    store: ObjectStore, damage: Callable[[str, bytes | None], None]
) -> None:
    digest = store.put_bytes(b"content")
    manifest = Manifest.of([Entry("a", digest, 7)])
    damage(digest, b"cont")
    assert [e.path for e in store.missing(manifest)] == ["a"]
    store.put_bytes(b"content")
    assert store.get_bytes(digest) == b"content"
    assert store.missing(manifest) == []


@pytest.mark.parametrize(
    "bad", ["", "a", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n", "../" + "0" * 61]
)
def test_what_is_no_digest_is_refused(store: ObjectStore, tmp_path: Path, bad: str) -> None:
    (tmp_path / "f").write_bytes(b"")
    calls: list[Callable[[], object]] = [
        lambda: store.has(bad),
        lambda: store.get_bytes(bad),
        lambda: store.fetch_file(bad, tmp_path / "g"),
        lambda: store.get_manifest(bad),
        lambda: store.missing(Manifest.of([Entry("a", bad, 0)])),
        lambda: store.restore(Manifest.of([Entry("a", bad, 0)]), tmp_path / "d"),
        lambda: store.put_file(tmp_path / "f", bad),
    ]
    for call in calls:
        with pytest.raises(UsageError):
            call()
    assert not (tmp_path / "g").exists()
    assert not (tmp_path / "d").exists()


def test_what_is_there_is_not_written_again(tmp_path: Path, tree: Path) -> None:
    store = ObjectStore(str(tmp_path / "objects"), scratch=tmp_path / "scratch")
    manifest = Hasher().tree(tree)
    store.put_tree(tree, manifest)

    def inodes() -> dict[str, int]:
        return {str(p): p.stat().st_ino for p in (tmp_path / "objects").rglob("*")}

    before = inodes()
    store.put_tree(tree, manifest)
    store.put_bytes(b"one")
    store.put_file(tree / "a.txt")
    assert inodes() == before


def test_a_tree_comes_back(store: ObjectStore, tree: Path, tmp_path: Path) -> None:
    manifest = Hasher().tree(tree)
    assert store.put_tree(tree, manifest) == manifest.digest
    assert store.get_manifest(manifest.digest) == manifest
    store.restore(manifest, tmp_path / "new/back")
    back = tmp_path / "new/back"
    assert Hasher().tree(back) == manifest
    assert (back / "sub/empty").is_dir()
    assert (back / "sub/link").readlink() == Path("../a.txt")
    assert (back / "absolute").readlink() == Path("sub")  # the copy is whole without the original
    assert os.access(back / "sub/tool", os.X_OK)
    (back / "a.txt").write_bytes(b"writable")
    assert os.listdir(tmp_path / "new") == ["back"]


def test_a_single_file_comes_back_as_a_tree(store: ObjectStore, tree: Path, tmp_path: Path) -> None:
    manifest = Hasher().tree(tree / "sub/tool")
    store.put_tree(tree / "sub/tool", manifest)
    store.restore(manifest, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"#!/bin/sh\n"
    assert os.access(tmp_path / "back", os.X_OK)


def test_an_empty_tree_comes_back(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    manifest = Hasher().tree(tmp_path / "none")
    store.put_tree(tmp_path / "none", manifest)
    store.restore(manifest, tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []


def test_links_are_kept_as_a_manifest_of_git_has_them(store: ObjectStore, tmp_path: Path) -> None:
    """Git knows where a link points and not what is there."""
    root = tmp_path / "tree"
    root.mkdir()
    targets = {"out": "/nowhere/at/all", "up": "../elsewhere", "dangling": "missing"}
    for name, target in targets.items():
        (root / name).symlink_to(target)
    manifest = Manifest.of(Entry(n, hashlib.sha256(t.encode()).hexdigest(), len(t), "link") for n, t in targets.items())
    store.put_tree(root, manifest)
    store.restore(manifest, tmp_path / "back")
    assert {name: os.readlink(tmp_path / "back" / name) for name in targets} == targets


def test_the_manifest_comes_last(store: ObjectStore, tree: Path, tmp_path: Path) -> None:
    manifest = Hasher().tree(tree)
    (tree / "sub/tool").write_bytes(b"changed since")
    with pytest.raises(DigestMismatch, match="sub/tool"):
        store.put_tree(tree, manifest)
    assert not store.has(manifest.digest)
    (tree / "sub/tool").unlink()
    with pytest.raises(DataUnavailable, match="sub/tool"):
        store.put_tree(tree, manifest)
    assert not store.has(manifest.digest)


def test_a_wrong_digest_stores_nothing(
    store: ObjectStore, files: Callable[[], dict[str, bytes]], tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"content")
    with pytest.raises(DigestMismatch, match="/f"):
        store.put_file(tmp_path / "f", ABSENT)
    with pytest.raises(DataUnavailable, match="/missing"):
        store.put_file(tmp_path / "missing", ABSENT)
    assert files() == {}


def test_missing_names_every_path(store: ObjectStore, tree: Path, damage: Callable[[str, bytes | None], None]) -> None:
    manifest = Hasher().tree(tree)
    store.put_tree(tree, manifest)
    assert store.missing(manifest) == []
    damage(hashlib.sha256(b"one").hexdigest(), None)
    assert [entry.path for entry in store.missing(manifest)] == ["a.txt", "twin.txt"]


@pytest.mark.parametrize("content", [b"cOntent", None])
def test_restore_is_whole_or_nothing(
    store: ObjectStore,
    tree: Path,
    tmp_path: Path,
    damage: Callable[[str, bytes | None], None],
    content: bytes | None,
) -> None:
    manifest = Hasher().tree(tree)
    store.put_tree(tree, manifest)
    damage(hashlib.sha256(b"#!/bin/sh\n").hexdigest(), content)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(LedgerError):
        store.restore(manifest, tmp_path / "back")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_file_that_does_not_fit_is_not_restored_by_halves(store: ObjectStore, tmp_path: Path) -> None:
    content = bytes(10_000)
    manifest = Manifest.of([Entry("weights", store.put_bytes(content), len(content))])
    with files_up_to(8192), pytest.raises(Unavailable, match="File too large"):
        store.restore(manifest, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_restore_never_overwrites(store: ObjectStore, tree: Path, tmp_path: Path) -> None:
    manifest = Hasher().tree(tree)
    store.put_tree(tree, manifest)
    for taken in (tree, tree / "a.txt", tree / "absolute"):
        with pytest.raises(UsageError, match="exists already"):
            store.restore(manifest, taken)
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(UsageError, match="exists already"):
        store.restore(manifest, tmp_path / "dangling")


def test_what_cannot_be_written_is_one_clear_error(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    store = ObjectStore(str(tmp_path / "file"), scratch=tmp_path / "scratch")
    with pytest.raises(StoreUnavailable, match=str(tmp_path / "file")) as caught:
        store.put_bytes(b"x")
    assert caught.value.mend
    good = ObjectStore(str(tmp_path / "objects"), scratch=tmp_path / "scratch")
    digest = good.put_bytes(b"x")
    with pytest.raises(Unavailable, match="cannot write"):
        good.fetch_file(digest, tmp_path / "file/below")


def test_a_full_disk_leaves_no_object(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the write fails in the middle."""
    program = textwrap.dedent(
        """
        import resource, signal, sys
        from pathlib import Path
        from ledger import ObjectStore
        from ledger.errors import StoreUnavailable
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        store = ObjectStore(sys.argv[1], scratch=Path(sys.argv[2]))
        store.put_bytes(b"small")
        try:
            store.put_bytes(b"large" * 100_000)
        except StoreUnavailable as error:
            print(error.mend)
        """
    )
    home = tmp_path / "objects"
    command = [sys.executable, "-c", program, str(home), str(tmp_path / "scratch")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "full" in done.stdout
    assert [path.read_bytes() for path in home.rglob("*") if path.is_file()] == [b"small"]


@pytest.mark.parametrize("url", ["nosuchthing://x", "file://elsewhere/x"])
def test_unknown_places_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        ObjectStore(url, scratch=tmp_path)


def test_a_missing_library_is_named_without_secrets(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="libarchive") as caught:
        ObjectStore("libarchive://me:secret@x", scratch=tmp_path)
    assert "secret" not in str(caught.value)


def test_killed_writers_leave_only_whole_objects(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, sys
        from pathlib import Path
        from ledger import ObjectStore
        store = ObjectStore(sys.argv[1], scratch=Path(sys.argv[2]))
        for number in range(100_000):
            store.put_bytes(b"%d" % number * 20_000)
            print(number, flush=True)
        """
    )
    home = tmp_path / "objects"
    command = [sys.executable, "-c", program, str(home), str(tmp_path / "scratch")]
    store = ObjectStore(str(home), scratch=tmp_path / "scratch")
    for delay in (1, 4, 9):
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout
        for _ in range(delay):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=60)
        child.stdout.close()
    found = [p for p in home.glob("??/*") if p.parent.name != "tmp"]
    assert len(found) >= 9
    for path in found:
        assert store.get_bytes(path.parent.name + path.name)


def test_large_files_are_streamed(tmp_path: Path) -> None:
    """400 MB pass through a process that may not use that much memory."""
    big = tmp_path / "big"
    big.touch()
    os.truncate(big, 400_000_000)
    program = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        from ledger import Hasher, ObjectStore
        base = Path(sys.argv[1])
        store = ObjectStore(str(base / "objects"), scratch=base / "scratch")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        digest = store.put_file(base / "big")
        store.fetch_file(digest, base / "copy")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert int(done.stdout) < 50_000  # KiB
    assert (tmp_path / "copy").stat().st_size == 400_000_000


def test_thousands_of_small_files_are_quick(tmp_path: Path) -> None:
    """0.14 s to restore and 1.3 s to store 3,000 files on two cores; ten times that is a mistake."""
    root = tmp_path / "tree"
    for number in range(3000):
        path = root / f"d{number % 40}/f{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * 100)
    store = ObjectStore(str(tmp_path / "objects"), scratch=tmp_path / "scratch")
    manifest = Hasher().tree(root)
    store.put_tree(root, manifest)
    started = time.process_time()
    store.put_tree(root, manifest)
    store.restore(manifest, tmp_path / "back")
    assert time.process_time() - started < 3
    assert Hasher().tree(tmp_path / "back") == manifest


@given(content=st.binary(max_size=3000))
def test_any_bytes_come_back(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = ObjectStore("memory://any", scratch=tmp_path_factory.getbasetemp() / "scratch")
    assert store.get_bytes(store.put_bytes(content)) == content


def test_opening_a_local_store_imports_no_fsspec(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from ledger import ObjectStore; "
        f"ObjectStore({str(tmp_path)!r}, scratch=Path({str(tmp_path)!r})).put_bytes(b'x'); "
        "assert 'fsspec' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
