"""Runs with all that a run can have, for tests of whatever shows runs: made up, the same every time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from ledger.events import (
    ArtifactWritten,
    CheckpointDeleted,
    CheckpointWritten,
    CodeCaptured,
    ConfigResolved,
    ConsoleCaptured,
    DataCommitted,
    EnvironmentCaptured,
    GpuTimeUsed,
    MetricsLogged,
    ParametersFingerprinted,
    ReplayCompared,
    RunAnnotated,
    RunCompleted,
    RunFailed,
    RunInterrupted,
    World,
)
from ledger.testing.builders import resumed, run_started

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ledger.events import Event

_BEGAN: Final = 1_767_225_600.25
"""When these runs began, in Unix seconds."""
_DIGEST: Final = "6b" * 32
_REPLAY: Final = "0199aaaa-0000-7000-8000-000000000001"
_TRACEBACK: Final = "".join(
    f'  File "/home/ada/train.py", line {line}, in step\n    loss = model(batch)  # é\n' for line in range(300)
)


def metrics(first: float, names: Sequence[str], rows: int = 20, *, at: float = 0.0, pace: float = 0.5) -> MetricsLogged:
    """Rows from step ``first`` on, ``at`` seconds after the run began; one in three lacks the last metric."""
    return MetricsLogged(
        step=tuple(first + row for row in range(rows)),
        time=tuple(_BEGAN + at + pace * row for row in range(rows)),
        values={
            name: tuple(None if name == names[-1] and row % 3 == 2 else 2.0 / (row + 1 + n) for row in range(rows))
            for n, name in enumerate(names)
        },
    )


def values(metric: str, points: Mapping[float, float], *, at: float = 0.0) -> MetricsLogged:
    """One metric by step, a value each half second."""
    times = tuple(_BEGAN + at + row / 2 for row in range(len(points)))
    return MetricsLogged(step=tuple(points), time=times, values={metric: tuple(points.values())})


_CONFIG: Final = ConfigResolved(
    config={
        "optim": {"name": "adamw", "lr": 3e-4, "betas": [0.9, 0.95], "fused": True, "decay": None, "extra": {}},
        "model": {"deeply": {"nested": {"by": {"half a": {"dozen": {"tables": 6}}}}}},
        "seed": 2**62 + 1,
        "batch": {"size": 128, "ratio": 0.1, "none": ""},
        "k" * 300: "a long key",
        "odd key @ 100% / ü": "\N{SNOWMAN} and\nlines",
        "almost.the.same": 1,
        "almost/the/same": 2,
        "prompt": "x" * 19_999 + "!",
    },
    digest=_DIGEST,
    seed=7,
)
_DATA: Final = DataCommitted(
    name="corpus", role="train", uri="lakefs://corpus/main/clean/", commit="c0ffee" * 6, path="clean/",
    digest=_DIGEST, files=3, bytes=10**12, provider="lakefs", provider_version="1",
)  # fmt: skip
_CODE: Final = CodeCaptured(
    root="/work", directory=".", repository="https://example.org/repo.git", commit="ab" * 20, branch="main", dirty=True,
    tree=_DIGEST, files=3, bytes=100, entry_point="train.py",
)  # fmt: skip
_ENVIRONMENT: Final = EnvironmentCaptured(
    python={"version": "3.11.4", "implementation": "CPython"},
    packages={f"package-{n}": f"{n}.0" for n in range(40)},
    lock=_DIGEST,
)
_COMPARED: Final = ReplayCompared(
    original=_REPLAY,
    replay=_REPLAY[:-1] + "2",
    verdict="not-replayable",
    reasons=("the data is gone", "so is the code"),
)


def _written(step: int, attempt: int = 1) -> CheckpointWritten:
    return CheckpointWritten(
        uri=f"s3://bucket/run-1/step-{step}", digest=_DIGEST, bytes=10**10, stored_bytes=10**9, files=(), step=step,
        attempt=attempt, name=f"step-{step}", best=step == 20, seconds=1.5, metrics={"val/loss": 2.1},
    )  # fmt: skip


def _deleted(step: int) -> CheckpointDeleted:
    return CheckpointDeleted(
        step=step, name=f"step-{step}", uri=f"s3://bucket/run-1/step-{step}", digest=_DIGEST, reason="only the best"
    )


def _device_time(step: float | None, at: float) -> GpuTimeUsed:
    return GpuTimeUsed(
        started_at=_BEGAN + at, seconds=9.75, step=step, kind="gpu", index=3, model="NVIDIA H100", host="testhost"
    )


_ODD_METRICS: Final = (
    "train/loss@10", "acc %", "f1 (macro)", "größe/\N{SNOWMAN}", "a:b;c,d", "step", "_step", "time", "../x", "/abs",
    "A/b", "a/b", "a b", "a_b", "a%20b", "m" * 300,
)  # fmt: skip
_SHORT: Final = (run_started(tags=("baseline",), user="ada"), metrics(0, ("train/loss", "lr")))

STORIES: Final[Mapping[str, Sequence[Event | tuple[int, Event]]]] = {
    "nothing but a start": (run_started(),),
    "configuration": (run_started(), _CONFIG, RunCompleted(step=None)),
    "configuration that was set again": (
        run_started(),
        ConfigResolved(config={"lr": 1.0, "gone": 1}, digest=_DIGEST),
        ConfigResolved(config={"lr": 2.0}, digest="7c" * 32),
    ),
    "not a number": (
        run_started(),
        values("loss", {0: 1.5, 1: math.nan, 2: math.inf, 3: -math.inf, 4: -0.0, 5: 5e-324, 6: 1.7976931348623157e308}),
    ),
    "decimal steps": (run_started(), values("loss", {0.25: 1.0, 0.5: 0.1, 0.75: 0.3, 1e15 + 0.5: 0.2})),
    "negative and huge steps": (run_started(), values("loss", {-3: 3.0, 0: 2.0, 2**53 - 1: 1.0})),
    "steps in no order": (run_started(), values("loss", {5: 3.0, 3: 2.0, 4: 1.0})),
    "the same step twice": (run_started(), values("loss", {5: 3.0}), values("loss", {5: 2.0}, at=1)),
    "within a millisecond": (run_started(), metrics(0, ("loss", "lr"), 50, pace=1e-5)),
    "resumed at lower steps": (
        *_SHORT,
        resumed(2, 10),
        metrics(10, ("train/loss", "lr"), at=60),
        resumed(3, None),
        metrics(0, ("train/loss", "lr"), 30, at=120),
        RunCompleted(step=29, metrics={"train/loss": 0.1}),
    ),
    "several ranks": (
        run_started(world=World(processes=3)),
        *((rank, metrics(0, ("train/loss", "samples"), 5)) for rank in range(3)),
        (2, metrics(5, ("train/loss", "samples"), 5, at=9)),
        (1, _device_time(4, 10)),
    ),
    "odd names of metrics": (run_started(), metrics(0, _ODD_METRICS, 4)),
    "tags": (
        run_started(tags=("baseline", "with space", "ü@%/:,", "t" * 300, "Tag", "tag")),
        RunAnnotated(text="unstable", tags=("suspicious", "baseline")),
    ),
    "data, code, environment": (
        run_started(),
        _DATA,
        _CODE,
        _ENVIRONMENT,
        ParametersFingerprinted(step=1, parameters=_DIGEST),
    ),
    "checkpoints": (run_started(), _written(10), _written(20), _deleted(10), _written(30)),
    "artifacts and console": (
        run_started(),
        ArtifactWritten(path="out/con fusion (1).png", digest=_DIGEST, bytes=3),
        ConsoleCaptured(digest=_DIGEST, bytes=4),
    ),
    "failed": (
        *_SHORT,
        RunFailed(exception="RuntimeError: out of memory\nmore", traceback=_TRACEBACK, exit_code=1, step=19),
    ),
    "interrupted and resumed": (
        *_SHORT,
        RunInterrupted(signal="SIGTERM", step=19),
        resumed(2, 10),
    ),
    "replayed": (run_started(kind="replay", replay_of=_REPLAY), *_SHORT[1:], _COMPARED),
    "notes": (run_started(), RunAnnotated(text="n" * 20_000), RunAnnotated(text="'quoted' & <b>bold</b>\n\ttab")),
}
"""Runs by what is remarkable about them; of several ranks a fact comes with the rank that wrote it."""

EVENTFUL: Final[Sequence[Event | tuple[int, Event]]] = (
    run_started(tags=("baseline",), user="ada", project="kjv", world=World(processes=2)),
    _CODE,
    _ENVIRONMENT,
    _DATA,
    _CONFIG,
    *((rank, metrics(0, ("train/loss", "lr", "val/loss"), 60)) for rank in range(2)),
    _written(20),
    (0, _device_time(20, 9)),
    (1, metrics(60, ("train/loss", "lr", "val/loss"), 60, at=30)),
    values("odd @ %", {120: math.nan, 120.5: math.inf, 121: 1.0}, at=60),
    RunFailed(exception="RuntimeError: out of memory", traceback=_TRACEBACK, exit_code=1, step=121),
    RunAnnotated(text="once more", tags=("suspicious",)),
    resumed(2, 20),
    *((rank, metrics(20, ("train/loss", "lr", "val/loss"), 60, at=90)) for rank in range(2)),
    _deleted(20),
    _written(79, attempt=2),
    *(metrics(80 + 20 * n, ("train/loss", "lr", "val/loss"), at=121 + 10 * n) for n in range(8)),
    ArtifactWritten(path="confusion.png", digest=_DIGEST, bytes=3),
    ConsoleCaptured(digest=_DIGEST, bytes=4),
    RunCompleted(step=239, metrics={"train/loss": 0.1}),
    _COMPARED,
)
"""A run of two attempts and two ranks that has nearly everything."""
