"""Data behind fsspec on real object storage: S3 with and without versions, Google Cloud Storage, Azure, plain HTTP."""

from __future__ import annotations

import pickle
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import fsspec
import pytest

import ledger_fsspec
from ledger import Hasher, ObjectStore, Settings
from ledger.errors import DataUnavailable
from ledger.hooks.listing import THREADS, File
from ledger.hooks.manager import Plugins
from ledger.settings import in_memory
from ledger.testing.data_sources import BaseDataSourceTests
from ledger_fsspec import files
from ledger_fsspec.data import FsspecSource
from tests.servers import BadNetwork, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.hooks.ports import DataSource
    from tests.servers import Fault, Service


def open_source(settings: Settings, uri: str = "s3://bucket/x") -> FsspecSource:
    objects = ObjectStore(settings.objects, scratch=settings.scratch)
    source = Plugins.of(ledger_fsspec).data_source(uri, settings, objects)
    assert isinstance(source, FsspecSource)
    return source


def upload(local: Path, url: str) -> str:
    """Make what lies at ``url`` equal to a local file or directory."""
    fs, root = fsspec.url_to_fs(url, use_listings_cache=False)
    wanted = (
        {root: local}
        if local.is_file()
        else {f"{root}/{path.relative_to(local).as_posix()}": path for path in local.rglob("*") if path.is_file()}
    )
    for name, path in wanted.items():
        fs.pipe_file(name, path.read_bytes())
    for name in set(fs.find(root)) - wanted.keys():
        fs.rm_file(name)
    return url


class Kit(BaseDataSourceTests):
    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def source(self, tmp_path: Path, url: str) -> DataSource:
        self._url = url
        return open_source(in_memory(tmp_path / "ledger"), url)

    @pytest.fixture
    def publish(self, url: str) -> Callable[[Path], str]:
        return lambda local: upload(local, f"{url}/data")

    @property
    def missing_uri(self) -> str:
        return f"{self._url}/nowhere"

    @property
    def malformed_uri(self) -> str:
        return f"{self._url}?snapshot=perhaps"


@pytest.fixture(scope="session")
def versioned_s3(s3_service: Service) -> str:
    """A bucket that keeps versions."""
    with s3_service.folder():
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.mkdir("versioned")
        fs.make_bucket_versioned("versioned")
    return "s3://versioned"


@pytest.fixture(scope="session")
def versioned_gcs(gcs_service: Service) -> str:
    with gcs_service.folder():
        fsspec.filesystem("gs", skip_instance_cache=True).mkdir("versioned", enable_versioning=True)
    return "gs://versioned"


@pytest.mark.slow
class TestVersionedS3(Kit):
    @pytest.fixture
    def url(self, s3_service: Service, versioned_s3: str) -> Iterator[str]:
        with s3_service.folder():
            yield f"{versioned_s3}/{uuid4().hex[:8]}"


class TestS3(Kit):
    keeps_history = False

    @pytest.fixture
    def url(self, s3_url: str) -> str:
        return s3_url


@pytest.mark.slow
class TestVersionedGoogle(Kit):
    @pytest.fixture
    def url(self, gcs_service: Service, versioned_gcs: str) -> Iterator[str]:
        with gcs_service.folder():
            yield f"{versioned_gcs}/{uuid4().hex[:8]}"


@pytest.mark.slow
class TestGoogle(Kit):
    keeps_history = False

    @pytest.fixture
    def url(self, gcs_url: str) -> str:
        return gcs_url


@pytest.mark.slow
class TestAzure(Kit):
    keeps_history = False

    @pytest.fixture
    def url(self, azure_url: str) -> str:
        return azure_url


@pytest.mark.slow
class TestSnapshot(TestS3):
    keeps_history = True

    @pytest.fixture
    def publish(self, url: str) -> Callable[[Path], str]:
        return lambda local: upload(local, f"{url}/data") + "?snapshot=yes"


# --- what is on record -------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "a").write_bytes(b"one")
    (root / "sub/b").write_bytes(b"two")
    return root


@pytest.fixture
def source(tmp_path: Path) -> FsspecSource:
    return open_source(in_memory(tmp_path / "ledger"))


