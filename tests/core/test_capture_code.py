"""The working tree, captured from real repositories."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ledger.objects import ObjectStore
from ledger.objects.hashing import Hasher
from ledger.record.capture.code import capture_code, changed_since
from ledger.record.capture.interpreter import Interpreter, interpreter_of

if TYPE_CHECKING:
    from ledger.events import CodeCaptured

HERE = Interpreter({}, {}, ())
IDENTITY = (
    "-c",
    "user.name=A",
    "-c",
    "user.email=a@b",
    "-c",
    "protocol.file.allow=always",
    "-c",
    "init.defaultBranch=main",
)


def git(directory: Path, *arguments: str) -> str:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | {"GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(
        ["git", *IDENTITY, *arguments], cwd=directory, env=environ, check=True, capture_output=True, text=True
    ).stdout


def write(root: Path, **files: str) -> None:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


class Desk:
    """A place to capture from, and what captures need."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = Path(os.path.realpath(tmp_path)) / "work"
        self.root.mkdir()
        self.objects = ObjectStore((tmp_path / "objects").as_uri(), scratch=tmp_path / "scratch")
        self.hasher = Hasher(tmp_path / "hashes")
        self.restored = tmp_path / "restored"

    def capture(self, directory: Path | None = None, **options: object) -> CodeCaptured:
        options = {"limit_bytes": 10**9, "interpreter": HERE} | options
        return capture_code(directory or self.root, self.objects, self.hasher, **options)  # type: ignore[arg-type]

    def names(self, code: CodeCaptured) -> set[str]:
        return {entry.path for entry in self.objects.get_manifest(code.tree).entries}

    def restore(self, code: CodeCaptured) -> Path:
        self.objects.restore(self.objects.get_manifest(code.tree), self.restored)
        return self.restored


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def repo(desk: Desk) -> Desk:
    """A repository with one commit of a.py and pkg/b.py."""
    git(desk.root, "init", "-q")
    write(desk.root, **{"a.py": "a = 1\n", "pkg/b.py": "b = 1\n", ".gitignore": "*.log\nbuild/\n"})
    git(desk.root, "add", ".")
    git(desk.root, "commit", "-qm", "one")
    return desk


def picture(root: Path) -> dict[str, tuple[str, int]]:
    """Every file below, with digest and modification time in nanoseconds."""
    return {
        str(p.relative_to(root)): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in sorted(root.rglob("*"))
        if p.is_file() and not p.is_symlink()
    }


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_exact_tree_and_not_one_byte_of_the_repository_touched(repo: Desk) -> None:
    root = repo.root
    write(root, **{"pkg/gone.py": "x", "old.py": "same content that is renamed\n" * 5, "kept.py": "1\n"})
    git(root, "add", ".")
    git(root, "commit", "-qm", "two")
    write(root, **{"kept.py": "2\n"})
    git(root, "stash", "-q")
    write(root, **{"a.py": "a = 2\n"})
    git(root, "add", "a.py")
    write(root, **{"a.py": "a = 3\n", "pkg/b.py": "b = 2\n", "new file.py": "n", "x.log": "ignored", "ü/ñ.py": "u"})
    write(root, **{"line\nbreak.py": "l", "staged.py": "s"})
    git(root, "add", "staged.py")
    (root / "pkg/gone.py").unlink()
    git(root, "mv", "old.py", "renamed.py")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("a.py")
    (root / "dangling").symlink_to("/no/such/place")
    os.utime(root / "kept.py")  # its entry in the index is stale now: `git status` would refresh it
    before = picture(root)
    stash = git(root, "stash", "list")

    code = repo.capture()

    assert picture(root) == before
    assert git(root, "stash", "list") == stash != ""
    assert code.dirty
    assert code.commit == git(root, "rev-parse", "HEAD").strip()
    assert (code.root, code.directory, code.branch, code.omitted) == (str(root), ".", "main", ())
    expected = {"a.py", "pkg/b.py", ".gitignore", "kept.py", "new file.py", "ü/ñ.py", "line\nbreak.py", "staged.py"}
    assert repo.names(code) == expected | {"renamed.py", "run.sh", "link", "dangling"}
    rebuilt = repo.restore(code)
    assert (rebuilt / "a.py").read_text() == "a = 3\n"
    assert os.access(rebuilt / "run.sh", os.X_OK)
    assert not os.access(rebuilt / "a.py", os.X_OK)
    assert os.readlink(rebuilt / "dangling") == "/no/such/place"
    assert contents(rebuilt) == {k: v for k, v in contents(root).items() if k != "x.log" and not k.startswith(".git/")}


