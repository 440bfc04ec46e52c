"""A ledger full of runs, for tests of lists and searches: made up, the same every time, and quickly written."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Final

from ledger.codec import Codec, Metadata
from ledger.events import (
    CheckpointWritten,
    ConfigResolved,
    DataCommitted,
    FileDigest,
    RunCompleted,
    RunFailed,
)
from ledger.store.base import run_stream
from ledger.testing.builders import logged, run_started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.events import Event
    from ledger.store.base import EventStore

_CODEC: Final = Codec()
_METADATA: Final = Metadata("test", "testhost", 4242, "0", attempt=1)
_OPTIMIZERS: Final = ("adam", "adamw", "sgd")


def fill(store: EventStore, runs: int, *, metrics: int = 4, points: int = 10, seed: int = 0) -> list[str]:
    """Append ``runs`` runs to ``store``, each with so many metrics of so many points; their streams.

    One run in ten has failed and one in twenty has no end. ``val/loss`` lies around 2, ``optim.lr`` between 1e-5 and
    1e-1, and each run has read one of five states of the data.
    """
    chance = random.Random(seed)
    streams = []
    for number in range(runs):
        stream = run_stream(_uuid(chance))
        streams.append(stream)
        name = store.name_run(stream)
        store.append(
            stream, [_CODEC.draft(event, _METADATA) for event in _facts(chance, number, name, metrics, points)]
        )
    return streams


def _facts(chance: random.Random, number: int, name: str, metrics: int, points: int) -> Iterator[Event]:
    yield run_started(
        name=name, kind="train", tags=("baseline",) if number % 7 == 0 else (), user=f"user-{number % 11}"
    )
    lr = 10 ** chance.uniform(-5, -1)
    config = {"optim": {"lr": lr, "name": chance.choice(_OPTIMIZERS)}, "batch": {"size": 2 ** chance.randrange(4, 9)}}
    yield ConfigResolved(config=config, digest=_digest(f"config {number}"))
    version = _digest(f"data {number % 5}")
    yield DataCommitted(
        name="corpus", role="train", uri="lakefs://corpus/main/clean/", commit=version[:40], path="clean/",
        digest=version, files=3, bytes=1000, provider="test", provider_version="1",
    )  # fmt: skip
    names = ["val/loss", "train/loss", *(f"metric/{n}" for n in range(metrics - 2))][:metrics]
    end = {metric: chance.gauss(2.0, 0.2) for metric in names}
    yield logged(
        {step: {metric: value + points - step for metric, value in end.items()} for step in range(1, points + 1)}
    )
    yield CheckpointWritten(
        uri=f"file:///checkpoints/{name}/step-{points}", digest=_digest(f"checkpoint {number}"), bytes=10,
        stored_bytes=9, files=(FileDigest(path="model", digest=_digest(f"weights {number}"), bytes=10),), step=points,
        attempt=1, name=f"step-{points}", seconds=0.1,
    )  # fmt: skip
    if number % 10 == 9:
        yield RunFailed(exception="RuntimeError: out of memory", exit_code=1, step=points)
    elif number % 20 != 3:
        yield RunCompleted(step=points, metrics=end)


def _uuid(chance: random.Random) -> str:
    """As a UUIDv7 looks, without the time in it."""
    digits = f"{chance.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-7{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
