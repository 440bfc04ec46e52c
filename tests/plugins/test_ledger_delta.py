"""Delta tables: real ones, made by deltalake, on disk and on S3; what deltalake cannot write is written by hand."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given
from hypothesis import strategies as st

import ledger_delta
from ledger import Hasher, ObjectStore, Settings
from ledger.errors import DataUnavailable, LedgerError, PluginUnavailable, UsageError
from ledger.settings import in_memory
from ledger.testing.data_sources import BaseDataSourceTests
from ledger_delta.snapshot import LOG
from ledger_delta.source import DeltaSource
from ledger_delta.uris import Asked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ledger.hooks.ports import DataSource

HTTP = {"AWS_ALLOW_HTTP": "true"}


def open_source(settings: Settings) -> DeltaSource:
    objects = ObjectStore(settings.objects, scratch=settings.scratch)
    source = ledger_delta.open_data_source("delta+file:x", settings, objects)
    assert isinstance(source, DeltaSource)
    return source


@pytest.fixture
def source(tmp_path: Path) -> DeltaSource:
    return open_source(in_memory(tmp_path / "ledger"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Version 0 holds 0, 1, 2; version 1 holds 3, 4, 5 besides."""
    where = tmp_path / "a table"
    for start in (0, 3):
        write_deltalake(where, numbers(range(start, start + 3)), mode="append")
    return where


def numbers(values: Any) -> pa.Table:
    return pa.table({"n": pa.array(list(values), pa.int64())})


def uri(table: Path, at: object = None) -> str:
    return f"delta+{table.as_uri()}" + ("" if at is None else f"@{at}")


def rows(fetched: Path) -> list[Any]:
    """What a Delta reader finds, which must be what a Parquet reader finds."""
    found = DeltaTable(fetched).to_pyarrow_table()
    parquet = ds.dataset(fetched, format="parquet").to_table()
    assert sorted(parquet["n"].to_pylist()) == sorted(found["n"].to_pylist())
    return sorted(found["n"].to_pylist())


def parquet_files(table: Path) -> list[Path]:
    return sorted(table.rglob("*.parquet"))


class TestDeltaSource(BaseDataSourceTests):
    """Each file of the kit's tree is a row: its name and its content."""

    keeps_names = False
    missing_uri = "delta+file:///nowhere/at/all"
    malformed_uri = "delta+file:///table@latest"

    @pytest.fixture
    def source(self, tmp_path: Path) -> DataSource:
        return open_source(in_memory(tmp_path / "ledger"))

    @pytest.fixture
    def publish(self, tmp_path: Path) -> Callable[[Path], str]:
        return lambda local: self.write(local, str(tmp_path / "table"), uri(tmp_path / "table"), {})

    def write(self, local: Path, where: str, uri: str, options: Mapping[str, str]) -> str:
        files = [path for path in sorted(local.rglob("*")) if path.is_file()]
        names = [path.relative_to(local).as_posix() for path in files]
        rows = pa.table({"name": names, "content": [path.read_bytes() for path in files]})
        write_deltalake(where, rows, mode="overwrite", storage_options=dict(options))
        return uri

    def content(self, fetched: Path) -> dict[str, bytes]:
        rows = DeltaTable(fetched).to_pyarrow_table().to_pylist()
        return {row["name"]: row["content"] for row in rows}

    def content_in_place(self, filesystem: Any, path: str, name: str) -> bytes:
        rows = ds.dataset(path, filesystem=filesystem, format="parquet").to_table().to_pylist()
        return bytes(next(row["content"] for row in rows if row["name"] == name))


@pytest.mark.slow
class TestOnS3(TestDeltaSource):
    @pytest.fixture
    def publish(self, s3_url: str) -> Callable[[Path], str]:
        return lambda local: self.write(local, f"{s3_url}/table", f"delta+{s3_url}/table", HTTP)


# --- what a pin means --------------------------------------------------------------------------------------------