@pytest.fixture
def kept_url(s3_service: Service, versioned_s3: str) -> Iterator[str]:
    """An empty folder in the bucket that keeps versions."""
    with s3_service.folder():
        yield f"{versioned_s3}/{uuid4().hex[:8]}"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were asked for, one for each request."""
    seen: list[str] = []
    whole = files.Files.read

    def read(self: files.Files, file: File, start: int, end: int) -> bytes:
        seen.append(file.name)
        return whole(self, file, start, end)

    monkeypatch.setattr(files.Files, "read", read)
    return seen


def test_each_file_is_read_once(
    source: FsspecSource, s3_url: str, tree: Path, tmp_path: Path, reads: list[str]
) -> None:
    commit = source.pin(upload(tree, s3_url))
    source.fetch(commit, tmp_path / "fetched")
    assert source.pin(s3_url) == commit
    assert source.check(commit).available
    assert sorted(reads) == ["a", "sub/b"]
    source.fetch(commit, tmp_path / "again")
    assert len(reads) == 4
    assert (tmp_path / "again/sub/b").read_bytes() == b"two"


def test_nothing_is_kept_on_disk_unasked(source: FsspecSource, s3_url: str, tree: Path, tmp_path: Path) -> None:
    commit = source.pin(f"{upload(tree, s3_url)}?keep=no")
    assert not (tmp_path / "ledger/scratch/fsspec/content").exists()
    assert source._objects.missing(source._objects.get_manifest(commit.digest))
    source.fetch(commit, tmp_path / "fetched")
    assert (tmp_path / "fetched/a").read_bytes() == b"one"


def test_whether_versions_are_kept_is_on_record_and_no_secret_is(
    source: FsspecSource, s3_service: Service, kept_url: str, s3_url: str, tree: Path
) -> None:
    kept, plain = source.pin(upload(tree, kept_url)), source.pin(upload(tree, s3_url))
    assert (kept.details["versions"], plain.details["versions"]) == ("kept", "not kept")
    assert kept.digest == plain.digest
    for name, value in s3_service.environ().items():
        if "KEY" in name:
            assert value not in kept.model_dump_json()
    single = source.pin(f"{kept_url}/a")
    assert single.details["version"]
    assert single.details["checksum"] == "f97c5d29941bfb1b2fdab0874906ab82"  # MD5 of what it holds


def test_the_same_bytes_written_again_are_still_what_was_pinned(
    source: FsspecSource, azure_url: str, tree: Path, tmp_path: Path
) -> None:
    """Azure's checksum changes with every write."""
    commit = source.pin(upload(tree, azure_url))
    upload(tree, azure_url)
    assert source.check(commit).available
    source.fetch(commit, tmp_path / "fetched")
    assert (tmp_path / "fetched/a").read_bytes() == b"one"


def test_what_was_written_again_is_read_a_few_pieces_at_a_time(
    source: FsspecSource, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.Files, "piece", 1000)
    large = tmp_path / "tree"
    large.mkdir()
    for number in range(8):
        (large / str(number)).write_bytes(bytes([number]) * 10_000)
    commit = source.pin(upload(large, s3_url))
    monkeypatch.setattr(File, "same", lambda *_: False)
    read, free, in_time = files.Files.read, threading.Semaphore(THREADS), []

    def counted(self: files.Files, *asked: Any) -> bytes:
        in_time.append(free.acquire(blocking=False))
        try:
            return read(self, *asked)
        finally:
            free.release()

    monkeypatch.setattr(files.Files, "read", counted)
    assert source.check(commit).available
    assert len(in_time) == 80
    assert all(in_time)


def test_a_version_that_was_removed_is_missed(source: FsspecSource, kept_url: str, tree: Path, tmp_path: Path) -> None:
    commit = source.pin(upload(tree, kept_url))
    fs, root = fsspec.url_to_fs(kept_url, use_listings_cache=False, version_aware=True)
    version = fs.info(f"{root}/a")["VersionId"]
    (tree / "a").write_bytes(b"1st")
    upload(tree, kept_url)
    assert source.check(commit).available
    bucket, _, folder = root.partition("/")
    fs.call_s3("delete_object", Bucket=bucket, Key=f"{folder}/a", VersionId=version)
    found = source.check(commit)
    assert not found.available
    assert "changed a" in found.reason
    assert "sub/b" not in found.reason
    with pytest.raises(DataUnavailable, match="changed a"):
        source.fetch(commit, tmp_path / "fetched")


