"""Whether a training on a GPU resumes and replays exactly, by the command line: killed, resumed, replayed, for each
engine that one GPU can run; and what its device time came to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks.contestant import OURS, Unavailable
from tests.benchmarks.figures import Quantity, Table

if TYPE_CHECKING:
    from tests.benchmarks.bench import Bench
    from tests.benchmarks.contestant import Contestant

STEPS: Final = 60
WIDTH: Final = 768
BATCH: Final = 16
ENGINES: Final = {
    "torch": ("engine.name=torch",),
    "DeepSpeed ZeRO 1": ("engine.name=deepspeed", "engine.options.zero=1"),
    "DeepSpeed ZeRO 2": ("engine.name=deepspeed", "engine.options.zero=2"),
    "DeepSpeed ZeRO 3": ("engine.name=deepspeed", "engine.options.zero=3"),
}
RECIPE: Final = """
task = "ledger_trainer.tasks.kjv:gpt"
seed = 7
[data.train]
uri = "file:kjv.txt"
[task_options]
n_layer = 12
n_head = 12
block_size = 256
[log]
every = 1
[engine]
precision = "bfloat16"
"""


def measure(bench: Bench) -> Table:
    """A row for each engine; 1 is yes."""
    steps, width = bench.size(STEPS, least=12), bench.size(WIDTH, least=48) // 48 * 48
    batch = bench.size(BATCH)
    table = Table(
        "exact",
        "Killed, resumed and replayed on a GPU",
        f"`ledger train` of a GPT of 12 layers, {width} wide, {steps} steps in bfloat16; a second run of it killed "
        "(SIGKILL) after its first checkpoint and resumed; then `ledger replay`. 1 stands for yes.",
        (
            Quantity("resumed = never killed", "", "higher", compared=False),
            Quantity("replay identical", "", "higher", compared=False),
            Quantity("device time on record", "s", "lower", compared=False),
        ),
    )
    for row, overrides in ENGINES.items():
        home = bench.fresh("exact")
        sizes = (
            f"steps={steps}",
            f"task_options.n_embd={width}",
            f"batch.size={batch}",
            f"checkpoint.every={steps // 4}",
        )
        bench.say(f"exact · {row}")
        try:
            table.add(row, bench.run("exact:tried", OURS, home, overrides=[*overrides, *sizes]))
        except Unavailable as error:
            table.reasons[row] = str(error)
        bench.remove(home)
    return table


def tried(contestant: Contestant, home: Path, *, overrides: list[str]) -> dict[str, float]:
    """Train, train and kill, resume, replay."""
    import ledger
    from ledger_trainer.tasks import kjv

    kjv.write_text(Path("kjv.txt"))
    Path("recipe.toml").write_text(RECIPE)
    train = ["train", "recipe.toml", *overrides]
    _ledger(*train)
    _kill_after_a_checkpoint(train)
    _ledger("resume", "run-2")
    with ledger.open_ledger() as book:
        one, two = (book.run(name) for name in ("run-1", "run-2"))
        same = [f.parameters for f in one.fingerprints] == [f.parameters for f in two.fingerprints]
    verdict = json.loads(_ledger("replay", "run-2", "--json", codes=(0, 1)))["verdict"]
    hours = [json.loads(line) for line in _ledger("gpu-hours", "--by", "run", "--json").splitlines()]
    return {
        "resumed = never killed": float(same),
        "replay identical": float(verdict == "identical"),
        "device time on record": _seconds(hours),
    }


def _seconds(rows: list[dict[str, Any]]) -> float:
    """GPU seconds of all runs; those of the CPU where there is no GPU, in a trial."""
    gpu, cpu = (sum(row[kind]["hours"] for row in rows) for kind in ("gpu", "cpu"))
    return float(gpu or cpu) * 3600


def _kill_after_a_checkpoint(words: list[str]) -> None:
    import ledger

    process = subprocess.Popen(_command(*words), start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        with ledger.open_ledger() as book:
            if "run-2" in book.names().values() and book.run("run-2").checkpoints:
                break
        time.sleep(0.05)
    for child in _family(process.pid):
        os.kill(child, signal.SIGKILL)
    process.wait()


def _family(pid: int) -> list[int]:
    import psutil

    me = psutil.Process(pid)
    return [pid, *(child.pid for child in me.children(recursive=True))]


def _command(*words: str) -> list[str]:
    return [str(Path(sys.executable).with_name("ledger")), *words]


def _ledger(*words: str, codes: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(_command(*words), capture_output=True, text=True, check=False)
    if done.returncode not in codes:
        raise Unavailable(f"ledger {words[0]}: exit code {done.returncode}: {done.stderr.strip()[-200:]}")
    return done.stdout
