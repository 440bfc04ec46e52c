"""A run brought to a Neptune server from the command line: away, a wrong key, offline first, and what it then shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.desk import Desk
from tests.neptune_standin import KEY, PROJECT, NeptuneStandIn, key_for

if TYPE_CHECKING:
    from collections.abc import Iterator

TRAIN = """
import math
import ledger

with ledger.start_run({"lr": 0.1, "tokens": 10**12}, seed=7, tags=["toy"]) as run:
    for step in range(30):
        run.log({"loss": 1 / (step + 1), "odd": math.nan if step % 3 else math.inf}, step=step)
"""


@pytest.fixture
def standin() -> Iterator[NeptuneStandIn]:
    with NeptuneStandIn() as running:
        yield running
        assert running.unknown == []
        assert running.refused == []


@pytest.mark.slow
def test_a_run_is_brought_to_a_server_that_is_set_later_and_away_for_a_while(
    desk: Desk, standin: NeptuneStandIn
) -> None:
    desk.write(train__py=TRAIN)
    desk.commit()
    desk.run("python", "train.py")
    desk.ledger("mirror", "run-1", "--to", "neptune")
    desk.write(ledger__toml=f'[plugin.neptune]\nendpoint = "{standin.url}"\nproject = "{PROJECT}"\n')
    desk.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
    for token, code, told in (
        ("", 2, "NEPTUNE_API_TOKEN"),
        (key_for("https://neptune.example.com"), 2, "is for https://neptune.example.com"),
        (standin.key[:-12] + "AAAAAAAAAAA=", 2, "no key"),
    ):
        desk.environ["NEPTUNE_API_TOKEN"] = token
        refused = desk.ledger("mirror", "run-1", "--to", "neptune", code=code)
        assert told in refused.err
        assert KEY not in refused.out + refused.err
    desk.environ["NEPTUNE_API_TOKEN"] = standin.key
    standin.stop()
    away = desk.ledger("mirror", "run-1", "--to", "neptune", code=4)
    assert "nothing is lost" in away.err
    assert standin.key not in away.out + away.err
    standin.start()
    (brought,) = desk.ledger("mirror", "run-1", "--to", "neptune", "--json").json
    assert brought["events"] > 0
    (checked,) = desk.ledger("mirror", "run-1", "--to", "neptune", "--check", "--json").json
    assert (checked["behind"], checked["differences"]) == (0, [])
    (run,) = standin.runs.values()
    assert [step for step, _, _ in run.series("metrics/loss/attempt-1")] == list(range(30))
    assert run.fields["config/tokens"] == ("float", 1e12)
    assert run.fields["ledger/status"] == ("string", "completed")