def test_the_same_tree_is_the_same_digest(repo: Desk) -> None:
    first = repo.capture()
    write(repo.root, **{"a.py": "a = 2\n"})
    changed = repo.capture()
    write(repo.root, **{"a.py": "a = 1\n"})
    assert first.tree == repo.capture().tree != changed.tree
    assert (first.dirty, changed.dirty) == (False, True)
    assert (first.files, first.bytes) == (3, len("a = 1\n" + "b = 1\n" + "*.log\nbuild/\n"))


def test_from_a_directory_within(repo: Desk) -> None:
    code = repo.capture(repo.root / "pkg", entry_point="b.py")
    assert (code.root, code.directory, code.entry_point) == (str(repo.root), "pkg", "pkg/b.py")
    assert "a.py" in repo.names(code)


def test_from_elsewhere_with_the_entry_point_in_the_repository(repo: Desk, tmp_path: Path) -> None:
    code = repo.capture(tmp_path, entry_point="work/pkg/b.py")
    assert (code.root, code.directory, code.entry_point) == (str(repo.root), "..", "pkg/b.py")
    assert code.commit is not None


def test_a_repository_without_a_commit(desk: Desk) -> None:
    git(desk.root, "init", "-q")
    write(desk.root, **{"a.py": "1"})
    code = desk.capture()
    assert (code.commit, code.branch, code.dirty, desk.names(code)) == (None, "main", True, {"a.py"})


def test_a_detached_head(repo: Desk) -> None:
    git(repo.root, "checkout", "-q", "--detach")
    code = repo.capture()
    assert code.branch is None
    assert code.commit is not None


def test_a_linked_worktree(repo: Desk) -> None:
    other = repo.root.parent / "other"
    git(repo.root, "worktree", "add", "-q", "-b", "side", str(other))
    write(other, **{"only_here.py": "1"})
    code = repo.capture(other)
    assert (code.root, code.branch) == (str(other), "side")
    assert "only_here.py" in repo.names(code)


def test_submodules_and_repositories_within(repo: Desk, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    git(library, "init", "-q")
    write(library, **{"lib.py": "1", ".gitignore": "*.log"})
    git(library, "add", ".")
    git(library, "commit", "-qm", "lib")
    git(repo.root, "submodule", "add", "-q", str(library), "vendor/lib")
    git(repo.root, "submodule", "add", "-q", str(library), "vendor/empty")
    git(repo.root, "commit", "-qm", "subs")
    git(repo.root, "submodule", "--quiet", "deinit", "-f", "vendor/empty")
    subprocess.run(["git", "clone", "-q", str(library), str(repo.root / "cloned")], check=True, capture_output=True)
    clean = repo.capture(exclude=[repo.root / "cloned"])
    assert not clean.dirty
    write(
        repo.root,
        **{"vendor/lib/lib.py": "2", "vendor/lib/new.py": "n", "vendor/lib/x.log": "no", "cloned/more.py": "m"},
    )
    code = repo.capture()
    within = {"vendor/lib/lib.py", "vendor/lib/new.py", "vendor/lib/.gitignore", "vendor/empty"}
    assert repo.names(code) >= within | {"cloned/lib.py", "cloned/more.py"}
    assert "vendor/lib/x.log" not in repo.names(code)
    assert not any("/.git" in n and not n.endswith(".gitignore") for n in repo.names(code))
    assert code.dirty
    assert (repo.restore(code) / "vendor/lib/lib.py").read_text() == "2"


def test_a_tracked_folder_that_became_a_link(repo: Desk, tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    (repo.root / "pkg/b.py").rename(tmp_path / "moved/b.py")
    (repo.root / "pkg").rmdir()
    (repo.root / "pkg").symlink_to(tmp_path / "moved")
    code = repo.capture()
    assert repo.names(code) == {"a.py", ".gitignore", "pkg"}
    assert os.readlink(repo.restore(code) / "pkg") == str(tmp_path / "moved")


def test_sparse_checkouts_and_files_with_holes(repo: Desk) -> None:
    git(repo.root, "sparse-checkout", "set", "--no-cone", "/a.py", "/.gitignore")
    with (repo.root / "holes.bin").open("wb") as stream:
        stream.truncate(5_000_000)
    code = repo.capture()
    assert repo.names(code) == {"a.py", ".gitignore", "holes.bin"}
    assert (repo.restore(code) / "holes.bin").stat().st_size == 5_000_000


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://user:hunter22@github.com/a/b.git", "https://github.com/a/b.git"),
        ("https://ghp_0123456789abcdefghijABCDEFGHIJ012345@github.com/a/b", "https://github.com/a/b"),
        ("https://host/a/b?private_token=hunter22", "https://host/a/b?private_token=[withheld]"),
        ("git@github.com:a/b.git", "git@github.com:a/b.git"),
        ("ssh://git@github.com/a/b.git", "ssh://git@github.com/a/b.git"),
        ("/srv/git/b.git", "/srv/git/b.git"),
    ],
)
def test_the_remote_is_named_without_credentials(repo: Desk, url: str, public: str) -> None:
    git(repo.root, "remote", "add", "elsewhere", "/nowhere")
    assert repo.capture().repository == "/nowhere"
    git(repo.root, "remote", "add", "origin", url)
    assert repo.capture().repository == public


