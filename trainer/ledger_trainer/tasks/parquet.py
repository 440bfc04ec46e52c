"""Columns of a directory of Parquet files: what a Delta table is when it has been fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.errors import DataUnavailable, PluginUnavailable

if TYPE_CHECKING:
    from pathlib import Path


def read_columns(directory: Path, *names: str) -> list[list[Any]]:
    """The values of these columns, row by row, the files by their paths; a column may stand in paths (``label=3/``).

    Raises ``DataUnavailable`` where the directory does not hold them, whole and without nulls.
    """
    try:
        import pyarrow as pa
        import pyarrow.dataset as ds
    except ModuleNotFoundError as error:
        raise PluginUnavailable(
            f"{directory} cannot be read: {error.name} is not installed", mend="pip install 'training-ledger[delta]'"
        ) from error
    mend = f"give Parquet files with the columns {', '.join(names)}"
    if not any(directory.rglob("*.parquet")):
        raise DataUnavailable(f"{directory} holds no Parquet files", mend=mend)
    try:
        table = ds.dataset(directory, format="parquet", partitioning="hive").to_table(columns=list(names))
    except (OSError, pa.ArrowException) as error:
        raise DataUnavailable(
            f"{directory} holds no such table: {str(error).partition(chr(10))[0]}", mend=mend
        ) from error
    for name in names:
        if table[name].null_count:
            raise DataUnavailable(f"{directory}: the column {name} holds nulls", mend="leave those rows out")
    return [table[name].to_pylist() for name in names]
