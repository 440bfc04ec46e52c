"""Hashing reads every byte once, and not again until something changed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ledger import Entry, Hasher
from ledger.errors import DataUnavailable, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator

_opened: list[str] | None = None


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event == "open":
        _opened.append(str(arguments[0]))


sys.addaudithook(_audit)  # for good: Python has no way to take a hook back


@contextlib.contextmanager
def files_read(below: Path) -> Iterator[list[str]]:
    """Names of the files below a directory that Python opened meanwhile."""
    global _opened
    names: list[str] = []
    _opened = []
    try:
        yield names
    finally:
        names += [os.path.relpath(path, below) for path in _opened if path.startswith(f"{below}/")]
        _opened = None


def later() -> float:
    """A clock that is past the time in which a change might leave no trace."""
    return time.time() + 10


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "a").write_bytes(b"one")
    (root / "sub/b").write_bytes(b"two")
    return root


def entry(path: str, content: bytes, mode: str = "file") -> Entry:
    return Entry(path, hashlib.sha256(content).hexdigest(), len(content), mode)  # type: ignore[arg-type]


def test_every_name_and_mode(tree: Path) -> None:
    (tree / "run.sh").write_bytes(b"#!")
    (tree / "run.sh").chmod(0o755)
    (tree / "empty").mkdir()
    (tree / "nothing").write_bytes(b"")
    (tree / "sub/l").symlink_to("../a")
    assert Hasher().tree(tree).entries == (
        entry("a", b"one"),
        entry("empty", b"", "directory"),
        entry("nothing", b""),
        entry("run.sh", b"#!", "executable"),
        entry("sub/b", b"two"),
        entry("sub/l", b"../a", "link"),
    )


def test_a_single_file(tree: Path) -> None:
    assert Hasher().tree(tree / "a").entries == (entry(".", b"one"),)
    assert Hasher().file(tree / "a") == entry(".", b"one")
    assert Hasher().files(tree, ["sub/b", "a"]) == [entry("sub/b", b"two"), entry("a", b"one")]


def test_excluded_subtrees_are_left_out(tree: Path) -> None:
    assert [e.path for e in Hasher().tree(tree, exclude=["sub"]).entries] == ["a"]
    assert [e.path for e in Hasher().tree(tree, exclude=["sub/b", "b"]).entries] == ["a"]


def test_what_did_not_change_is_not_read_again(tree: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache/hashes"
    with files_read(tree) as first:
        manifest = Hasher(cache, clock=later).tree(tree)
    with files_read(tree) as second:
        assert Hasher(cache, clock=later).tree(tree) == manifest
    assert sorted(first) == ["a", "sub/b"]
    assert second == []
    (tree / "a").write_bytes(b"two")
    with files_read(tree) as third:
        assert entry("a", b"two") in Hasher(cache, clock=later).tree(tree).entries
    assert third == ["a"]


def test_a_change_that_sets_the_time_back_is_seen(tree: Path, tmp_path: Path) -> None:
    hasher = Hasher(tmp_path / "cache", clock=later)
    before = hasher.tree(tree)
    stamp = (tree / "a").stat()
    (tree / "a").write_bytes(b"ONE")
    os.utime(tree / "a", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert before.changes(hasher.tree(tree)) == ["changed a"]


def test_a_replaced_file_is_seen(tree: Path, tmp_path: Path) -> None:
    hasher = Hasher(tmp_path / "cache", clock=later)
    before = hasher.tree(tree)
    (tree / "new").write_bytes(b"ONE")
    (tree / "new").replace(tree / "a")
    assert before.changes(hasher.tree(tree)) == ["changed a"]


def test_a_file_touched_just_now_is_not_remembered(tree: Path, tmp_path: Path) -> None:
    """Git's racy entry: a second write within one tick of the clock would leave the same times."""
    cache = tmp_path / "cache"
    Hasher(cache).tree(tree)
    with files_read(tree) as again:
        Hasher(cache).tree(tree)
    assert sorted(again) == ["a", "sub/b"]


