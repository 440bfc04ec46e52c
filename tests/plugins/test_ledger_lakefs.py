"""Data behind ``lakefs:`` URIs: the real client against a server, or what stands in for one."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakefs_sdk.exceptions import ApiException

from ledger import Hasher, ObjectStore, Settings
from ledger.errors import DataUnavailable, InvalidSettings, LedgerError, UsageError
from ledger.settings import in_memory
from ledger.testing.data_sources import BaseDataSourceTests
from ledger_lakefs import LakefsPlugin
from ledger_lakefs.access import find_access
from ledger_lakefs.lake import Lake
from ledger_lakefs.source import LakefsSource, UncommittedData
from ledger_lakefs.uris import Asked, Place
from tests.lakefs.api import description
from tests.lakefs.repositories import Commit
from tests.lakefs.standin import LakeFS
from tests.lakefs.user import User

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.events import DataCommit
    from ledger.hooks.ports import DataSource
    from tests.lakefs.user import Repo

pytest_plugins = ["tests.lakefs.fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore:Use of allowEmptyValue:DeprecationWarning")


def open_source(settings: Settings) -> LakefsSource:
    objects = ObjectStore(settings.objects, scratch=settings.scratch)
    source = LakefsPlugin().open_data_source("lakefs://abc/main", settings, objects)
    assert isinstance(source, LakefsSource)
    return source


@pytest.fixture
def repo(user: User) -> Repo:
    return user.repository()


@pytest.fixture
def source(user: User, tmp_path: Path) -> LakefsSource:
    return open_source(in_memory(tmp_path / "ledger"))


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


class TestLakefsSource(BaseDataSourceTests):
    malformed_uri = "lakefs://corpus"

    @pytest.fixture
    def source(self, user: User, tmp_path: Path) -> DataSource:
        self._missing = f"lakefs://{user.repository().name}/main/nowhere/"
        return open_source(in_memory(tmp_path / "ledger"))

    @pytest.fixture
    def publish(self, repo: Repo) -> Callable[[Path], str]:
        def publish(local: Path) -> str:
            repo.publish(local, "sets/data")
            return f"lakefs://{repo.name}/main/sets/data"

        return publish

    @property
    def missing_uri(self) -> str:
        return self._missing


@pytest.mark.slow
class TestWithoutPresigning(TestLakefsSource):
    @pytest.fixture(autouse=True)
    def _through_the_server(self, standin: LakeFS) -> None:
        standin.presigns = False


def test_the_exchanges_are_checked_where_the_description_is() -> None:
    if description() is None:
        pytest.skip("lakeFS's description of its API is not here: set LAKEFS_API")
    from tests.lakefs.api import violations

    asked = ("GET", "/api/v1/repositories/abc/branches/main", [], {"Authorization": "Basic YTpi"}, b"", 200)
    told = {"Content-Type": "application/json"}
    assert violations(*asked, told, b'{"id": "main", "commit_id": "c"}') == []
    assert "commit_id" in violations(*asked, told, b'{"id": "main"}')[0]
    assert violations("GET", "/api/v1/nonsense", [], asked[3], b"", 200, told, b"{}")


@pytest.mark.parametrize("presigns", [True, False])
def test_the_server_answers_as_lakefs_does(repo: Repo, user: User, presigns: bool) -> None:
    """Of the stand-in this shows that it is honest, of a real server that the stand-in is like it."""
    if user.standin:
        user.standin.presigns = presigns
    repo.upload("a", b"0123456789")
    objects = user.client.objects_api
    assert objects.head_object_with_http_info(repo.name, "main", "a").headers["Content-Length"] == "10"
    part = objects.head_object_with_http_info(repo.name, "main", "a", range="bytes=2-4")
    assert (part.status_code, part.headers["Content-Length"]) == (206, "3")
    part = objects.get_object_with_http_info(repo.name, "main", "a", range="bytes=2-4", presign=False)
    assert (part.status_code, part.data, part.headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
    assert objects.get_object(repo.name, "main", "a", range="bytes=-3", presign=False) == b"789"
    repo.commit()
    repo.tag("v1")
    wrong = User(user.endpoint, user.key, "wrong", user.namespace, user.standin)
    for status, request in {
        400: lambda: repo.commit("nothing has changed"),
        401: lambda: wrong.client.repositories_api.get_repository(repo.name),
        404: lambda: objects.stat_object(repo.name, "main", "b"),
        409: lambda: repo.tag("v1"),
        412: lambda: objects.upload_object(repo.name, "main", "a", if_none_match="*", content=b"other"),
        416: lambda: objects.get_object(repo.name, "main", "a", range="bytes=10-12", presign=False),
    }.items():
        with pytest.raises(ApiException) as caught:
            request()
        assert caught.value.status == status


# --- what a pin means --------------------------------------------------------------------------------------------


def test_every_kind_of_ref_becomes_a_commit(source: LakefsSource, repo: Repo) -> None:
    repo.upload("a.txt", b"one")
    first = repo.commit("first")
    repo.tag("v1")
    repo.tag("v1.0")
    repo.upload_form("a.txt", b"two")
    second = repo.commit("second")
    for ref, commit in {
        "main": second,
        "main@": second,
        "main~1": first,
        "main^": first,
        "v1": first,
        "v1.0": first,
        first: first,
        second[:20]: second,
    }.items():
        pinned = source.pin(f"lakefs://{repo.name}/{ref}/a.txt")
        assert pinned.commit == commit
        assert pinned.path == f"lakefs://{repo.name}/{commit}/a.txt"
    assert pinned.files == 1


def test_what_lakefs_knows_of_the_commit_is_on_record(source: LakefsSource, repo: Repo, user: User) -> None:
    repo.upload("set/a", b"one")
    repo.upload("set/b", b"one")
    repo.commit("a message")
    details = source.pin(f"lakefs://{repo.name}/main/set").details
    assert details["message"] == "a message"
    assert details["metadata"]["stage"] == "clean"
    assert details["committer"]
    assert time.time() - details["created"] < 600
    assert (details["repository"], details["ref"], details["endpoint"]) == (repo.name, "main", user.endpoint)
    checksums = source._objects.get_bytes(details["checksums"]).decode()
    assert checksums.startswith('{"a":"')
    assert user.secret not in str(details)
    assert user.key not in str(details)


def test_a_whole_repository_can_be_pinned(source: LakefsSource, repo: Repo, tmp_path: Path) -> None:
    repo.upload("a", b"one")
    repo.upload("b/c", b"two")
    repo.commit()
    commit = source.pin(f"lakefs://{repo.name}/main")
    source.fetch(commit, tmp_path / "all")
    assert content(tmp_path / "all") == {"a": b"one", "b/c": b"two"}


def test_a_name_that_another_name_starts_with_is_other_data(source: LakefsSource, repo: Repo, tmp_path: Path) -> None:
    repo.upload("clean/a", b"one")
    repo.upload("clean-not/a", b"two")
    repo.commit()
    commit = source.pin(f"lakefs://{repo.name}/main/clean")
    source.fetch(commit, tmp_path / "data")
    assert content(tmp_path / "data") == {"a": b"one"}


def test_markers_of_directories_are_directories(source: LakefsSource, repo: Repo, tmp_path: Path) -> None:
    for marker in ("set/", "set/full/", "set/hollow/"):
        repo.upload(marker, b"")
    repo.upload("set/full/a", b"one")
    repo.commit()
    commit = source.pin(f"lakefs://{repo.name}/main/set/")
    source.fetch(commit, tmp_path / "data")
    assert (tmp_path / "data/hollow").is_dir()
    assert Hasher().tree(tmp_path / "data").digest == commit.digest


def test_a_name_that_no_file_can_have_is_told(source: LakefsSource, repo: Repo) -> None:
    repo.upload("set/a", b"one")
    repo.upload("set/a/b", b"two")
    repo.commit()
    with pytest.raises(DataUnavailable, match="a/b") as caught:
        source.pin(f"lakefs://{repo.name}/main/set/")
    assert caught.value.mend


def test_a_large_object_is_read_in_pieces(
    source: LakefsSource, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger_lakefs.commit.CommitListing.piece", 30_000)
    whole = os.urandom(100_001)
    repo.upload("big.bin", whole)
    repo.commit()
    commit = source.pin(f"lakefs://{repo.name}/main/big.bin")
    source.fetch(commit, tmp_path / "big.bin")
    assert (tmp_path / "big.bin").read_bytes() == whole


# --- uncommitted changes -----------------------------------------------------------------------------------------


def test_a_branch_with_uncommitted_changes_is_refused(source: LakefsSource, repo: Repo) -> None:
    repo.upload("set/a", b"one")
    repo.upload("set/b", b"one")
    first = repo.commit()
    repo.upload("set/a", b"two")
    repo.upload("set/c", b"new")
    repo.remove("set/b")
    with pytest.raises(UncommittedData, match="changed set/a, removed set/b, added set/c") as caught:
        source.pin(f"lakefs://{repo.name}/main/set")
    assert '--commit "message"' in str(caught.value.mend)
    assert "?commit=MESSAGE" in str(caught.value.mend)
    assert f"lakefs://{repo.name}/main@/set" in str(caught.value.mend)
    assert source.pin(f"lakefs://{repo.name}/main@/set").commit == first
    assert repo.head() == first


def test_many_uncommitted_changes_are_not_all_listed(source: LakefsSource, repo: Repo) -> None:
    for number in range(12):
        repo.upload(f"set/{number}", b"one")
    with pytest.raises(UncommittedData, match="and more"):
        source.pin(f"lakefs://{repo.name}/main/set")


def test_uncommitted_changes_elsewhere_do_not_matter(source: LakefsSource, repo: Repo) -> None:
    repo.upload("set/a", b"one")
    first = repo.commit()
    repo.upload("set-2/a", b"two")
    assert source.pin(f"lakefs://{repo.name}/main/set").commit == first


def test_it_commits_when_asked(source: LakefsSource, repo: Repo, user: User) -> None:
    repo.upload("set/a", b"one")
    commit = source.pin(f"lakefs://{repo.name}/main/set?commit=cleaned%20up")
    assert commit.commit == repo.head()
    assert commit.details["message"] == "cleaned up"
    assert commit.details["metadata"] == {"committed-by": "training-ledger"}
    again = source.pin(f"lakefs://{repo.name}/main/set?commit=cleaned%20up")
    assert again == commit
    source.commit(f"lakefs://{repo.name}/main/set", "nothing to say")
    assert repo.head() == commit.commit


def test_of_two_that_commit_one_is_the_first(source: LakefsSource, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.upload("set/a", b"one")
    commit = Lake.commit

    def late(*asked: Any) -> None:
        repo.commit("somebody was quicker")
        commit(*asked)

    monkeypatch.setattr(Lake, "commit", late)
    pinned = source.pin(f"lakefs://{repo.name}/main/set?commit=mine")
    assert (pinned.commit, pinned.details["message"]) == (repo.head(), "somebody was quicker")


# --- what it costs -----------------------------------------------------------------------------------------------


def test_what_a_pin_has_read_is_not_downloaded_again(
    source: LakefsSource, repo: Repo, standin: LakeFS, tmp_path: Path
) -> None:
    for number in range(10):
        repo.upload(f"set/{number}", b"x" * (100 + number))
    repo.commit()
    commit = source.pin(f"lakefs://{repo.name}/main/set")
    assert len(standin.reads) == 10
    source.fetch(commit, tmp_path / "data")
    assert len(standin.reads) == 10
    assert len(content(tmp_path / "data")) == 10
    assert not list((tmp_path / "ledger/lakefs/content").glob("*")), "moved, not copied"
    repo.upload("set/3", b"new")
    repo.commit()
    source.pin(f"lakefs://{repo.name}/main/set")
    assert len(standin.reads) == 11


@pytest.mark.usefixtures("impatient")
def test_a_pin_that_was_interrupted_goes_on(source: LakefsSource, repo: Repo, standin: LakeFS) -> None:
    for number in range(30):
        repo.upload(f"set/{number:02}", b"x" * (100 + number))
    commit = repo.commit()
    standin.lose(repo.name, commit, "set/29")
    with pytest.raises(DataUnavailable, match="set/29"):
        source.pin(f"lakefs://{repo.name}/main/set")
    before = len(standin.reads)
    standin.overwrite(repo.name, commit, "set/29", b"x" * 129)
    assert source.pin(f"lakefs://{repo.name}/main/set").files == 30
    assert len(standin.reads) == before + 1


def test_nothing_is_kept_when_asked_not_to(source: LakefsSource, repo: Repo, standin: LakeFS, tmp_path: Path) -> None:
    repo.upload("set/a", b"one")
    repo.commit()
    commit = source.pin(f"lakefs://{repo.name}/main/set?keep=no")
    assert not (tmp_path / "ledger/lakefs/content").exists()
    source.fetch(commit, tmp_path / "data")
    assert len(standin.reads) == 2


def test_kept_content_that_was_touched_is_not_used(source: LakefsSource, repo: Repo, tmp_path: Path) -> None:
    repo.upload("set/a", b"one")
    repo.commit()
    commit = source.pin(f"lakefs://{repo.name}/main/set")
    (kept,) = (tmp_path / "ledger/lakefs/content").iterdir()
    kept.write_bytes(b"two")
    source.fetch(commit, tmp_path / "data")
    assert content(tmp_path / "data") == {"a": b"one"}


def test_kept_content_that_nobody_fetched_goes(source: LakefsSource, repo: Repo, tmp_path: Path) -> None:
    repo.upload("set/a", b"one")
    repo.commit()
    source.pin(f"lakefs://{repo.name}/main/set")
    (kept,) = (tmp_path / "ledger/lakefs/content").iterdir()
    os.utime(kept, (1, 1))
    source.pin(f"lakefs://{repo.name}/main/set")
    assert not kept.exists()


def test_presigned_addresses_get_no_key(source: LakefsSource, repo: Repo, standin: LakeFS) -> None:
    repo.upload("a", b"one")
    repo.commit()
    source.pin(f"lakefs://{repo.name}/main/a")
    (read,) = standin.reads
    assert "Authorization" not in read.headers
    assert read.headers["Range"] == "bytes=0-2"


def test_a_presigned_address_that_leads_nowhere_is_not_insisted_on(
    source: LakefsSource, repo: Repo, standin: LakeFS, tmp_path: Path
) -> None:
    repo.upload("a", b"one")
    repo.commit()
    standin._store = "http://127.0.0.1:9"
    commit = source.pin(f"lakefs://{repo.name}/main/a?keep=no")
    source.fetch(commit, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"one"


# --- reading in place --------------------------------------------------------------------------------------------


def test_a_commit_is_a_file_system(source: LakefsSource, repo: Repo) -> None:
    repo.upload("set/a.txt", b"first\nsecond\n")
    repo.upload("set/sub/b", b"0123456789")
    repo.commit()
    commit = source.pin(f"lakefs://{repo.name}/main/set")
    repo.upload("set/a.txt", b"other")
    repo.commit()
    filesystem, path = pickle.loads(pickle.dumps(source.open(commit)))
    assert filesystem.ls(f"lakefs://{path}/", detail=False) == [f"{path}/a.txt", f"{path}/sub"]
    with filesystem.open(f"{path}/a.txt", "rt") as stream:
        assert list(stream) == ["first\n", "second\n"]
    with filesystem.open(f"{path}/sub/b") as stream:
        stream.seek(-3, 2)
        assert stream.read(-1) == b"789"
    assert filesystem.cat_file(f"{path}/sub/b", 2, -2) == b"234567"
    assert sorted(filesystem.find(path)) == [f"{path}/a.txt", f"{path}/sub/b"]
    assert filesystem.isdir(path)
    assert filesystem.isfile(f"{path}/a.txt")
    assert not filesystem.exists(f"{path}/c")
    assert filesystem.glob(f"{path}/*/b") == [f"{path}/sub/b"]
    with pytest.raises(FileNotFoundError):
        filesystem.open(f"{repo.name}/main/set/a.txt")
    with pytest.raises(PermissionError, match="only be read"):
        filesystem.open(f"{path}/a.txt", "wb")


def test_forked_workers_read_side_by_side(source: LakefsSource, repo: Repo) -> None:
    for number in range(8):
        repo.upload(f"set/{number}", str(number).encode() * 1000)
    repo.commit()
    filesystem, path = source.open(source.pin(f"lakefs://{repo.name}/main/set"))
    assert filesystem.cat_file(f"{path}/0") == b"0" * 1000  # a connection is open when they are forked
    with multiprocessing.get_context("fork").Pool(3) as pool:
        read = pool.map(filesystem.cat_file, [f"{path}/{number}" for number in range(8)])
    assert read == [str(number).encode() * 1000 for number in range(8)]


def test_a_file_system_holds_no_key(source: LakefsSource, repo: Repo, user: User) -> None:
    repo.upload("a", b"one")
    repo.commit()
    filesystem, path = source.open(source.pin(f"lakefs://{repo.name}/main/a"))
    assert filesystem.cat_file(path) == b"one"
    for kept in (pickle.dumps(filesystem).decode("latin-1"), filesystem.to_json(), repr(filesystem)):
        assert user.secret not in kept
        assert user.key not in kept


# --- data that are gone ------------------------------------------------------------------------------------------


@pytest.fixture
def pinned(source: LakefsSource, repo: Repo) -> DataCommit:
    for name in ("a", "b", "c"):
        repo.upload(f"set/{name}", name.encode() * 9)
    repo.commit()
    return source.pin(f"lakefs://{repo.name}/main/set?keep=no")


@pytest.mark.parametrize("presigns", [True, False])
def test_bytes_that_are_gone_are_named(
    source: LakefsSource, repo: Repo, standin: LakeFS, pinned: DataCommit, tmp_path: Path, presigns: bool
) -> None:
    standin.presigns = presigns
    standin.lose(repo.name, "main", "set/b")
    availability = source.check(pinned)
    assert not availability.available
    assert "set/b" in availability.reason
    with pytest.raises(DataUnavailable, match="set/b"):
        source.fetch(pinned, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_bytes_that_were_changed_are_named(
    source: LakefsSource, repo: Repo, standin: LakeFS, pinned: DataCommit, tmp_path: Path
) -> None:
    standin.overwrite(repo.name, "main", "set/b", b"B" * 9)
    with pytest.raises(DataUnavailable, match=r"no longer what was pinned: changed b$") as caught:
        source.fetch(pinned, tmp_path / "data")
    assert caught.value.mend
    assert not (tmp_path / "data").exists()
    standin.overwrite(repo.name, "main", "set/b", b"short")
    with pytest.raises(DataUnavailable, match="set/b"):
        source.fetch(pinned, tmp_path / "data")


def test_a_repository_that_is_gone_is_a_reason(
    source: LakefsSource, repo: Repo, user: User, pinned: DataCommit
) -> None:
    user.delete(repo)
    assert repo.name in source.check(pinned).reason


def test_without_the_manifest_a_change_is_still_found(
    source: LakefsSource, repo: Repo, standin: LakeFS, pinned: DataCommit, tmp_path: Path
) -> None:
    elsewhere = open_source(in_memory(tmp_path / "elsewhere"))
    assert elsewhere.check(pinned).available
    elsewhere.fetch(pinned, tmp_path / "data")
    standin.overwrite(repo.name, "main", "set/b", b"B" * 9)
    with pytest.raises(DataUnavailable, match="cannot be named"):
        elsewhere.fetch(pinned, tmp_path / "again")


# --- servers that fail -------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger_lakefs.server._BACKOFF_S", 0.01)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(
    source: LakefsSource, repo: Repo, standin: LakeFS, tmp_path: Path, status: int
) -> None:
    repo.upload("a", b"one")
    repo.commit()
    for path in ("/branches/main$", "/commits/", "/objects/stat", "/objects$"):
        standin.fail(status, path=path, times=2)
    commit = source.pin(f"lakefs://{repo.name}/main/a")
    source.fetch(commit, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"one"


def test_it_waits_for_as_long_as_it_is_told(source: LakefsSource, repo: Repo, standin: LakeFS) -> None:
    repo.upload("a", b"one")
    repo.commit()
    standin.fail(429, path="/commits/", headers={"Retry-After": "1"})
    started = time.monotonic()
    source.pin(f"lakefs://{repo.name}/main/a")
    assert time.monotonic() - started >= 1


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("presigns", [True, False])
def test_a_connection_that_breaks_is_made_again(
    source: LakefsSource, repo: Repo, standin: LakeFS, tmp_path: Path, presigns: bool
) -> None:
    standin.presigns = presigns
    repo.upload("a", b"one" * 1000)
    repo.commit()
    kind = {"Content-Type": "application/octet-stream"}
    standin.fail(200, path="data" if presigns else "/objects$", breaks=True, message="x" * 3000, headers=kind)
    commit = source.pin(f"lakefs://{repo.name}/main/a")
    assert commit.bytes == 3000
    source.fetch(commit, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"one" * 1000


@pytest.mark.usefixtures("impatient")
def test_a_server_that_stays_down_is_given_up(source: LakefsSource, repo: Repo, standin: LakeFS) -> None:
    repo.upload("a", b"one")
    repo.commit()
    standin.fail(503, path="/commits/", times=100, message="under maintenance")
    with pytest.raises(DataUnavailable, match=r"503.*under maintenance") as caught:
        source.pin(f"lakefs://{repo.name}/main/a")
    assert caught.value.mend == "try again later"


@pytest.mark.parametrize(
    ("status", "path", "method", "told"),
    [
        (403, "/objects/stat", "GET", "does not allow it .on demand."),
        (403, "/commits$", "POST", "does not allow it .on demand."),
        (409, "/commits$", "POST", "409 .on demand."),
        (412, "/commits$", "POST", "412 .on demand."),
        (400, "/commits/", "GET", "400 .on demand."),
    ],
)
def test_what_the_server_says_is_told(
    source: LakefsSource, repo: Repo, standin: LakeFS, status: int, path: str, method: str, told: str
) -> None:
    repo.upload("a", b"one")
    standin.fail(status, path=path, method=method)
    with pytest.raises(DataUnavailable, match=told) as caught:
        source.pin(f"lakefs://{repo.name}/main/a?commit=work")
    assert caught.value.mend


def secretless(error: LedgerError, user: User) -> None:
    """What a message, its mend and all that led to it hold must not be a key."""
    shown: BaseException | None = error
    while shown is not None:
        assert user.secret not in repr(shown) + str(shown)
        assert user.key not in repr(shown) + str(shown)
        shown = shown.__cause__
    assert error.mend
    assert user.secret not in error.mend


def test_a_wrong_key_is_told_and_not_shown(
    source: LakefsSource, repo: Repo, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEFS_SECRET_ACCESS_KEY", "very wrong")
    with pytest.raises(DataUnavailable, match="does not accept the access key") as caught:
        source.pin(f"lakefs://{repo.name}/main/a")
    secretless(caught.value, user)
    assert "very wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [("http://127.0.0.1:9", "cannot be reached"), ("http://nowhere.invalid", "cannot be reached")],
)
def test_a_wrong_endpoint_is_told_soon(
    source: LakefsSource, user: User, monkeypatch: pytest.MonkeyPatch, endpoint: str, told: str
) -> None:
    monkeypatch.setenv("LAKEFS_ENDPOINT", endpoint)
    started = time.monotonic()
    with pytest.raises(DataUnavailable, match=told) as caught:
        source.pin("lakefs://corpus/main/a")
    assert time.monotonic() - started < 20
    secretless(caught.value, user)


def test_an_endpoint_that_is_no_api_is_told(
    source: LakefsSource, repo: Repo, user: User, standin: LakeFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEFS_ENDPOINT", f"{standin.endpoint}/ui")
    with pytest.raises(DataUnavailable, match="is not the API of lakeFS") as caught:
        source.pin(f"lakefs://{repo.name}/main/a")
    secretless(caught.value, user)


def test_what_is_not_there_is_told_apart(source: LakefsSource, repo: Repo, user: User) -> None:
    repo.branch("second")
    for uri, told, mend in [
        ("lakefs://no-such-repository/main/a", "there is no repository no-such-repository", "lakectl repo list"),
        (f"lakefs://{repo.name}/mian/a", "no branch, tag or commit mian", "main, second"),
        (f"lakefs://{repo.name}/main/a", "no files at a", "committed"),
        (f"lakefs://{repo.name}/main", "no files at the root", "committed"),
        (f"lakefs://{user.repository(bare=True).name}/main/a", "has no commits", "commit the data first"),
    ]:
        with pytest.raises(DataUnavailable, match=told) as caught:
            source.pin(uri)
        assert mend in str(caught.value.mend)


# --- URIs, keys and settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "path", "message"),
    [
        ("lakefs://abc/main", "", None),
        ("LAKEFS://abc/main/a/b/", "a/b/", None),
        ("lakefs://abc/main~2/why%3F%20not", "why? not", None),
        ("lakefs://abc/v1.0/100%", "100%", None),
        ("lakefs://abc/main/a#1?commit=a+b", "a#1", "a b"),
    ],
)
def test_reads_uris(uri: str, path: str, message: str | None) -> None:
    asked = Asked.parse(uri)
    assert (asked.repository, asked.path, asked.message) == ("abc", path, message)


@given(path=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_what_is_on_record_is_read_back(path: str) -> None:
    place = Place("abc", "c0ffee", path)
    assert Place.parse(str(place)) == place
    assert Asked.parse(f"lakefs://abc/main/{quote(path)}").path == path


@pytest.mark.parametrize(
    "uri",
    [
        "lakefs:abc/main",
        "lakefs://",
        "lakefs://ab/main",
        "lakefs://Abc/main/x",
        "lakefs://abc//x",
        "lakefs://abc/ma in/x",
        "lakefs://abc/main/x?commit=",
        "lakefs://abc/main/x?snapshot=no",
        "lakefs://abc/main/%FF",
    ],
)
def test_refuses_malformed_uris(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        Asked.parse(uri)
    assert caught.value.mend


@pytest.mark.parametrize(
    "uri",
    [
        "lakefs://AKIA:hunter2@abc/main/x",
        "lakefs://abc/main/x?secret=hunter2",
        "lakefs://abc//x?secret=hunter2",
        "lakefs://Abc/main?secret=hunter2",
    ],
)
def test_a_key_in_a_uri_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        Asked.parse(uri)
    assert "hunter2" not in str(caught.value)


def test_keys_come_from_where_lakectl_has_them(tmp_path: Path) -> None:
    file = tmp_path / ".lakectl.yaml"
    file.write_text(
        "credentials:\n  access_key_id: k1\n  secret_access_key: s1\nserver:\n  endpoint_url: http://one/api/v1\n"
    )
    home = {"HOME": str(tmp_path)}
    found = find_access(home)
    assert (found.endpoint, found.key, found.secret) == ("http://one/api/v1", "k1", "s1")
    assert "s1" not in repr(found)
    found = find_access(home | {"LAKECTL_SERVER_ENDPOINT_URL": "http://two"})
    assert (found.endpoint, found.key) == ("http://two", "k1")
    own = {"LAKEFS_ENDPOINT": "http://three", "LAKEFS_ACCESS_KEY_ID": "k3"}
    with pytest.raises(DataUnavailable, match="LAKEFS_SECRET_ACCESS_KEY not set"):
        find_access(home | own)
    assert find_access(home | own | {"LAKEFS_SECRET_ACCESS_KEY": "s3"}).secret == "s3"


@pytest.mark.parametrize("written", [None, "", "just text", "credentials: [", "server: {endpoint_url: 5}"])
def test_keys_that_are_not_there_are_told(tmp_path: Path, written: str | None) -> None:
    if written is not None:
        (tmp_path / ".lakectl.yaml").write_text(written)
    with pytest.raises(DataUnavailable) as caught:
        find_access({"HOME": str(tmp_path)})
    assert "lakectl config" in str(caught.value.mend)


@pytest.mark.parametrize("table", [{"tag_runs": "yes"}, {"tags": True}])
def test_settings_that_are_not_understood_are_refused(tmp_path: Path, table: dict[str, object]) -> None:
    memory = in_memory(tmp_path)
    settings = Settings(
        memory.url, memory.objects, memory.checkpoints, memory.scratch, plugin_settings={"lakefs": table}
    )
    with pytest.raises(InvalidSettings, match=r"plugin\.lakefs"):
        open_source(settings)


def test_ids_are_made_of_what_a_commit_holds() -> None:
    one = Commit((), "me", "a message", 1, {}, {})
    assert one.id == Commit((), "me", "a message", 1, {}, {}).id
    assert one.id != Commit((), "me", "another", 1, {}, {}).id