def test_versions_and_times_are_pinned(source: DeltaSource, table: Path, tmp_path: Path) -> None:
    newest = DeltaTable(table)
    old = datetime.fromtimestamp(newest.history()[1]["timestamp"] / 1000, UTC)
    for number, (at, version, expected) in enumerate(
        [
            (None, 1, [0, 1, 2, 3, 4, 5]),
            (1, 1, [0, 1, 2, 3, 4, 5]),
            (0, 0, [0, 1, 2]),
            (old.isoformat(), 0, [0, 1, 2]),
            ("2200-01-01", 1, [0, 1, 2, 3, 4, 5]),
        ]
    ):
        commit = source.pin(uri(table, at))
        assert commit.commit == f"{newest.metadata().id}@{version}"
        assert commit.details["table"] == newest.metadata().id
        assert commit.details["version"] == version
        made = newest.history()[1 - version]["timestamp"]
        assert commit.details["committed"] == datetime.fromtimestamp(made / 1000, UTC).isoformat()
        source.fetch(commit, tmp_path / f"fetched{number}")
        assert rows(tmp_path / f"fetched{number}") == expected
        assert Hasher().tree(tmp_path / f"fetched{number}").digest == commit.digest


def test_a_time_means_the_same_version_where_the_table_was_copied(
    source: DeltaSource, table: Path, tmp_path: Path
) -> None:
    made = datetime.fromtimestamp(DeltaTable(table).history()[0]["timestamp"] / 1000, UTC)
    for number, written in enumerate((made.timestamp() - 1e6, made.timestamp() + 1e6)):
        copied = tmp_path / f"copied {number}"
        shutil.copytree(table, copied)
        for entry in (copied / "_delta_log").iterdir():
            os.utime(entry, (written, written))
        for at, version in ((made, 1), (made - timedelta(milliseconds=1), 0)):
            commit = source.pin(uri(copied, at.isoformat()))
            assert commit.details["version"] == version
        with pytest.raises(DataUnavailable, match="no version as old"):
            source.pin(uri(copied, (made - timedelta(days=1)).isoformat()))


def test_a_commit_that_does_not_say_when_it_was_made_is_as_old_as_its_file(source: DeltaSource, table: Path) -> None:
    entry = table / "_delta_log/00000000000000000001.json"
    entry.write_text("".join(line for line in entry.open() if "commitInfo" not in line))
    os.utime(entry, (4e9, 4e9))
    at = datetime.fromtimestamp(4e9, UTC)
    assert source.pin(uri(table, 1)).details["committed"] == at.isoformat()
    assert source.pin(uri(table, at.isoformat())).details["version"] == 1
    assert source.pin(uri(table, (at - timedelta(days=1)).isoformat())).details["version"] == 0


def test_the_digest_over_the_add_actions_is_that_of_the_version(source: DeltaSource, table: Path) -> None:
    first, second = source.pin(uri(table, 0)), source.pin(uri(table, 1))
    assert first.details["adds"] != second.details["adds"]
    assert source.pin(uri(table, 0)).details["adds"] == first.details["adds"]


def test_the_table_may_go_on_and_lose_its_log(source: DeltaSource, table: Path, tmp_path: Path) -> None:
    commit = source.pin(uri(table))
    write_deltalake(table, numbers([9]), mode="overwrite")
    for entry in (table / "_delta_log").iterdir():
        entry.unlink()
    assert source.check(commit).available
    source.fetch(commit, tmp_path / "fetched")
    assert rows(tmp_path / "fetched") == [0, 1, 2, 3, 4, 5]