def test_a_file_whose_time_is_the_moment_of_reading_is_not_remembered(tree: Path, tmp_path: Path) -> None:
    """As on a server whose clock is ahead of ours."""
    moment = time.time() + 10
    os.utime(tree / "a", (moment + 1, moment + 1))
    hasher = Hasher(tmp_path / "cache", clock=lambda: moment)
    hasher.tree(tree)
    with files_read(tree) as again:
        hasher.tree(tree)
    assert again == ["a"]


def test_the_cache_tells_files_apart(tree: Path, tmp_path: Path) -> None:
    hasher = Hasher(tmp_path / "cache", clock=later)
    hasher.tree(tree)
    other = tmp_path / "other"
    other.mkdir()
    os.link(tree / "a", other / "a")
    (other / "b").write_bytes(b"TWO")
    assert hasher.tree(other).entries == (entry("a", b"one"), entry("b", b"TWO"))


@pytest.mark.parametrize("damage", ["noise", "truncated", "empty", "overwritten pages", "directory", "other schema"])
def test_a_damaged_cache_is_never_an_error(tree: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    for number in range(300):
        (tree / f"{number}").write_bytes(b"%d" % number)
    expected = Hasher(cache, clock=later).tree(tree)
    size = cache.stat().st_size
    if damage == "noise":
        cache.write_bytes(b"no database" * 1000)
    elif damage == "truncated":
        os.truncate(cache, size // 2)
    elif damage == "empty":
        os.truncate(cache, 0)
    elif damage == "overwritten pages":
        with cache.open("r+b") as stream:
            stream.seek(4096)
            stream.write(b"\xff" * (size - 4096))
    elif damage == "directory":
        cache.unlink()
        cache.mkdir()
    else:
        cache.unlink()
        with contextlib.closing(sqlite3.connect(cache)) as connection:
            connection.execute("CREATE TABLE digests (something TEXT)")
    assert Hasher(cache, clock=later).tree(tree) == expected
    assert Hasher(cache, clock=later).tree(tree) == expected
    if damage in ("noise", "truncated", "overwritten pages"):  # thrown away and made anew
        with files_read(tree) as read:
            Hasher(cache, clock=later).tree(tree)
        assert read == []


def test_a_locked_cache_is_done_without(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    expected = Hasher(cache, clock=later).tree(tree)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda file, timeout: connect(file, timeout=0.01))
    (tree / "a").touch()
    with contextlib.closing(connect(cache, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert Hasher(cache, clock=later).tree(tree) == expected


def test_processes_share_a_cache(tree: Path, tmp_path: Path) -> None:
    for number in range(200):
        (tree / f"{number}").write_bytes(b"%d" % number)
    program = (
        "import sys, time; from pathlib import Path; from ledger import Hasher; "
        "h = Hasher(Path(sys.argv[1]), clock=lambda: time.time() + 10); "
        "print({h.tree(Path(sys.argv[2])).digest for _ in range(5)})"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "cache"), str(tree)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {child.communicate(timeout=60)[0].strip() for child in children}
    assert [child.returncode for child in children] == [0, 0, 0]
    assert answers == {str({Hasher().tree(tree).digest})}
    with files_read(tree) as read:
        Hasher(tmp_path / "cache", clock=later).tree(tree)
    assert read == []


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    growing = tmp_path / "growing"
    growing.touch()
    os.truncate(growing, 256 << 20)  # a hole: takes long to read, no room on the disk
    stop = threading.Event()

    def write() -> None:
        with growing.open("r+b", buffering=0) as stream:
            while not stop.is_set():
                stream.seek(0)
                stream.write(b"x")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(DataUnavailable, match="growing changed while") as caught:
            Hasher().file(growing)
    finally:
        stop.set()
        writer.join()
    assert caught.value.mend


@pytest.mark.parametrize(
    ("place", "target", "kept"),
    [
        ("l", "a", "a"),
        ("l", "./sub/../a", "./sub/../a"),
        ("l", "sub", "sub"),
        ("l", ".", "."),
        ("sub/l", "..", ".."),
        ("sub/l", "b", "b"),
        ("l", "ROOT/sub/b", "sub/b"),
        ("sub/l", "ROOT/a", "../a"),
        ("l", "../tree/a", "a"),
    ],
)
def test_a_link_inside_is_kept(tree: Path, place: str, target: str, kept: str) -> None:
    (tree / place).symlink_to(target.replace("ROOT", str(tree)))
    assert entry(place, kept.encode(), "link") in Hasher().tree(tree).entries


def test_a_link_that_leaves_is_followed(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"far")
    (outside / "y").symlink_to("x")
    (outside / "home").symlink_to(tree / "a")
    (tree / "file").symlink_to(outside / "x")
    (tree / "directory").symlink_to("../outside")
    assert Hasher().tree(tree).entries == (
        entry("a", b"one"),
        entry("directory/home", b"../a", "link"),
        entry("directory/x", b"far"),
        entry("directory/y", b"far"),
        entry("file", b"far"),
        entry("sub/b", b"two"),
    )


def test_links_inside_are_followed_when_asked(tree: Path) -> None:
    (tree / "l").symlink_to("sub")
    assert entry("l/b", b"two") in Hasher().tree(tree, follow=True).entries
    (tree / "sub/up").symlink_to("..")
    with pytest.raises(DataUnavailable, match="loop"):
        Hasher().tree(tree, follow=True)


@pytest.mark.parametrize(
    ("target", "reason"),
    [("nowhere", "leads nowhere"), ("l", "leads nowhere"), ("../nowhere", "leads nowhere"), ("..", "loop")],
)
def test_bad_links_are_named(tree: Path, target: str, reason: str) -> None:
    (tree / "l").symlink_to(target)
    with pytest.raises(DataUnavailable, match=reason) as caught:
        Hasher().tree(tree)
    assert "/l" in str(caught.value)
    assert caught.value.mend


def test_what_has_no_content_is_named(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with pytest.raises(DataUnavailable, match="/pipe"):
        Hasher().tree(tree)
    with pytest.raises(DataUnavailable, match="/pipe"):
        Hasher().file(tree / "pipe")
    (tree / "pipe").unlink()
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        here = os.getcwd()
        os.chdir(tree)  # the path of a socket is at most 107 bytes long
        listening.bind("socket")
        os.chdir(here)
        with pytest.raises(DataUnavailable, match="/socket"):
            Hasher().tree(tree)


def test_what_cannot_be_read_is_named(tree: Path) -> None:
    with pytest.raises(DataUnavailable, match="/missing"):
        Hasher().tree(tree / "missing")
    with pytest.raises(DataUnavailable, match="/missing"):
        Hasher().file(tree / "missing")


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs Linux")
def test_what_fails_in_mid_read_is_named(tree: Path) -> None:
    (tree / "broken").symlink_to("/proc/self/mem")  # opens like a file; its first page cannot be read, even by root
    with pytest.raises(DataUnavailable, match=r"cannot read .*/broken"):
        Hasher().tree(tree)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["a", "sub"])
def test_what_may_not_be_read_is_named(tree: Path, name: str) -> None:
    (tree / name).chmod(0)
    try:
        with pytest.raises(DataUnavailable, match=f"/{name}"):
            Hasher().tree(tree)
    finally:
        (tree / name).chmod(0o700)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"back\\slash"])
def test_names_that_do_not_travel_are_refused(tree: Path, name: bytes) -> None:
    (Path(os.fsdecode(os.fsencode(tree) + b"/" + name))).touch()
    with pytest.raises(DataUnavailable) as caught:
        Hasher().tree(tree)
    assert caught.value.mend
    str(caught.value).encode()


def test_names_that_look_alike_stay_apart(tree: Path) -> None:
    for name in ("e\N{COMBINING ACUTE ACCENT}", "\N{LATIN SMALL LETTER E WITH ACUTE}", "new\nline", " "):
        (tree / name).touch()
    try:
        names = {e.path for e in Hasher().tree(tree).entries}
    except IntegrityError:
        pytest.fail("a name that a manifest can hold was refused")
    assert len(names) == 6