def test_variables_of_a_hook_do_not_lead_astray(repo: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert repo.names(repo.capture()) == {"a.py", "pkg/b.py", ".gitignore"}
    assert not (tmp_path / "index").exists()


# --- what is left out, and said


def test_over_the_limit_the_largest_go_first(repo: Desk) -> None:
    write(repo.root, **{"big.bin": "x" * 5000, "bigger.bin": "y" * 9000, "small.bin": "z" * 100})
    code = repo.capture(limit_bytes=5500)
    assert [(o.path, o.bytes) for o in code.omitted] == [("bigger.bin", 9000)]
    assert "capture.code_limit_mb in ledger.toml" in code.omitted[0].reason
    assert repo.names(code) == {"a.py", "pkg/b.py", ".gitignore", "big.bin", "small.bin"}
    assert code.dirty


def test_secrets_by_name_are_withheld_unless_tracked(repo: Desk) -> None:
    secret = {
        ".env": "K=1",
        ".env.local": "K=1",
        "conf/server.pem": "p",
        "id_rsa": "k",
        ".netrc": "n",
        "credentials": "c",
    }
    write(repo.root, **secret, **{".env.example": "K=", "credentials.json": "{}", "tracked.pem": "public"})
    git(repo.root, "add", "-f", "tracked.pem")
    code = repo.capture()
    assert {o.path for o in code.omitted} == {*secret, "credentials.json"}
    assert {o.reason for o in code.omitted} == {"withheld: looks like a secret"}
    assert {"tracked.pem", ".env.example"} <= repo.names(code)


def test_excluded_paths_and_the_ledger_itself_are_left_out_silently(repo: Desk) -> None:
    write(repo.root, **{"data/train.csv": "1", "data/note.md": "n", ".ledger/ledger.db": "x", "__pycache__/a.pyc": "x"})
    write(repo.root, **{"my ledger/objects/aa": "o"})
    code = repo.capture(exclude=[repo.root / "data/train.csv", repo.root / "my ledger", Path("/somewhere/else")])
    assert repo.names(code) == {"a.py", "pkg/b.py", ".gitignore", "data/note.md"}
    assert code.omitted == ()
    (repo.root / "data/note.md").unlink()
    assert not repo.capture(exclude=[repo.root / "data/train.csv", repo.root / "my ledger"]).dirty


def test_data_that_are_the_whole_directory_do_not_hide_the_code(repo: Desk) -> None:
    assert "a.py" in repo.names(repo.capture(exclude=[repo.root]))


def test_an_untracked_virtual_environment_is_named_not_kept(repo: Desk) -> None:
    venv.create(repo.root / "env", with_pip=False)
    code = repo.capture()
    assert [(o.path, "virtual environment" in o.reason) for o in code.omitted] == [("env", True)]
    assert repo.names(code) == {"a.py", "pkg/b.py", ".gitignore"}


def test_names_that_no_other_machine_could_hold_and_things_that_are_no_files(repo: Desk) -> None:
    (repo.root / "back\\slash.py").write_text("1")
    with open(os.fsencode(repo.root) + b"/latin-\xe9.py", "wb") as stream:
        stream.write(b"1")
    (repo.root / "a.py").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(repo.root / "a.py"))
        code = repo.capture()
    assert {o.path for o in code.omitted} == {"back\\slash.py", "latin-\\xe9.py", "a.py"}
    assert repo.names(code) == {"pkg/b.py", ".gitignore"}


def test_a_file_that_is_written_all_the_time_is_named_and_the_rest_is_kept(repo: Desk) -> None:
    log = repo.root / "console.txt"
    log.write_bytes(b"x" * 30_000_000)  # so long in reading that the writer gets its turn on a busy machine, too
    done = threading.Event()

    def write_on() -> None:
        with log.open("ab", buffering=0) as stream:
            while not done.is_set():
                stream.write(b"more\n")

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        code = repo.capture()
    finally:
        done.set()
        writer.join()
    assert [o.path for o in code.omitted] == ["console.txt"]
    assert repo.names(code) == {"a.py", "pkg/b.py", ".gitignore"}
    assert repo.objects.missing(repo.objects.get_manifest(code.tree)) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_named(repo: Desk) -> None:
    (repo.root / "a.py").chmod(0)
    assert [o.path for o in repo.capture().omitted] == ["a.py"]


