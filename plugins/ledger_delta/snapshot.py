"""One version of a table: the files that it is made of, and the log that says so."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from ledger.codec import canonical_json
from ledger.errors import DataUnavailable, some

if TYPE_CHECKING:
    from deltalake import DeltaTable

LOG: Final = "_delta_log/00000000000000000000.json"
"""The one entry of the log of a table that is fetched."""
_HARMLESS: Final = frozenset(
    {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "typeWidening", "variantType", "variantShredding"}
)
"""What a table may ask of its readers that leaves the rows of its Parquet files those of the table."""


@dataclass(frozen=True)
class Snapshot:
    """A version of a table, without the bytes of its files."""

    table: str
    """The id that the table got when it was made."""
    version: int
    files: dict[str, int]
    """Size of each Parquet file, by its path in the table."""
    adds: str
    """SHA-256 over the add actions: which files, how long, with which partition values."""
    log: bytes
    """The log of a table that holds this version and nothing else: protocol, metadata and add actions."""


def snapshot_of(table: DeltaTable) -> Snapshot:
    """The version that ``table`` is at.

    Raises ``DataUnavailable`` where its Parquet files, read as they are, would not be the table.
    """
    metadata = table.metadata()
    what = f"version {table.version()} of the table {metadata.name or metadata.id}"
    _refuse_unlike_parquet(table, what)
    rows = _add_actions(table)
    files = {unquote(row["path"]): row["size"] for row in rows}
    if outside := [path for path in files if path.startswith("/") or ":" in path.partition("/")[0]]:
        raise DataUnavailable(
            some(f"{what} is made of files of another table:", outside),
            mend="it is a shallow clone: pin the table that it was cloned from, or a copy",
        )
    if not files:
        raise DataUnavailable(f"{what} holds no files", mend="pin a version that has rows")
    adds = [canonical_json({"add": row}) for row in rows]
    log = b"\n".join([canonical_json(_protocol(table)), canonical_json(_metadata(table)), *adds, b""])
    return Snapshot(str(metadata.id), table.version(), files, hashlib.sha256(b"\n".join(adds)).hexdigest(), log)


def _refuse_unlike_parquet(table: DeltaTable, what: str) -> None:
    configuration = table.metadata().configuration
    if configuration.get("delta.columnMapping.mode", "none") != "none":
        raise DataUnavailable(
            f"{what} maps its columns: in its Parquet files they have other names",
            mend="copy it to a table without delta.columnMapping.mode, and pin that",
        )
    features = {name.removesuffix("-preview") for name in table.protocol().reader_features or ()}
    if unknown := sorted(features - _HARMLESS - {"columnMapping", "deletionVectors"}):
        raise DataUnavailable(
            some(f"{what} asks of its readers what Ledger does not know:", unknown),
            mend="copy it to a table without these features, and pin that",
        )
    if "deletionVectors" in features and (marked := _with_deletions(table)):
        raise DataUnavailable(
            some(f"{what} has deletion vectors: rows that are deleted still stand in", marked),
            mend="write the files anew without them (REORG TABLE … APPLY (PURGE)), and pin the version that this makes",
        )


def _with_deletions(table: DeltaTable) -> list[str]:
    batches = table.deletion_vectors().read_all()
    return [str(path).rpartition("/")[2] for path in batches.column("filepath").to_pylist()]


def _add_actions(table: DeltaTable) -> list[dict[str, Any]]:
    actions = table.get_add_actions(flatten=False)
    columns: dict[str, list[Any]] = {name: list(actions.column(name).to_pylist()) for name in actions.schema.names}
    partitions = columns.get("partition") or [{} for _ in columns["path"]]
    rows = zip(
        columns["path"],
        columns["size_bytes"],
        columns["modification_time"],
        columns["num_records"],
        partitions,
        strict=True,
    )
    return [
        {
            "path": path,
            "size": size,
            "modificationTime": modified,
            "partitionValues": {name: _serialised(value) for name, value in partition.items()},
            "dataChange": True,
        }
        | ({} if records is None else {"stats": canonical_json({"numRecords": records}).decode()})
        for path, size, modified, records, partition in sorted(rows, key=lambda row: row[0])
    ]


def _serialised(value: Any) -> str | None:
    """As the Delta protocol writes partition values ("Partition Value Serialization")."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        if value.tzinfo:
            return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        return f"{value:%Y-%m-%d %H:%M:%S.%f}"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode()
    return str(value)


def _protocol(table: DeltaTable) -> dict[str, Any]:
    asked = table.protocol()
    lists = {"readerFeatures": asked.reader_features, "writerFeatures": asked.writer_features}
    return {
        "protocol": {"minReaderVersion": asked.min_reader_version, "minWriterVersion": asked.min_writer_version}
        | {name: sorted(features) for name, features in lists.items() if features is not None}
    }


def _metadata(table: DeltaTable) -> dict[str, Any]:
    metadata = table.metadata()
    return {
        "metaData": {
            "id": str(metadata.id),
            "name": metadata.name,
            "description": metadata.description,
            "format": {"provider": "parquet", "options": {}},
            "schemaString": table.schema().to_json(),
            "partitionColumns": metadata.partition_columns,
            "createdTime": metadata.created_time,
            "configuration": metadata.configuration,
        }
    }
