"""The checkpoint store on real object storage: S3, Google Cloud Storage, Azure, over good and bad networks."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import fsspec
import pytest

from ledger.errors import Conflict, Unavailable
from ledger_fsspec.pieces import LARGEST
from tests.plugins.test_ledger_fsspec import Remote, open_store
from tests.servers import BadNetwork, Fault, Service, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.events import Stored


class TestS3(Remote):
    @pytest.fixture
    def root(self, s3_url: str) -> str:
        return s3_url


class TestGoogle(Remote):
    @pytest.fixture
    def root(self, gcs_url: str) -> str:
        return gcs_url


@pytest.mark.slow
class TestAzure(Remote):
    @pytest.fixture
    def root(self, azure_url: str) -> str:
        return azure_url


@pytest.fixture(params=["s3", "gcs", "azure"])
def service(request: pytest.FixtureRequest) -> Service:
    found: Service = request.getfixturevalue(f"{request.param}_service")
    return found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure's library waits 15 seconds before it tries again, and longer then."""
    monkeypatch.setattr("azure.storage.blob._shared.policies_async.ExponentialRetry.get_backoff_time", lambda *_: 0.1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "service",
    ["s3", pytest.param("gcs", marks=pytest.mark.thorough), pytest.param("azure", marks=pytest.mark.slow)],
    indirect=True,
)
@pytest.mark.parametrize(
    ("fault", "nth"),
    [("unavailable", 4), ("cut", 4), ("deaf", 5), pytest.param("crawl", 1, marks=pytest.mark.thorough)],
)
def test_a_bad_network_costs_time_and_nothing_else(service: Service, fault: Fault, nth: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for number in range(4):
        (out / f"part-{number}").write_bytes(random.Random(number).randbytes(200_000))
    drawn = random.getstate()
    with BadNetwork(service.port, fault, nth) as network, service.folder(network.port) as url:
        store = open_store(url, tmp_path)
        first = store.write(out, "run-1/step-1")
        assert store.write(out, "run-1/step-1") == first
        (out / "part-0").write_bytes(b"other")
        with pytest.raises(Conflict):
            store.write(out, "run-1/step-1")
        assert list(store.list("")) == [first]
        store.read(first, tmp_path / "back")
        store.delete(first)
        assert list(store.list("")) == []
        assert list(store.sweep(dry=False)) == []
    assert network.hit > 3
    assert random.getstate() == drawn, "what a training draws next must not depend on the network"
    assert (tmp_path / "back/part-0").read_bytes() == random.Random(0).randbytes(200_000)


@pytest.mark.parametrize("url", ["s3://bucket/a", "gs://bucket/a", "az://bucket/a"])
def test_a_library_that_comes_with_the_first_checkpoint_draws_no_number_of_the_training(url: str) -> None:
    code = f"""
        import random, sys
        state = random.getstate()
        from ledger_fsspec.services import connect
        connect({url!r}, "")
        assert random.getstate() == state
        assert sys.modules["random"] is random
    """
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "STORAGE_EMULATOR_HOST": "http://127.0.0.1:9"}
    environ = os.environ | keys | {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_ACCOUNT_KEY": "YQ=="}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environ, check=True, timeout=120)


def _write_at_once(start: threading.Barrier, url: str, home: Path, number: int, key: str) -> Stored | None:
    start.wait()
    try:
        return open_store(url, home).write(home / f"out-{number}", key)
    except Conflict:
        return None


def test_of_two_writers_of_one_key_one_gets_a_conflict(service: Service, tmp_path: Path) -> None:
    """Neither sees the other until the end; what is there is wholly the one's or wholly the other's."""
    for number in range(2):
        (tmp_path / f"out-{number}").mkdir()
        for part in range(3):
            (tmp_path / f"out-{number}/part-{part}").write_bytes(b"%d %d" % (number, part))
    with service.folder() as url:
        for attempt in range(3):
            start = threading.Barrier(2)
            key = f"run-1/step-{attempt}"
            with ThreadPoolExecutor(2) as pool:
                tries = [pool.submit(_write_at_once, start, url, tmp_path, number, key) for number in range(2)]
                (winner,) = [stored for stored in (each.result() for each in tries) if stored]
            assert list(open_store(url, tmp_path).list(key)) == [winner]
            open_store(url, tmp_path).read(winner, tmp_path / f"back-{attempt}")


def test_a_large_file_goes_in_parts(service: Service, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.bin").write_bytes(random.Random(0).randbytes(40_000_000))
    with service.folder() as url:
        store = open_store(url, tmp_path)
        stored = store.write(out, "run-1/step-1")
        store.read(stored, tmp_path / "back")
        fs, path = fsspec.url_to_fs(url)
        sizes = [about["size"] for about in fs.find(f"{path}/objects", detail=True).values()]
    assert len(sizes) == 3
    assert max(sizes) < LARGEST + 1000
    assert (tmp_path / "back/model.bin").read_bytes() == (out / "model.bin").read_bytes()


def test_a_missing_bucket_is_found_before_it_is_needed(service: Service, tmp_path: Path) -> None:
    with service.folder():
        store = open_store(f"{service.scheme}://nosuchbucket/checkpoints", tmp_path)
        with pytest.raises(Unavailable) as caught:
            store.check()  # type: ignore[attr-defined]
    assert "nosuchbucket" in str(caught.value)
    assert caught.value.mend
    assert "bucket" in caught.value.mend


def test_a_good_place_passes_the_check_and_keeps_nothing(service: Service, tmp_path: Path) -> None:
    with service.folder() as url:
        open_store(url, tmp_path).check()  # type: ignore[attr-defined]
        assert list(open_store(url, tmp_path).sweep(dry=True)) == []


@pytest.mark.parametrize(("fault", "mend"), [("full", "make room"), ("forbidden", "permissions")])
def test_a_bucket_that_takes_no_more_loses_nothing(
    s3_service: Service, fault: Fault, mend: str, tmp_path: Path
) -> None:
    """The third upload is refused, and all after it."""
    for step in range(2):
        (tmp_path / f"out-{step}").mkdir()
        for number in range(4):
            (tmp_path / f"out-{step}/part-{number}").write_bytes(random.Random(4 * step + number).randbytes(200_000))
    with (
        BadNetwork(s3_service.port, fault, 1, methods=()) as network,
        s3_service.folder(network.port) as url,
    ):
        store = open_store(url, tmp_path)
        first = store.write(tmp_path / "out-0", "run-1/step-1")
        network.begin(("PUT", "POST"), after=2)
        with pytest.raises(Unavailable) as caught:
            store.write(tmp_path / "out-1", "run-1/step-2")
        network.begin(())
        assert list(store.list("")) == [first]
        store.read(first, tmp_path / "back")
        again = store.write(tmp_path / "out-1", "run-1/step-2")
        assert list(store.list("")) == [first, again]
    assert network.hit > 0
    assert mend in (caught.value.mend or "")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_a_wrong_key_is_said_and_not_shown(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service: Service = request.getfixturevalue(f"{kind}_service")
    with service.folder() as url:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "c2VjcmV0")
        right = service.environ().get("AZURE_STORAGE_CONNECTION_STRING", "")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", right.replace("AccountKey=Eby8", "AccountKey=AAAA"))
        with pytest.raises(Unavailable) as caught:
            open_store(url, tmp_path).check()  # type: ignore[attr-defined]
    assert "credentials" in (caught.value.mend or "")
    said = f"{caught.value} {caught.value.mend}"
    assert "c2VjcmV0" not in said
    assert "AAAA" not in said


@pytest.mark.slow
def test_nobody_there_is_said_in_a_while(tmp_path: Path, s3_service: Service) -> None:
    with s3_service.folder(free_port()) as url, pytest.raises(Unavailable) as caught:
        open_store(url, tmp_path).check()  # type: ignore[attr-defined]
    assert caught.value.mend
    assert url in str(caught.value)


def test_no_secret_is_on_record(service: Service, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model").write_bytes(b"1")
    with service.folder() as url:
        stored = open_store(url, tmp_path).write(out, "run-1/step-1")
        assert stored.uri == f"{url}/run-1/step-1"
        for secret in service.environ().values():
            assert secret not in stored.model_dump_json()