# --- outside git


def test_a_plain_directory(desk: Desk) -> None:
    write(desk.root, **{"a.py": "1", "sub/b.py": "2", "__pycache__/a.pyc": "x", "node_modules/m.js": "x", ".hg/x": "x"})
    write(desk.root, **{".venv/lib/x.py": "x", ".ledger/ledger.db": "x", ".hidden": "kept", ".env": "K=1"})
    venv.create(desk.root / "other-env", with_pip=False)
    (desk.root / "empty").mkdir()
    (desk.root / "folder").symlink_to("sub")
    code = desk.capture()
    assert desk.names(code) == {"a.py", "sub/b.py", ".hidden", "empty", "folder"}
    assert (code.repository, code.commit, code.branch, code.dirty) == (None, None, None, False)
    assert {o.path for o in code.omitted} == {".env", "other-env"}


def test_outside_git_the_entry_point_says_where(desk: Desk) -> None:
    write(desk.root, **{"private.txt": "p", "project/train.py": "1"})
    code = desk.capture(entry_point="project/train.py")
    assert desk.names(code) == {"train.py"}
    assert (code.root, code.directory, code.entry_point) == (str(desk.root / "project"), "..", "train.py")
    assert desk.capture(entry_point="package.module").root == str(desk.root)


def test_a_command_on_the_path_is_no_entry_point(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    write(desk.root, **{"a.py": "1"})
    assert desk.capture(entry_point="/bin/sh").root == str(desk.root)


def test_without_git_it_is_a_plain_directory_with_that_said(
    repo: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code = repo.capture()
    assert repo.names(code) == {"a.py", "pkg/b.py", ".gitignore"}
    assert code.commit is None
    assert [(o.path, "git is not installed" in o.reason) for o in code.omitted] == [(".git", True)]


def test_a_broken_repository_is_a_plain_directory_with_that_said(repo: Desk) -> None:
    (repo.root / ".git/HEAD").write_text("nonsense")
    code = repo.capture()
    assert "a.py" in repo.names(code)
    assert "not a git repository" in code.omitted[0].reason


# --- what Python imports from


def test_python_path_of_editable_installs(repo: Desk, tmp_path: Path) -> None:
    env = repo.root / ".venv"
    venv.create(env, with_pip=False)
    site = next(env.glob("lib/python*/site-packages"))
    for name in ("flat", "mapped/code", "told/src", "variable"):
        (repo.root / name).mkdir(parents=True)
    (site / "flat.pth").write_text(f"# comment\nimport sys\n{repo.root / 'flat'}\n/usr\n")
    (site / "__editable___mapped_1_0_finder.py").write_text(
        f"MAPPING: dict[str, str] = {{'mapped': '{repo.root / 'mapped/code/mapped'}'}}\nNAMESPACES = {{}}\n"
    )
    info = site / "told-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Told.Thing\nVersion: 1.0\n")
    (info / "direct_url.json").write_text(f'{{"dir_info": {{"editable": true}}, "url": "file://{repo.root}/told"}}')
    environ = {"PYTHONPATH": f"variable{os.pathsep}/usr/lib"}
    found = interpreter_of([str(env / "bin/python"), "x.py"], directory=repo.root, environ=environ)
    assert found.failure is None
    assert found.packages == {"told-thing": "1.0"}
    assert set(repo.capture(interpreter=found).python_path) == {"flat", "mapped/code", "told/src", "variable"}


def test_python_path_of_this_process(repo: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(repo.root / "elsewhere")
    monkeypatch.setattr(sys, "path", ["", str(repo.root / "pkg"), *sys.path[2:]])
    assert repo.capture(interpreter=None).python_path == ("pkg",)


# --- what has changed since


def test_changed_since(repo: Desk) -> None:
    (repo.root / "link").symlink_to("a.py")
    (repo.root / "run.sh").write_text("x")
    code = repo.capture()
    assert changed_since(code, repo.objects, repo.hasher) == []
    write(repo.root, **{"a.py": "a = 2\n", "new.py": "not counted"})
    (repo.root / "pkg/b.py").unlink()
    (repo.root / "run.sh").chmod(0o755)
    (repo.root / "link").unlink()
    (repo.root / "link").symlink_to("run.sh")
    expected = ["changed a.py", "changed link", "missing pkg/b.py", "changed run.sh"]
    assert changed_since(code, repo.objects, repo.hasher) == expected
