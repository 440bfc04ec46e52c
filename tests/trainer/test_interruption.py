from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, time
from ledger_trainer.interruption import Interruption
if sys.argv[1] == "parent" and os.fork():
    sys.stdin.readline()
    os._exit(0)
stop = Interruption()
print("ready", flush=True)
deadline = time.monotonic() + 30
while not stop.signal and time.monotonic() < deadline:
    time.sleep(0.01)
if sys.argv[1] == "signals":
    os.kill(os.getpid(), signal.SIGTERM)
print(int(stop.signal), flush=True)
"""


@pytest.mark.parametrize(("what", "told"), [("signals", 2), ("parent", 15)])
def test_the_first_signal_counts_and_a_dead_parent_is_one(what: str, told: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if what == "signals":
            process.send_signal(told)
        else:
            process.stdin.write("\n")
            process.stdin.flush()
        assert process.stdout.readline() == f"{told}\n"