def test_partitions_and_columns_that_came_later_are_there(source: DeltaSource, tmp_path: Path) -> None:
    where = tmp_path / "table"
    keys = {
        "text": pa.array(["a b/c", "é?#%", None, "x=1"]),
        "day": pa.array([date(2026, 1, 2), None, date(1969, 12, 31), date(2026, 1, 2)]),
        "at": pa.array([datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), None, datetime(1969, 1, 1, tzinfo=UTC), None]),
        "yes": pa.array([True, False, None, True]),
        "share": pa.array([1, -5, None, 0]),
    }
    old = pa.table({"n": [1, 2, 3, 4], **keys})
    write_deltalake(where, old, partition_by=list(keys))
    new = old.append_column("later", pa.array(["l", "m", "n", "o"]))
    write_deltalake(where, new, mode="append", schema_mode="merge")
    commit = source.pin(uri(where))
    source.fetch(commit, tmp_path / "fetched")
    fetched, original = (DeltaTable(each).to_pyarrow_table() for each in (tmp_path / "fetched", where))
    assert fetched.schema == original.schema
    order = [("n", "ascending"), ("later", "ascending")]
    assert fetched.sort_by(order).to_pylist() == original.sort_by(order).to_pylist()
    assert {row["later"] for row in fetched.to_pylist()} == {None, "l", "m", "n", "o"}
    filesystem, path = source.open(commit)
    hive = ds.dataset(path, filesystem=filesystem, format="parquet", partitioning="hive").to_table()
    assert sorted(map(str, hive["text"].to_pylist())) == sorted(map(str, original["text"].to_pylist()))


def test_what_is_opened_can_be_sent_to_another_process_and_holds_no_other_version(
    source: DeltaSource, table: Path
) -> None:
    filesystem, path = source.open(source.pin(uri(table, 0)))
    again = pickle.loads(pickle.dumps(filesystem))
    assert len(again.find(path)) == 2
    assert ds.dataset(path, filesystem=again, format="parquet").to_table()["n"].to_pylist() == [0, 1, 2]


# --- what cannot be had ------------------------------------------------------------------------------------------


def test_a_vacuumed_version_is_found_by_name(source: DeltaSource, table: Path, tmp_path: Path) -> None:
    commit = source.pin(uri(table, 1))
    lost = [path.name for path in parquet_files(table)]
    write_deltalake(table, numbers([9]), mode="overwrite")
    DeltaTable(table).vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    availability = source.check(commit)
    assert not availability.available
    for call in (
        lambda: source.pin(uri(table, 1)),
        lambda: source.fetch(commit, tmp_path / "fetched"),
        lambda: source.open(commit),
    ):
        with pytest.raises(DataUnavailable) as caught:
            call()
        assert caught.value.mend
        for name in lost:
            assert name in str(caught.value)
            assert name in availability.reason
    assert not (tmp_path / "fetched").exists()
    assert source.check(source.pin(uri(table))).available


