"""How long a replay trains, beside its original: it does the same work, and is compared while it does it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks.contestant import OURS, Unavailable
from tests.benchmarks.figures import Quantity, Table

if TYPE_CHECKING:
    from tests.benchmarks.bench import Bench
    from tests.benchmarks.contestant import Contestant

STEPS: Final = 600
ROUNDS: Final = 3
RATIO: Final = "replay / original"
RECIPE: Final = """
task = "ledger_trainer.tasks.kjv:gpt"
seed = 7
[data.train]
uri = "file:kjv.txt"
[task_options]
n_layer = 4
n_head = 4
n_embd = 64
block_size = 64
[batch]
size = 16
[log]
every = 1
[determinism]
threads = 1
"""


def measure(bench: Bench) -> Table:
    """The ratio of the two times."""
    steps = bench.size(STEPS, least=10)
    table = Table(
        "replay",
        "Replaying a training",
        f"`ledger train` and `ledger replay` of a character GPT, {steps} steps, each with metrics at every step and "
        "fingerprint, evaluation and checkpoint ten times: from the first step to the last, by the times in the log, "
        "so that start-up is not counted. The verdict must be `identical`.",
        (
            Quantity("original", "s", "lower", compared=False),
            Quantity("replay", "s", "lower", compared=False),
            Quantity(RATIO, "×", "lower", compared=False),
        ),
    )
    if OURS in bench.keys:
        for number in range(min(bench.rounds, ROUNDS)):
            home = bench.fresh("replay")
            bench.say(f"replay · {OURS} · round {number + 1}")
            try:
                table.add(OURS, bench.run("replay:both", OURS, home, steps=steps))
            except Unavailable as error:
                table.reasons[OURS] = str(error)
                table.samples.pop(OURS, None)
                break
            finally:
                bench.remove(home)
    return table


def both(contestant: Contestant, home: Path, *, steps: int) -> dict[str, float]:
    """Train, replay, and read the times of both from the log."""
    from ledger_trainer.tasks import kjv

    kjv.write_text(Path("kjv.txt"))
    Path("recipe.toml").write_text(RECIPE)
    often = max(1, steps // 10)
    _ledger("train", "recipe.toml", f"steps={steps}", f"evaluate.every={often}", f"checkpoint.every={often}")
    verdict = json.loads(_ledger("replay", "run-1", "--json"))["verdict"]
    if verdict != "identical":
        raise Unavailable(f"the replay's verdict is {verdict}")
    original, replay = (_seconds(run) for run in ("run-1", "run-2"))
    return {"original": original, "replay": replay, RATIO: replay / original}


def _seconds(run: str) -> float:
    import ledger

    with ledger.open_ledger() as book:
        times: Any = book.run(run).series("train/loss").time
        return float(times[-1] - times[0])


def _ledger(*words: str) -> str:
    command = [str(Path(sys.executable).with_name("ledger")), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"ledger {words[0]}: exit code {done.returncode}: {done.stderr.strip()[-200:]}")
    return done.stdout
