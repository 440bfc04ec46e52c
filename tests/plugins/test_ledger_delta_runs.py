"""Runs that read Delta tables: recorded, repeated after rows were added, refused when the version was vacuumed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from tests.e2e.desk import Desk
from tests.e2e.test_data_sources import TASKS

if TYPE_CHECKING:
    from tests.servers import Service

HTTP = {"AWS_ALLOW_HTTP": "true"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    home = tmp_path / "desk"
    home.mkdir()
    desk = Desk(home)
    desk.git("init", "--quiet", "--initial-branch", "main")
    return desk


def rows(desk: Desk, task: str) -> pa.Table:
    """The task's data, or a part of them, as the columns that it reads."""
    file, _ = TASKS[task]
    desk.run("python", "-m", f"ledger_trainer.tasks.{task}", file)
    path = desk.home / file
    if task == "kjv":
        table = pa.table({"text": path.read_text().splitlines()[:300]})
    else:
        with np.load(path) as arrays:
            images = [image.tobytes() for image in arrays["images"]]
            table = pa.table({"image": pa.array(images, pa.binary()), "label": arrays["labels"].astype(np.int32)})
    path.unlink()
    return table


def record(desk: Desk, task: str, uri: str) -> None:
    """Train on the table as the run ``run-1``."""
    desk.write(recipe__toml=f'{TASKS[task][1]}[data.train]\nuri = "{uri}"\n', ledger__toml="[ledger]\n")
    desk.commit()
    desk.ledger("train", "recipe.toml")


@pytest.mark.parametrize(
    "task", [pytest.param("kjv", marks=pytest.mark.slow), pytest.param("mnist", marks=pytest.mark.thorough)]
)
def test_a_training_is_replayed_after_rows_were_added(desk: Desk, tmp_path: Path, task: str) -> None:
    where, data = tmp_path / "table", rows(desk, task)
    write_deltalake(where, data.slice(0, 150))
    write_deltalake(where, data.slice(150, 150), mode="append")
    record(desk, task, f"delta+{where.as_uri()}")
    (facts,) = desk.ledger("show", "run-1", "--json").json
    train = facts["data"]["train"]
    assert train["commit"] == f"{DeltaTable(where).metadata().id}@1"
    assert train["provider"] == "delta"
    assert train["details"]["version"] == 1

    pinned = [Path(uri).name for uri in DeltaTable(where).file_uris()]
    write_deltalake(where, data.slice(0, 10), mode="append")
    write_deltalake(where, data.slice(20, 10), mode="overwrite")
    assert desk.ledger("replay", "run-1").out.startswith("identical")

    DeltaTable(where).vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    refused = desk.ledger("replay", "run-1", code=4)
    assert "not-replayable" in refused.out + refused.err
    assert "data train cannot be had" in refused.out + refused.err
    assert all(name in refused.out + refused.err for name in pinned)


def test_a_command_reads_the_version_that_is_asked_for(desk: Desk, tmp_path: Path) -> None:
    for number in (1, 2):
        write_deltalake(tmp_path / "table", pa.table({"n": [number]}), mode="overwrite")
    # Not by to_pyarrow_table(): of its threads one may outlive the interpreter, and abort the process.
    desk.write(
        read__py="import os, deltalake, pyarrow.parquet as parquet\n"
        "(file,) = deltalake.DeltaTable(os.environ['LEDGER_DATA_TRAIN']).file_uris()\n"
        "print(parquet.read_table(file, use_threads=False))\n"
    )
    desk.commit()
    uri = f"delta+{(tmp_path / 'table').as_uri()}"
    for version, found in ((0, "[[1]]"), (1, "[[2]]")):
        done = desk.ledger("run", "--data", f"train={uri}@{version}", "--", "python", "read.py")
        assert found in done.out
    assert "no version 7" in desk.ledger("run", "--data", f"train={uri}@7", "--", "true", code=4).err
    assert "neither a version nor a time" in desk.ledger("run", "--data", f"train={uri}@old", "--", "true", code=2).err


@pytest.mark.slow
def test_a_training_on_s3_is_replayed(desk: Desk, s3_service: Service) -> None:
    with s3_service.folder() as url:
        desk.environ.update(s3_service.environ())
        data = rows(desk, "kjv")
        write_deltalake(f"{url}/table", data, storage_options=HTTP)
        record(desk, "kjv", f"delta+{url}/table@0")
        write_deltalake(f"{url}/table", data.slice(0, 5), mode="overwrite", storage_options=HTTP)
        assert desk.ledger("replay", "run-1").out.startswith("identical")
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in desk.ledger("log", "run-1", "--json").out
