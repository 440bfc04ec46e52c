"""Data that DVC tracks: real repositories, caches, remotes on disk and on S3, and a repository behind HTTP."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dvc.repo import Repo as Dvc
from hypothesis import given
from hypothesis import strategies as st

import ledger_dvc
from ledger import Hasher, ObjectStore, Settings
from ledger.errors import DataUnavailable, LedgerError, PluginUnavailable, UsageError
from ledger.settings import in_memory
from ledger.testing.data_sources import BaseDataSourceTests
from ledger_dvc.library import require
from ledger_dvc.source import DvcSource, UncommittedData
from ledger_dvc.uris import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.hooks.ports import DataSource

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # between DVC and a library of its own


def open_source(settings: Settings) -> DvcSource:
    objects = ObjectStore(settings.objects, scratch=settings.scratch)
    source = ledger_dvc.open_data_source("dvc://x", settings, objects)
    assert isinstance(source, DvcSource)
    return source


@pytest.fixture(autouse=True)
def _nobodys_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What DVC keeps for a user or a machine is this test's own."""
    for name in ("SITE_CACHE_DIR", "GLOBAL_CONFIG_DIR", "SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(f"DVC_{name}", str(tmp_path / f".{name.lower()}"))


@pytest.fixture
def source(tmp_path: Path) -> DvcSource:
    return open_source(in_memory(tmp_path / "ledger"))


@dataclass
class Repo:
    """A user's repository."""

    root: Path

    def git(self, *words: str) -> str:
        user = ["-c", "user.name=A User", "-c", "user.email=user@example.org"]
        return subprocess.run(
            ["git", *user, *words], cwd=self.root, check=True, capture_output=True, text=True
        ).stdout.strip()

    def write(self, **files: str | None) -> None:
        """Files below ``data``; None removes one."""
        for name, text in files.items():
            path = self.root / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink() if text is None else path.write_text(text)

    def add(self, *paths: str) -> None:
        with Dvc(str(self.root)) as dvc:
            dvc.add([str(self.root / path) for path in paths])

    def commit(self, *paths: str) -> str:
        """Track paths, ``data`` by default, and commit; the id of the commit."""
        self.add(*(paths or ("data",)))
        self.git("add", ".")
        self.git("commit", "--quiet", "--allow-empty", "--message", "work")
        return self.git("rev-parse", "HEAD")

    def use_remote(self, url: str, **options: str) -> None:
        with Dvc(str(self.root)) as dvc, dvc.config.edit("repo") as config:
            config["core"]["remote"] = "store"
            config["remote"]["store"] = {"url": url, **options}

    def push(self) -> None:
        with Dvc(str(self.root)) as dvc:
            dvc.push()

    def lose_cache(self) -> None:
        shutil.rmtree(self.root / ".dvc/cache")

    def uri(self, path: str, rev: str | None = "main") -> str:
        return f"dvc+{self.root.as_uri()}//{path}" + (f"@{rev}" if rev else "")

    def state(self) -> object:
        """What must not change because somebody reads: branch, index, and every file but DVC's own."""
        own = self.root / ".dvc"
        files = {path: path.read_bytes() for path in self.root.rglob("*") if path.is_file() and own not in path.parents}
        index = self.git("ls-files", "--stage", "--debug")
        return self.git("symbolic-ref", "HEAD"), self.git("show-ref"), index, self.git("status", "--short"), len(files)


def new_repo(root: Path) -> Repo:
    root.mkdir(parents=True)
    repo = Repo(root)
    repo.git("init", "--quiet", "--initial-branch", "main")
    Dvc.init(str(root)).close()
    return repo


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """One commit, with ``data/a`` and ``data/sub/b`` in DVC and ``plain.txt`` in git."""
    repo = new_repo(tmp_path / "a repo")
    repo.write(a="one\n", **{"sub/b": "two\n"})
    (repo.root / "plain.txt").write_text("plain\n")
    repo.commit()
    return repo


def content(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


class TestFromTheCache(BaseDataSourceTests):
    malformed_uri = "dvc+ftp://host/repo//data@main"

    @pytest.fixture
    def source(self, tmp_path: Path, home: Repo) -> DataSource:
        self._missing = home.uri("nowhere")
        return open_source(in_memory(tmp_path / "ledger"))

    @pytest.fixture
    def home(self, tmp_path: Path) -> Repo:
        repo = new_repo(tmp_path / "repo")
        repo.write(x="something else")
        repo.commit()
        return repo

    @pytest.fixture
    def publish(self, home: Repo) -> Callable[[Path], str]:
        return lambda local: self.track(home, local)

    def track(self, home: Repo, local: Path) -> str:
        there = home.root / "sets" / local.name
        shutil.rmtree(there, ignore_errors=True)
        there.parent.mkdir(exist_ok=True)
        shutil.copytree(local, there) if local.is_dir() else shutil.copy(local, there)
        home.commit(f"sets/{local.name}")
        return home.uri(f"sets/{local.name}")

    @property
    def missing_uri(self) -> str:
        return self._missing


@pytest.mark.slow
class TestFromARemote(TestFromTheCache):
    @pytest.fixture
    def publish(self, home: Repo, tmp_path: Path) -> Callable[[Path], str]:
        return lambda local: self.push(home, local, str(tmp_path / "remote"))

    def push(self, home: Repo, local: Path, remote: str, **options: str) -> str:
        home.use_remote(remote, **options)
        uri = self.track(home, local)
        home.push()
        home.lose_cache()
        shutil.rmtree(home.root / "sets" / local.name, ignore_errors=True)
        return uri


class TestFromS3(TestFromARemote):
    @pytest.fixture
    def publish(self, home: Repo, s3_url: str) -> Callable[[Path], str]:
        return lambda local: self.push(home, local, s3_url, endpointurl=os.environ["AWS_ENDPOINT_URL"])


# --- what a pin means --------------------------------------------------------------------------------------------


def test_every_kind_of_revision_becomes_a_commit(source: DvcSource, repo: Repo) -> None:
    first = repo.git("rev-parse", "HEAD")
    repo.git("tag", "light")
    repo.git("tag", "--annotate", "heavy", "--message", "x")
    repo.git("branch", "feature/x")
    repo.write(a="changed\n")
    second = repo.commit()
    for rev, commit in {
        "main": second,
        "HEAD": second,
        None: second,
        "HEAD~1": first,
        "light": first,
        "heavy": first,
        "feature/x": first,
        first: first,
        second[:10]: second,
    }.items():
        assert source.pin(repo.uri("data", rev)).commit == commit


def test_the_commit_and_dvcs_hashes_are_on_record(source: DvcSource, repo: Repo) -> None:
    commit = source.pin(repo.uri("data"))
    assert commit.path == f"dvc+{repo.root.as_uri()}//data@{commit.commit}"
    pointer = (repo.root / "data.dvc").read_text()
    assert commit.details["md5"]["data"] in pointer
    assert commit.details["message"] == "work"
    assert commit.details["author"] == "A User <user@example.org>"
    assert commit.details["rev"] == "main"
    assert source.pin(repo.uri("data/sub/b")).details["md5"] == commit.details["md5"]
    assert source.pin(repo.uri("plain.txt")).details["md5"] == {}


def test_outputs_of_a_pipeline_are_pinned(
    source: DvcSource, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo.root)
    with Dvc(str(repo.root)) as dvc:
        dvc.stage.add(name="make", cmd="mkdir out && echo made > out/x", outs=["out"])
        dvc.reproduce()
    repo.git("add", ".")
    repo.git("commit", "--quiet", "--message", "made")
    commit = source.pin(repo.uri("out"))
    assert commit.details["md5"]["out"] in (repo.root / "dvc.lock").read_text()
    source.fetch(commit, tmp_path / "fetched")
    assert content(tmp_path / "fetched") == {"x": "made\n"}


def test_outputs_whose_folder_is_not_checked_out_are_no_change(
    source: DvcSource, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo.root)
    with Dvc(str(repo.root)) as dvc:
        dvc.stage.add(name="make", cmd="mkdir -p deep/out && echo made > deep/out/x", outs=["deep/out/x"])
        dvc.reproduce()
    repo.git("add", ".")
    repo.git("commit", "--quiet", "--message", "made")
    shutil.rmtree(repo.root / "deep/out")
    repo.git("rm", "--quiet", "--cached", "deep/out/.gitignore")
    repo.git("commit", "--quiet", "--message", "of DVC alone")
    assert source.pin(repo.uri("deep/out/x", None)).files == 1


def test_a_folder_with_files_of_git_and_of_dvc(source: DvcSource, repo: Repo, tmp_path: Path) -> None:
    mixed = repo.root / "mixed"
    (mixed / "many").mkdir(parents=True)
    for number in range(100):
        (mixed / f"many/{number}").write_text(f"of git {number}")
    (mixed / "run.sh").write_text("echo\n")
    (mixed / "run.sh").chmod(0o755)
    (mixed / "big").write_text("of dvc")
    repo.commit("mixed/big")
    commit = source.pin(repo.uri("mixed"))
    source.fetch(commit, tmp_path / "fetched")
    found = content(tmp_path / "fetched")
    expected = {"run.sh": "echo\n", "big": "of dvc", ".gitignore": "/big\n"}
    assert found == expected | {f"many/{number}": f"of git {number}" for number in range(100)}
    assert os.access(tmp_path / "fetched/run.sh", os.X_OK)
    assert not os.access(tmp_path / "fetched/big", os.X_OK)
    assert Hasher().tree(tmp_path / "fetched").digest == commit.digest
    assert source.check(commit).available


def test_dvc_below_the_root_of_the_repository(source: DvcSource, repo: Repo, tmp_path: Path) -> None:
    below = repo.root / "team/project"
    below.mkdir(parents=True)
    Dvc.init(str(below), subdir=True).close()
    (below / "set").write_text("of the team")
    with Dvc(str(below)) as dvc:
        dvc.add([str(below / "set")])
    repo.git("add", ".")
    repo.git("commit", "--quiet", "--message", "team")
    commit = source.pin(repo.uri("team/project/set", None))
    assert list(commit.details["md5"]) == ["team/project/set"]
    source.fetch(commit, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_text() == "of the team"
    (below / "set").write_text("changed")
    with pytest.raises(UncommittedData):
        source.pin(repo.uri("team/project/set", None))


def test_the_repository_of_the_working_directory(
    source: DvcSource, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repo.root / "src").mkdir()
    monkeypatch.chdir(repo.root / "src")
    commit = source.pin("dvc://data@main")
    assert commit.path == f"dvc+{repo.root.as_uri()}//data@{commit.commit}"
    monkeypatch.chdir(tmp_path)
    source.fetch(commit, tmp_path / "fetched")
    assert content(tmp_path / "fetched") == {"a": "one\n", "sub/b": "two\n"}


def test_another_clone_serves_where_the_first_is_gone(
    source: DvcSource, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = source.pin(repo.uri("data"))
    repo.root.rename(tmp_path / "moved")
    assert "no git repository" in source.check(commit).reason
    monkeypatch.chdir(tmp_path / "moved")
    assert source.check(commit).available
    source.fetch(commit, tmp_path / "fetched")
    assert content(tmp_path / "fetched") == {"a": "one\n", "sub/b": "two\n"}


def test_reading_moves_nothing_of_the_users(source: DvcSource, repo: Repo, tmp_path: Path) -> None:
    repo.git("checkout", "--quiet", "-b", "work")
    repo.use_remote(str(tmp_path / "remote"))
    repo.write(a="changed\n")
    repo.commit()
    repo.push()
    repo.lose_cache()
    repo.write(a="not even added\n", new="new\n")
    (repo.root / "plain.txt").write_text("staged\n")
    repo.git("add", "plain.txt")
    (repo.root / "plain.txt").write_text("not staged\n")
    before = repo.state()
    commit = source.pin(repo.uri("data", "HEAD"))
    source.check(commit)
    source.fetch(commit, tmp_path / "fetched")
    filesystem, path = source.open(commit)
    assert filesystem.cat_file(f"{path}/a") == b"changed\n"
    with pytest.raises(UncommittedData):
        source.pin(repo.uri("data", None))
    assert repo.state() == before
    assert content(tmp_path / "fetched") == {"a": "changed\n", "sub/b": "two\n"}


def test_what_is_opened_can_be_sent_to_another_process(source: DvcSource, repo: Repo) -> None:
    filesystem, path = source.open(source.pin(repo.uri("data")))
    again = pickle.loads(pickle.dumps(filesystem))
    assert sorted(again.find(path)) == ["/data/a", "/data/sub/b"]
    with pytest.raises(OSError, match="Read-only"):
        again.open(f"{path}/a", "wb")


# --- without a revision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda repo: repo.write(a="changed\n"), "data"),
        (lambda repo: repo.write(new="new\n"), "data"),
        (lambda repo: (repo.write(a="changed\n"), repo.add("data")), "data"),
    ],
)
def test_uncommitted_data_are_refused(source: DvcSource, repo: Repo, change: Callable[[Repo], Any], named: str) -> None:
    assert source.pin(repo.uri("data", None)).commit == repo.git("rev-parse", "HEAD")
    change(repo)
    for path in ("data", "data/a"):
        with pytest.raises(UncommittedData, match=named) as caught:
            source.pin(repo.uri(path, None))
        assert "@HEAD" in str(caught.value.mend)
    assert source.pin(repo.uri("data", "HEAD")).files == 2
    assert source.pin(repo.uri("plain.txt", None)).files == 1


def test_uncommitted_files_of_git_are_refused(source: DvcSource, repo: Repo) -> None:
    (repo.root / "plain.txt").write_text("changed\n")
    with pytest.raises(UncommittedData, match=r"plain\.txt"):
        source.pin(repo.uri("plain.txt", None))
    assert source.pin(repo.uri("data", None)).files == 2


@pytest.mark.parametrize("tracked", [False, True])
def test_what_nobody_has_committed_yet_is_refused(source: DvcSource, repo: Repo, tracked: bool) -> None:
    (repo.root / "code").mkdir()
    (repo.root / "code/old").write_text("old")
    repo.commit()
    (repo.root / "code/new").write_text("new")
    if tracked:
        repo.add("code/new")
    with pytest.raises(UncommittedData, match="code/new"):
        source.pin(repo.uri("code", None))
    assert source.pin(repo.uri("code", "HEAD")).files == 1
    assert source.pin(repo.uri("data", None)).files == 2


def test_data_that_are_not_checked_out_are_no_change(source: DvcSource, repo: Repo) -> None:
    shutil.rmtree(repo.root / "data")
    assert source.pin(repo.uri("data", None)).files == 2


# --- another repository ------------------------------------------------------------------------------------------


class _GitBackend(BaseHTTPRequestHandler):
    """git's own server, behind Python's."""

    def answer(self) -> None:
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        variables = {
            "GIT_PROJECT_ROOT": str(self.server.root),  # type: ignore[attr-defined]
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=os.environ | variables, capture_output=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(headers.pop("Status", "200 OK").split()[0]))
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = answer  # noqa: N815 - http.server asks for these names

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(repo: Repo, tmp_path: Path) -> Iterator[str]:
    """The repository behind HTTP, its data in a remote; the URL of it."""
    repo.use_remote(str(tmp_path / "remote"))
    repo.commit()
    repo.push()
    (tmp_path / "org").mkdir()
    (tmp_path / "org/repo.git").symlink_to(repo.root)
    with ThreadingHTTPServer(("127.0.0.1", 0), _GitBackend) as server:
        server.root = tmp_path  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"dvc+http://127.0.0.1:{server.server_port}/org/repo.git"
        server.shutdown()
        thread.join()


def test_a_repository_behind_http(
    source: DvcSource, repo: Repo, served: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    commit = source.pin(f"{served}//data@main")
    assert source.pin(f"{served}//data").commit == commit.commit
    assert commit.commit == repo.git("rev-parse", "HEAD")
    assert commit.path.startswith(f"{served}//data@")
    repo.write(a="the branch has moved\n")
    moved = repo.commit()
    repo.push()
    source.fetch(commit, tmp_path / "fetched")
    assert content(tmp_path / "fetched") == {"a": "one\n", "sub/b": "two\n"}
    assert source.pin(f"{served}//data@main").commit == moved
    assert source.check(commit).available
    assert capfd.readouterr().out == ""


def test_the_newest_commit_of_a_clone_is_that_of_the_default_branch(source: DvcSource, repo: Repo, served: str) -> None:
    first = repo.git("rev-parse", "HEAD~1")
    main = repo.git("rev-parse", "HEAD")
    repo.git("checkout", "--quiet", "-b", "side")
    repo.write(a="aside\n")
    side = repo.commit()
    repo.push()
    repo.git("checkout", "--quiet", "main")
    for rev, commit in {"@side": side, "@HEAD": main, "@HEAD~1": first, "": main}.items():
        assert source.pin(f"{served}//plain.txt{rev}").commit == commit


def test_a_bare_repository_on_this_machine(source: DvcSource, repo: Repo, tmp_path: Path) -> None:
    repo.use_remote(str(tmp_path / "remote"))
    repo.commit()
    repo.push()
    bare = Repo(tmp_path / "bare repo.git")
    repo.git("clone", "--quiet", "--bare", str(repo.root), str(bare.root))
    for rev in ("main", None):
        commit = source.pin(bare.uri("data", rev))
        assert commit.commit == repo.git("rev-parse", "HEAD")
    repo.root.rename(tmp_path / "elsewhere")
    assert source.check(commit).available
    source.fetch(commit, tmp_path / "fetched")
    assert content(tmp_path / "fetched") == {"a": "one\n", "sub/b": "two\n"}


def test_what_was_cloned_goes_with_the_process(served: str, tmp_path: Path) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    program = (
        "import sys; from pathlib import Path\n"
        "from ledger import ObjectStore; from ledger_dvc.source import DvcSource\n"
        "where = Path(sys.argv[1]); objects = ObjectStore((where / 'objects').as_uri(), scratch=where / 'scratch')\n"
        "print(DvcSource(objects).pin(sys.argv[2]).files)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "ledger"), f"{served}//data@main"],
        env=os.environ | {"TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert done.stdout == "2\n"
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("uri", ["dvc+http://127.0.0.1:9/x.git//data@main", "dvc+http://nowhere.invalid/x.git//data"])
def test_a_repository_that_cannot_be_reached_is_told(source: DvcSource, uri: str) -> None:
    with pytest.raises(DataUnavailable, match="there is no git repository") as caught:
        source.pin(uri)
    assert "git ls-remote" in str(caught.value.mend)


# --- what cannot be had ------------------------------------------------------------------------------------------


def test_what_is_not_there_is_told_apart(
    source: DvcSource, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = new_repo(tmp_path / "empty")
    (tmp_path / "plain").mkdir()
    for uri, told, mend in [
        (repo.uri("data", "mian"), "no commit, branch or tag mian", "git log"),
        (repo.uri("dta"), "neither git nor DVC tracks dta", "dvc add"),
        (repo.uri("data/c"), "neither git nor DVC tracks data/c", "dvc add"),
        (repo.uri("plain.txt/x"), "neither git nor DVC tracks", "dvc add"),
        (empty.uri("data", None), "no commit, branch or tag HEAD", "without commits"),
        (f"dvc+{(tmp_path / 'plain').as_uri()}//data@main", "is no git repository", "dvc+file:"),
        (f"dvc+{(tmp_path / 'nowhere').as_uri()}//data@main", "is no git repository", "dvc+file:"),
    ]:
        with pytest.raises(DataUnavailable, match=told) as caught:
            source.pin(uri)
        assert mend in str(caught.value.mend)
    monkeypatch.chdir(tmp_path / "plain")
    with pytest.raises(DataUnavailable, match="plain is no git repository"):
        source.pin("dvc://data@main")


def test_without_dvc_the_mend_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require.cache_clear()
    monkeypatch.setitem(sys.modules, "dvc.repo.open_repo", None)
    with pytest.raises(PluginUnavailable, match="is not installed") as caught:
        open_source(in_memory(tmp_path / "ledger"))
    assert caught.value.mend == "pip install 'training-ledger[dvc]'"


def test_content_that_is_lost_is_named_before_anything_starts(
    source: DvcSource, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = tmp_path / "remote"
    repo.use_remote(str(remote))
    repo.commit()
    repo.push()
    commit = source.pin(repo.uri("data"))
    repo.lose_cache()
    assert source.check(commit).available
    lost = next(path for path in remote.rglob("*") if path.is_file() and path.read_bytes() == b"two\n")
    lost.unlink()
    reason = source.check(commit).reason
    assert "in no cache and in no remote" in reason
    assert "data/sub/b" in reason
    assert "data/a" not in reason
    for call in (lambda: source.pin(repo.uri("data")), lambda: source.fetch(commit, tmp_path / "fetched")):
        with pytest.raises(DataUnavailable, match="missing data/sub/b") as caught:
            call()
        assert "dvc push" in str(caught.value.mend)
    assert not (tmp_path / "fetched").exists()
    shutil.rmtree(remote)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "another machine"))
    assert "missing data" in source.check(commit).reason  # even the list of its files


def test_content_that_was_changed_is_named(source: DvcSource, repo: Repo, tmp_path: Path) -> None:
    commit = source.pin(repo.uri("data"))
    kept = next(
        path for path in (repo.root / ".dvc/cache").rglob("*") if path.is_file() and path.read_bytes() == b"two\n"
    )
    kept.chmod(0o644)
    kept.write_bytes(b"owt\n")
    with pytest.raises(DataUnavailable, match="no longer what was pinned: changed sub/b") as caught:
        source.fetch(commit, tmp_path / "fetched")
    assert caught.value.mend
    assert not (tmp_path / "fetched").exists()


def test_a_commit_that_is_gone_is_told(source: DvcSource, repo: Repo) -> None:
    repo.git("checkout", "--quiet", "-b", "side")
    repo.write(a="aside\n")
    commit = source.pin(repo.uri("data", repo.commit()))
    repo.git("checkout", "--quiet", "main")
    repo.git("branch", "-D", "side")
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "--quiet", "--prune=now")
    assert f"has no commit, branch or tag {commit.commit}" in source.check(commit).reason


def test_a_symbolic_link_in_git_is_refused(source: DvcSource, repo: Repo) -> None:
    (repo.root / "linked").mkdir()
    (repo.root / "linked/to").symlink_to("/etc/passwd")
    repo.commit()
    with pytest.raises(DataUnavailable, match="linked/to is a symbolic link"):
        source.pin(repo.uri("linked"))


@pytest.mark.slow  # DVC itself walks in circles there, until Python stops it
def test_names_that_leave_the_directory_are_refused(source: DvcSource, repo: Repo, tmp_path: Path) -> None:
    commit = source.pin(repo.uri("data"))
    listed = next((repo.root / ".dvc/cache").rglob("*.dir"))
    honest = listed.read_bytes()
    evil = honest.replace(b'"sub/b"', b'"../../../../evil"')
    pointer = (repo.root / "data.dvc").read_text()
    was, now = (hashlib.md5(each).hexdigest() for each in (honest, evil))
    assert was in pointer
    (repo.root / "data.dvc").write_text(pointer.replace(was, now))
    target = repo.root / f".dvc/cache/files/md5/{now[:2]}/{now[2:]}.dir"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(evil)
    repo.git("commit", "--quiet", "--all", "--message", "evil")
    with pytest.raises(DataUnavailable):
        source.pin(repo.uri("data", "HEAD"))
    bent = commit.model_copy(update={"path": commit.path.replace(commit.commit, "main")})
    with pytest.raises(DataUnavailable):
        source.fetch(bent, tmp_path / "deep/in/here/fetched")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("wrong", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_a_remote_that_refuses_the_keys_is_told_and_they_are_not_shown(
    source: DvcSource, repo: Repo, s3_url: str, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    repo.use_remote(s3_url, endpointurl=os.environ["AWS_ENDPOINT_URL"])
    repo.commit()
    repo.push()
    commit = source.pin(repo.uri("data"))
    assert "of-tests" not in str(commit)
    repo.lose_cache()
    monkeypatch.setenv(wrong, "very-wrong")
    with pytest.raises(DataUnavailable, match="refuses access") as caught:
        source.pin(repo.uri("data"))
    assert "dvc fetch" in str(caught.value.mend)
    reason = source.check(commit).reason
    assert "refuses access" in reason
    for told in (str(caught.value), reason):
        assert "very-wrong" not in told
        assert "of-tests" not in told


def test_keys_in_the_users_own_configuration_serve_and_are_not_recorded(
    source: DvcSource, repo: Repo, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.use_remote(s3_url, endpointurl=os.environ["AWS_ENDPOINT_URL"])
    keys = {"access_key_id": os.environ["AWS_ACCESS_KEY_ID"], "secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"]}
    with Dvc(str(repo.root)) as dvc, dvc.config.edit("local") as config:
        config["remote"]["store"] = keys
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    repo.commit()
    repo.push()
    repo.lose_cache()
    commit = source.pin(repo.uri("data"))
    assert "of-tests" not in str(commit)
    source.fetch(commit, tmp_path / "fetched")
    assert content(tmp_path / "fetched") == {"a": "one\n", "sub/b": "two\n"}


# --- URIs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("dvc://data/train", Place("", "data/train", None)),
        ("DVC://data/@v1.0", Place("", "data", "v1.0")),
        ("dvc://data@feature/x", Place("", "data", "feature/x")),
        ("dvc://a%40b/why%3F@HEAD~1", Place("", "a@b/why?", "HEAD~1")),
        ("dvc+https://host/org/repo.git//data@main", Place("https://host/org/repo.git", "data", "main")),
        ("dvc+ssh://git@host/org/repo.git//a/b", Place("ssh://git@host/org/repo.git", "a/b", None)),
        ("dvc+https://host:8080/r//a@b/c", Place("https://host:8080/r", "a", "b/c")),
        ("dvc+ssh://git@[::1]:22/r//a@b", Place("ssh://git@[::1]:22/r", "a", "b")),
        ("dvc+file:///srv/a%20repo//data@1a2b", Place("file:///srv/a%20repo", "data", "1a2b")),
    ],
)
def test_reads_uris(uri: str, place: Place) -> None:
    assert Place.parse(uri) == place


_NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=9)


@given(parts=st.lists(_NAME.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3))
def test_what_is_on_record_is_read_back(parts: list[str]) -> None:
    place = Place("file:///srv/repo", "/".join(parts), "c0ffee")
    assert Place.parse(str(place)) == place


@pytest.mark.parametrize(
    "uri",
    [
        "dvc:data",
        "dvc://",
        "dvc://@main",
        "dvc:///data@main",
        "dvc://../data@main",
        "dvc://a//b@main",
        "dvc://data@",
        "dvc://data@a b",
        "dvc://data@--upload-pack=x",
        "dvc+ssh://-oProxyCommand=x/repo//data",
        "dvc+ssh://git@-oProxyCommand=x/repo//data",
        "dvc://data?rev=main",
        "dvc://%FF@main",
        "dvc+git://host/repo//data",
        "dvc+https://host//data",
        "dvc+https://host/repo/data@main",
        "dvc+file://host/repo//data",
        "dvcx://data@main",
    ],
)
def test_refuses_malformed_uris(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        Place.parse(uri)
    assert caught.value.mend


@pytest.mark.parametrize(
    "uri",
    [
        "dvc+https://hunter2@host/r//d@main",
        "dvc+https://me:hunter2@host/r//d",
        "dvc+ssh://me:hunter2@host/r//d@main",
        "dvc+https://me:hun/ter2:hunter2@host/r//d@main",
        "dvc+git://me:hunter2@host/r//d@main",
        "dvc+https:/me:hunter2@host/r//d",
        "dvc+https://host/r?token=hunter2//d@main",
    ],
)
def test_a_password_in_a_uri_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        Place.parse(uri)
    shown: LedgerError = caught.value
    assert "hunter2" not in str(shown) + str(shown.mend)