def test_data_that_change_while_they_are_pinned_are_refused(
    source: FsspecSource, s3_url: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(tree, s3_url)
    (tree / "a").write_bytes(b"1st")
    keep = source._kept.put

    def put(pieces: Iterator[bytes]) -> str:
        digest = keep(pieces)
        upload(tree, s3_url)
        return digest

    monkeypatch.setattr(source._kept, "put", put)
    with pytest.raises(DataUnavailable, match="changed while it was being pinned: a"):
        source.pin(s3_url)
    monkeypatch.undo()
    assert source.pin(s3_url).digest == open_source(in_memory(Path(f"{tree}-2"))).pin(s3_url).digest


def test_names_that_no_file_can_have_are_refused(source: FsspecSource, gcs_url: str) -> None:
    fs, root = fsspec.url_to_fs(gcs_url)
    fs.pipe_file(f"{root}/a\\b", b"1")
    with pytest.raises(DataUnavailable, match="unsafe path"):
        source.pin(gcs_url)


# --- reading in place --------------------------------------------------------------------------------------------


def test_open_gives_the_pinned_versions_and_no_others(source: FsspecSource, kept_url: str, tree: Path) -> None:
    commit = source.pin(upload(tree, kept_url))
    (tree / "a").write_bytes(b"other")
    (tree / "sub/b").unlink()
    (tree / "new").write_bytes(b"new")
    upload(tree, kept_url)
    opened, path = source.open(commit)
    fs = pickle.loads(pickle.dumps(opened))
    assert sorted(fs.find(path)) == [f"{path}/a", f"{path}/sub/b"]
    assert sorted(fs.ls(path, detail=False)) == [f"{path}/a", f"{path}/sub"]
    assert fs.isdir(f"{path}/sub")
    assert fs.glob(f"{path}/*/b") == [f"{path}/sub/b"]
    assert fs.cat_file(f"{path}/sub/b") == b"two"
    assert fs.cat_file(f"{path}/a", start=-2) == b"ne"
    with fs.open(f"{path}/a") as stream:
        stream.seek(1)
        assert stream.read() == b"ne"
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"{path}/new")
    with pytest.raises(PermissionError):
        fs.open(f"{path}/a", "wb")


def test_open_refuses_what_changes_afterwards(source: FsspecSource, s3_url: str, tree: Path) -> None:
    fs, path = source.open(source.pin(upload(tree, s3_url)))
    assert fs.cat_file(f"{path}/a") == b"one"
    (tree / "a").write_bytes(b"1st")
    upload(tree, s3_url)
    with pytest.raises(DataUnavailable, match="no longer what was pinned"):
        fs.cat_file(f"{path}/a")
    with pytest.raises(DataUnavailable, match="no longer what was pinned"):
        fs.open(f"{path}/a")
    assert fs.cat_file(f"{path}/sub/b") == b"two"


def test_a_file_that_changes_while_it_is_open_is_refused(
    source: FsspecSource, s3_url: str, tree: Path, tmp_path: Path
) -> None:
    (tree / "a").write_bytes(b"0123456789")
    fs, path = source.open(source.pin(upload(tree, s3_url)))
    with fs.open(f"{path}/a", block_size=4, cache_type="none") as stream:
        assert stream.read(4) == b"0123"
        (tree / "a").write_bytes(b"abcdefghij")
        upload(tree, s3_url)
        with pytest.raises(DataUnavailable, match="/a is no longer what was pinned"):
            stream.read(4)


# --- networks and errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "nth"), [("unavailable", 4), ("cut", 4)])
def test_a_bad_network_costs_time_and_nothing_else(
    source: FsspecSource, s3_service: Service, fault: Fault, nth: int, tmp_path: Path
) -> None:
    large = tmp_path / "tree"
    large.mkdir()
    content = random.Random(7).randbytes(2 * files.Files.piece + 1000)
    (large / "large").write_bytes(content)
    for number in range(8):
        (large / f"part-{number}").write_bytes(bytes([number]))
    with s3_service.folder() as url:
        upload(large, url)
    with BadNetwork(s3_service.port, fault, nth) as network, s3_service.folder(network.port):
        commit = source.pin(f"{url}?keep=no")
        source.fetch(commit, tmp_path / "fetched")
    assert network.hit > 3
    assert (tmp_path / "fetched/large").read_bytes() == content


class NoVersions(BadNetwork):
    """Keys that may list and read, and not list versions."""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.nth = 1 if "versions" in handler.path.partition("?")[2] else 1 << 30
        super().answer(handler)


def test_without_leave_to_list_versions_content_is_pinned(
    source: FsspecSource, s3_service: Service, versioned_s3: str, tree: Path, tmp_path: Path
) -> None:
    url = f"{versioned_s3}/{uuid4().hex[:8]}"
    with s3_service.folder():
        upload(tree, url)
    with NoVersions(s3_service.port, "forbidden", 1) as network, s3_service.folder(network.port):
        commit = source.pin(url)
        source.fetch(commit, tmp_path / "fetched")
    assert network.hit
    assert commit.details["versions"] == "unknown"
    assert (tmp_path / "fetched/a").read_bytes() == b"one"


