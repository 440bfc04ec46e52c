"""The whole story in two minutes: train, kill, resume, replay, audit. ``python -m ledger_trainer.demo [DIRECTORY]``.

Everything goes through the real command line, in a git repository of its own, on the real text of the King James
Version; what is printed is what the commands print.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import psutil

KILL_AT_STEP = 180
PATIENCE_S = 240


def main() -> int:
    """Run the demo; exit code 0 only if the verdict is ``identical``."""
    if len(sys.argv) > 1:
        home = Path(sys.argv[1]).absolute()
        home.mkdir(parents=True)
    else:
        home = Path(tempfile.mkdtemp(prefix="ledger-demo-"))
    began = time.monotonic()
    demo = Demo(home)
    verdict = demo.play()
    print(f"\nThe whole story took {time.monotonic() - began:.0f} s. It is yours to explore: cd {home}", flush=True)
    return verdict


class Demo:
    """Types commands, in a directory of its own, and shows them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        # The user's own ledger, run and credentials have no part in this.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LEDGER_", "GIT_"))}
        self.environ = kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"}

    def play(self) -> int:
        """Tell the story; the exit code of the replay."""
        self.say("A git repository, a recipe, and real English text from PyPI.")
        recipe = files("ledger_trainer") / "recipes" / "kjv_gpt.toml"
        (self.home / "recipe.toml").write_text(recipe.read_text())
        (self.home / ".gitignore").write_text("data/\n")
        self.run("git", "init", "--quiet", "--initial-branch", "main")
        self.run("python", "-m", "ledger_trainer.tasks.kjv", "data/kjv.txt")
        self.run("ledger", "init")
        self.run("git", "add", ".")
        identity = ("-c", "user.name=Demo", "-c", "user.email=demo@example.org")
        self.run("git", *identity, "commit", "--quiet", "--message", "A small GPT on real text")

        self.say(f"Train. In mid-training, after step {KILL_AT_STEP}, everything is killed with SIGKILL: no goodbye.")
        self.kill_in_mid_training("ledger", "train", "recipe.toml")
        self.run("ledger", "ls")
        self.run("ledger", "checkpoints", "run-1")

        self.say("Resume from the newest whole checkpoint, as a second attempt of the same run.")
        self.run("ledger", "resume", "run-1")

        self.say("Replay: rebuild code, data and config elsewhere, train again from the start, compare bit for bit.")
        verdict = self.run("ledger", "replay", "run-1", accept=(0, 1, 4, 5))

        self.say("Everything is in the log.")
        self.run("ledger", "ls")
        self.run("ledger", "log", "run-1")
        self.run("ledger", "audit", "run-1")
        return verdict

    def run(self, *command: str, accept: tuple[int, ...] = (0,)) -> int:
        """Type one command and wait for its end. Raises ``SystemExit`` where it fails."""
        self.show(command)
        code = subprocess.run(command, cwd=self.home, env=self.environ, check=False).returncode
        if code not in accept:
            raise SystemExit(f"the demo stops: {shlex.join(command)} ended with {code}")
        return code

    def kill_in_mid_training(self, *command: str) -> None:
        """Start a command and kill all its processes once the log shows that training has got far enough."""
        self.show(command)
        training = subprocess.Popen(command, cwd=self.home, env=self.environ, start_new_session=True)
        try:
            self.await_step(training, KILL_AT_STEP)
        finally:
            killed = kill_all(training.pid)
            training.wait()
        print(f"\n*** SIGKILL sent to all {killed} processes of the run", flush=True)

    def await_step(self, training: subprocess.Popen[bytes], step: int) -> None:
        """Return when the log has metrics of ``step`` or later."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if training.poll() is not None:
                raise SystemExit(f"the demo stops: training ended with {training.returncode} before it was killed")
            seen = subprocess.run(
                ("ledger", "log", "run-1", "--json"), cwd=self.home, env=self.environ, capture_output=True, check=False
            )
            facts = [json.loads(line) for line in seen.stdout.splitlines()]
            steps = [s for fact in facts if fact["type"] == "metrics.logged" for s in fact["payload"]["step"]]
            if max(steps, default=0) >= step:
                return
            time.sleep(0.2)
        raise SystemExit(f"the demo stops: no step {step} within {PATIENCE_S} s")

    def show(self, command: tuple[str, ...]) -> None:
        """Print a command as one would type it."""
        print(f"\n$ {shlex.join(command)}", flush=True)

    def say(self, text: str) -> None:
        """Print what comes next."""
        width = min(shutil.get_terminal_size().columns, 100)
        print(f"\n{'─' * width}\n{text}", flush=True)


def kill_all(pid: int) -> int:
    """SIGKILL to a process and all its descendants as if at one moment; how many there were.

    First all are stopped: none is to see the end of another, and to say a goodbye that a power cut would not allow.
    """
    parent = psutil.Process(pid)
    family = [parent, *parent.children(recursive=True)]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)
    return len(family)


if __name__ == "__main__":
    sys.exit(main())