def test_a_file_that_was_written_to_is_named(source: DeltaSource, table: Path, tmp_path: Path) -> None:
    commit = source.pin(uri(table))
    victim = parquet_files(table)[0]
    content = bytearray(victim.read_bytes())
    content[20] ^= 1
    victim.write_bytes(content)
    assert source.check(commit).available  # as long as before: only reading it tells
    with pytest.raises(DataUnavailable, match=f"changed {victim.name}"):
        source.fetch(commit, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    victim.write_bytes(content + b"x")
    assert f"changed {victim.name}" in source.check(commit).reason


def test_a_pin_whose_objects_are_gone_is_unavailable(source: DeltaSource, table: Path, tmp_path: Path) -> None:
    commit = source.pin(uri(table))
    for found in (tmp_path / "ledger/objects").glob("??/*"):
        found.unlink()
    assert "object" in source.check(commit).reason
    with pytest.raises(LedgerError, match="object"):
        source.fetch(commit, tmp_path / "fetched")


@pytest.mark.parametrize(
    ("at", "told", "mend"),
    [
        (7, "has no version 7", "newest version is 1"),
        ("1999-12-31T23:59:59Z", "no version as old as 1999-12-31", "the oldest that its log still holds is 0"),
    ],
)
def test_a_version_that_never_was_is_told(source: DeltaSource, table: Path, at: object, told: str, mend: str) -> None:
    with pytest.raises(DataUnavailable, match=told) as caught:
        source.pin(uri(table, at))
    assert mend in str(caught.value.mend)


def test_a_number_in_a_name_is_no_refusal(source: DeltaSource, tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match="no Delta table at"):
        source.pin(uri(tmp_path / "of 403 and 401"))


def test_a_version_whose_log_is_gone_is_told(source: DeltaSource, table: Path) -> None:
    DeltaTable(table).create_checkpoint()
    (table / "_delta_log/00000000000000000000.json").unlink()
    with pytest.raises(DataUnavailable, match=r"version 0 of .* cannot be read") as caught:
        source.pin(uri(table, 0))
    assert "logRetentionDuration" in str(caught.value.mend)
    assert source.pin(uri(table)).details["version"] == 1


def test_without_the_library_the_mend_is_told(
    source: DeltaSource, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(PluginUnavailable, match="deltalake is not installed") as caught:
        source.pin(uri(table))
    assert caught.value.mend == "pip install 'training-ledger[delta]'"


def test_a_table_without_rows_is_refused(source: DeltaSource, tmp_path: Path) -> None:
    DeltaTable.create(tmp_path / "empty", schema=numbers([]).schema)
    with pytest.raises(DataUnavailable, match="holds no files"):
        source.pin(uri(tmp_path / "empty"))


# --- tables whose Parquet files are not the table ----------------------------------------------------------------


def append_by_hand(table: Path, *actions: dict[str, Any]) -> None:
    version = DeltaTable(table).version() + 1
    lines = [json.dumps(action) for action in ({"commitInfo": {"timestamp": version}}, *actions)]
    (table / f"_delta_log/{version:020}.json").write_text("\n".join(lines) + "\n")


def logged(table: Path, kind: str) -> dict[str, Any]:
    text = (table / LOG).read_text()
    return next(action for action in map(json.loads, text.splitlines()) if kind in action)


def features(*names: str) -> dict[str, Any]:
    return {
        "protocol": {
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": list(names),
            "writerFeatures": list(names),
        }
    }


def deletion_vector(*deleted: int) -> dict[str, Any]:
    """Inline, as the Delta protocol says in "Deletion Vector Format": a 64-bit Roaring bitmap, in Z85."""
    bitmap = struct.pack("<II", 12346, 1) + struct.pack("<HHI", 0, len(deleted) - 1, 16)
    raw = struct.pack("<IQI", 1681511377, 1, 0) + bitmap + b"".join(struct.pack("<H", row) for row in deleted)
    alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    words = [int.from_bytes(raw[start : start + 4], "big") for start in range(0, len(raw), 4)]
    text = "".join(alphabet[word // 85**power % 85] for word in words for power in (4, 3, 2, 1, 0))
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(raw), "cardinality": len(deleted)}


def test_deletion_vectors_are_refused_and_named(source: DeltaSource, table: Path) -> None:
    add = logged(table, "add")
    gone = {"remove": {"path": add["add"]["path"], "dataChange": True, "deletionTimestamp": 1}}
    append_by_hand(table, features("deletionVectors"))
    assert source.pin(uri(table)).files == 3  # allowed, and none there
    append_by_hand(table, gone, {"add": add["add"] | {"deletionVector": deletion_vector(0, 2)}})
    with pytest.raises(DataUnavailable, match="deletion vectors") as caught:
        source.pin(uri(table))
    assert add["add"]["path"] in str(caught.value)
    assert "PURGE" in str(caught.value.mend)


def test_mapped_columns_are_refused(source: DeltaSource, table: Path) -> None:
    metadata = logged(table, "metaData")
    names = {"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": "n"}
    field = {"name": "renamed", "type": "long", "nullable": True, "metadata": names}
    metadata["metaData"]["configuration"] = {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "1"}
    metadata["metaData"]["schemaString"] = json.dumps({"type": "struct", "fields": [field]})
    append_by_hand(table, {"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}}, metadata)
    with pytest.raises(DataUnavailable, match="maps its columns") as caught:
        source.pin(uri(table))
    assert caught.value.mend


def test_a_shallow_clone_is_refused(source: DeltaSource, table: Path, tmp_path: Path) -> None:
    add = logged(table, "add")
    add["add"]["path"] = (table / add["add"]["path"]).as_uri()
    (tmp_path / "clone/_delta_log").mkdir(parents=True)
    actions = [logged(table, "protocol"), logged(table, "metaData"), add]
    (tmp_path / "clone" / LOG).write_text("\n".join(map(json.dumps, actions)))
    with pytest.raises(DataUnavailable, match="files of another table"):
        source.pin(uri(tmp_path / "clone"))


def test_a_path_that_leaves_the_table_is_refused(source: DeltaSource, table: Path) -> None:
    add = logged(table, "add")
    (table.parent / "secret").write_bytes(b"x" * add["add"]["size"])
    append_by_hand(table, {"add": add["add"] | {"path": "../secret"}})
    with pytest.raises(DataUnavailable, match=r"\.\./secret"):
        source.pin(uri(table))


# --- URIs and keys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "root", "at"),
    [
        ("delta+file:///a/b", "file:///a/b", None),
        ("DELTA+FILE:///a/b/@3", "file:///a/b", 3),
        ("delta+file:///a%40b/c%20d@0", "file:///a%40b/c%20d", 0),
        ("delta+file:///a/b@2026-11-20", "file:///a/b", datetime(2026, 11, 20, tzinfo=UTC)),
        ("delta+s3://bucket/a/b_c=1/", "s3://bucket/a/b_c=1", None),
        ("delta+s3://bucket/@12", "s3://bucket", 12),
        ("delta+s3://bucket/t@2026-11-20T12:00:00Z", "s3://bucket/t", datetime(2026, 11, 20, 12, tzinfo=UTC)),
    ],
)
def test_reads_uris(asked: str, root: str, at: object) -> None:
    assert Asked.parse(asked) == Asked(root, at)  # type: ignore[arg-type]


@given(path=st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=20))
def test_any_directory_can_be_named(path: str) -> None:
    place = Path("/tables") / path
    if place.name != path or path in (".", ".."):
        return
    assert Asked.parse(f"delta+{place.as_uri().replace('@', '%40')}@7") == Asked(place.as_uri(), 7)


@pytest.mark.parametrize(
    "asked",
    [
        "delta+file:",
        "delta+file://host/share",
        "delta+gs://bucket/table",
        "delta+s3:bucket/table",
        "delta+s3://Bucket/table",
        "delta+s3://bucket/a b",
        "delta+s3://bucket/a//b",
        "delta+s3://bucket/a@",
        "delta+file:///a@v1",
        "delta+file:///a@-1",
        "delta+file:///a?version=1",
    ],
)
def test_refuses_malformed_uris(asked: str) -> None:
    with pytest.raises(UsageError) as caught:
        Asked.parse(asked)
    assert caught.value.mend


def test_a_key_in_a_uri_is_refused_and_not_repeated() -> None:
    for asked in (
        "delta+s3://AKIA:hunter2@bucket/t",
        "delta+s3://hunter2@bucket/t@3",
        "delta+s3://AKIA:hunter2@bucket",
        "delta+s3://bucket/t?secret=hunter2",
        "delta+gs://me:hunter2@bucket/t",
        "delta+gs:me:hunter2@bucket/t",
    ):
        with pytest.raises(UsageError) as caught:
            Asked.parse(asked)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_a_wrong_key_is_told_and_not_shown(
    source: DeltaSource, s3_url: str, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    write_deltalake(f"{s3_url}/t", numbers([1]), storage_options=HTTP)
    commit = source.pin(f"delta+{s3_url}/t")
    assert all(os.environ[name] not in str(commit) for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"))
    monkeypatch.setenv(wrong, "very-wrong")
    with pytest.raises(DataUnavailable, match=r"s3://.* may not be read") as caught:
        source.pin(f"delta+{s3_url}/t")
    assert caught.value.mend
    for told in (str(caught.value), source.check(commit).reason):
        assert "very-wrong" not in told
        assert "of-tests" not in told
    assert "may not be read" in source.check(commit).reason


def test_no_key_and_no_server_are_told_soon(
    source: DeltaSource, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataUnavailable, match="no Delta table at s3://"):
        source.pin(f"delta+{s3_url}/nothing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DataUnavailable, match="cannot be read") as caught:
        source.pin(f"delta+{s3_url}/nothing")
    assert "server answers" in str(caught.value.mend)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(DataUnavailable, match="no keys for S3") as caught:
        source.pin(f"delta+{s3_url}/nothing")
    assert "AWS_ACCESS_KEY_ID" in str(caught.value.mend)