@pytest.fixture(params=["s3", "gcs", "azure"])
def service(request: pytest.FixtureRequest) -> Service:
    found: Service = request.getfixturevalue(f"{request.param}_service")
    return found


def refused(source: FsspecSource, uri: str) -> str:
    """What is said about a URI that cannot be pinned."""
    with pytest.raises(DataUnavailable) as caught:
        source.pin(uri)
    assert caught.value.mend
    assert len(str(caught.value).splitlines()) == 1
    return f"{caught.value}: {caught.value.mend}"


def test_what_is_not_there_is_said(source: FsspecSource, service: Service) -> None:
    with service.folder() as url:
        for missing in (f"{url}/nowhere", f"{url}/nowhere/", f"{service.scheme}://nosuchbucket/train"):
            said = refused(source, missing)
            assert missing in said
            assert "check the bucket or container" in said


def test_a_whole_bucket(source: FsspecSource, service: Service, tree: Path, tmp_path: Path) -> None:
    with service.folder():
        fs = fsspec.filesystem(service.scheme, skip_instance_cache=True)
        fs.mkdir("whole-bucket")
        commit = source.pin(upload(tree, f"{service.scheme}://whole-bucket"))
        source.fetch(commit, tmp_path / "fetched")
        opened, path = source.open(commit)
        assert opened.cat_file(f"{path}/sub/b") == b"two"
    assert (tmp_path / "fetched/sub/b").read_bytes() == b"two"
    assert commit.digest == Hasher().tree(tree).digest


@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_a_wrong_key_is_said_and_not_shown(
    kind: str, source: FsspecSource, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    service: Service = request.getfixturevalue(f"{kind}_service")
    with service.folder() as url:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "c2VjcmV0")
        right = service.environ().get("AZURE_STORAGE_CONNECTION_STRING", "")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", right.replace("AccountKey=Eby8", "AccountKey=AAAA"))
        said = refused(source, f"{url}/train/")
    assert "check the credentials" in said
    assert "c2VjcmV0" not in said
    assert "AAAA" not in said


@pytest.mark.slow
def test_nobody_there_is_said_in_a_while(source: FsspecSource, s3_service: Service) -> None:
    with s3_service.folder(free_port()) as url:
        assert "check the endpoint and the network" in refused(source, url)


# --- HTTP --------------------------------------------------------------------------------------------------------


class Web:
    """A web server with one file, that may or may not give parts of it."""

    def __init__(self, *, ranges: bool) -> None:
        web = self
        self.content = b""
        self.status = 200
        self.length = True

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body, status = web.content, web.status if self.path == "/file.bin" else 404
                asked = self.headers.get("Range")
                if ranges and asked and status == 200:
                    first, _, last = asked.removeprefix("bytes=").partition("-")
                    body, status = body[int(first) : int(last) + 1], 206
                self.send_response(status)
                self.send_header("ETag", f'"{hash(web.content)}"')
                if web.length:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 - http.server asks for this name

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/file.bin"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def web(request: pytest.FixtureRequest) -> Iterator[Web]:
    web = Web(ranges=request.param)
    yield web
    web.server.shutdown()
    web.server.server_close()


def test_a_file_on_the_web(source: FsspecSource, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.Files, "piece", 1000)
    web.content = random.Random(1).randbytes(3500)
    commit = source.pin(web.url)
    assert (commit.files, commit.bytes) == (1, 3500)
    assert commit.details["checksum"] == str(hash(web.content))
    assert commit.details["versions"] == "not kept"
    for name in ("moved", "read"):
        source.fetch(commit, tmp_path / name)
        assert (tmp_path / name).read_bytes() == web.content
    fs, path = source.open(commit)
    assert fs.cat_file(path) == web.content
    web.content = web.content[::-1]
    assert "changed file.bin" in source.check(commit).reason
    with pytest.raises(DataUnavailable, match=r"changed file\.bin"):
        source.fetch(commit, tmp_path / "other")
    web.length = False
    with pytest.raises(DataUnavailable, match="does not say how long it is"):
        fs.open(path)


def test_what_the_web_refuses(source: FsspecSource, web: Web) -> None:
    web.content = b"1"
    assert "there are no files at" in refused(source, web.url + "x")
    web.status = 403
    assert "check the credentials" in refused(source, web.url)
    web.status, web.length = 200, False
    assert "does not say how long it is" in refused(source, web.url)
    web.server.shutdown()
    web.server.server_close()
    assert "check the endpoint" in refused(source, web.url)
