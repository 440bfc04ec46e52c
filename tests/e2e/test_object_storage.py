"""A training whose checkpoints lie in a bucket: killed, resumed, replayed; and a bucket that takes no more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import fsspec
import pytest

from ledger_trainer.demo import kill_all
from tests.e2e.desk import PATIENCE_S
from tests.e2e.test_training import RECIPE
from tests.servers import BadNetwork

if TYPE_CHECKING:
    from tests.e2e.desk import Desk
    from tests.servers import Service


TRAIN = ("train", "recipe.toml", "steps=240", "evaluate.every=60", "checkpoint.every=60", 'checkpoint.best=""')


@pytest.fixture
def desk(desk: Desk) -> Desk:
    desk.write(recipe__toml=RECIPE, __gitignore="data/\n")
    desk.run("python", "-m", "ledger_trainer.tasks.kjv", "data/whole.txt")
    text = (desk.home / "data/whole.txt").read_text()[:50_000]
    (desk.home / "data/whole.txt").unlink()
    (desk.home / "data/kjv.txt").write_text(text)
    desk.commit()
    desk.ledger("init")
    return desk


def await_checkpoint(url: str, step: int) -> None:
    """Return when that of ``step`` lies in the bucket: those before it are on record."""
    fs, path = fsspec.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    deadline = time.monotonic() + PATIENCE_S
    while not fs.exists(f"{path}/run-1/step-{step}/checkpoint.json"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_resumed_and_replayed_from_a_bucket(desk: Desk, s3_service: Service) -> None:
    with s3_service.folder() as url:
        desk.environ.update(s3_service.environ() | {"LEDGER_CHECKPOINTS": url})
        training = desk.start(*TRAIN)
        await_checkpoint(url, 120)
        kill_all(training.pid)
        training.communicate()
        desk.ledger("resume", "run-1")
        (resumed,) = [
            f["payload"] for f in desk.ledger("log", "run-1", "--json").json if f["type"] == "training.resumed"
        ]
        assert resumed["uri"].startswith(f"{url}/run-1/")
        (compared,) = desk.ledger("replay", "run-1", "--json").json
        assert compared["verdict"] == "identical"
        assert any(check["name"].startswith("checkpoint ") for check in compared["checks"])
        desk.ledger("fetch", "run-1", "last", "model")
        assert "run-1" in desk.ledger("audit", "model").out
        assert desk.ledger("verify").out.startswith("ok")
        assert [waste for waste in desk.ledger("gc", "--json").json if waste["place"] == "checkpoints"] == []
        log = desk.ledger("log", "run-1", "--json").out + desk.ledger("log", "run-2", "--json").out
        assert not [secret for name, secret in s3_service.environ().items() if "SECRET" in name and secret in log]
    assert not (desk.home / ".ledger/checkpoints").exists()


@pytest.mark.thorough
def test_a_bucket_that_takes_no_more_is_told_before_a_training_and_costs_none_its_state(
    desk: Desk, s3_service: Service
) -> None:
    """Full from the beginning, it starts nothing; filled up later, it leaves all that was there to go on from."""
    with BadNetwork(s3_service.port, "full", 1, methods=("PUT", "POST")) as network, s3_service.folder() as url:
        desk.environ.update(s3_service.environ(network.port) | {"LEDGER_CHECKPOINTS": url})
        refused = desk.ledger("train", "recipe.toml", code=4).err
        assert "make room" in refused
        assert len(refused.splitlines()) == 2
        assert desk.ledger("ls", "--json").json == []

        network.begin(())
        training = desk.start(*TRAIN)
        await_checkpoint(url, 120)
        network.begin(("PUT", "POST"))
        said = training.communicate(timeout=PATIENCE_S)[0]
        assert training.returncode == 5, said
        assert "was not stored: " in said
        kept = [found["step"] for found in desk.ledger("checkpoints", "run-1", "--json").json]
        assert kept
        assert "make room" in desk.ledger("resume", "run-1", code=4).err

        network.begin(())
        desk.ledger("resume", "run-1")
        assert desk.ledger("replay", "run-1").out.startswith("identical")
