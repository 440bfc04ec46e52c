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
    # Left to itself, the library would find nothing below a folder such as ``_split=a``.
    found = directory.rglob("*.parquet")
    files = sorted(str(path) for path in found if not any(map(_hidden, path.relative_to(directory).parts)))
    if not files:
        raise DataUnavailable(f"{directory} holds no Parquet files", mend=mend)
    try:
        table = ds.dataset(files, format="parquet", partitioning="hive", partition_base_dir=str(directory)).to_table(
            columns=list(names)
        )
    except (OSError, pa.ArrowException) as error:
        raise DataUnavailable(
            f"{directory} holds no such table: {str(error).partition(chr(10))[0]}", mend=mend
        ) from error
    for name in names:
        if table[name].null_count:
            raise DataUnavailable(f"{directory}: the column {name} holds nulls", mend="leave those rows out")
    return [table[name].to_pylist() for name in names]


def _hidden(name: str) -> bool:
    """As Delta Lake has it: a name that is no part of the table, if it is not a column's."""
    return name.startswith((".", "_")) and "=" not in name
