"""A user's directory and the real command line in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger_trainer.demo import kill_all

PATIENCE_S = 180


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Desk:
    """A git repository of the user's own, and a keyboard."""

    def __init__(self, home: Path) -> None:
        self.home = home
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LEDGER_", "GIT_"))}
        self.environ = kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
            "NO_COLOR": "1",
            "GIT_AUTHOR_NAME": "A User",
            "GIT_AUTHOR_EMAIL": "user@example.org",
            "GIT_COMMITTER_NAME": "A User",
            "GIT_COMMITTER_EMAIL": "user@example.org",
        }

    def write(self, **files: str) -> None:
        """Write files; `__` in a name stands for the dot."""
        for name, text in files.items():
            (self.home / name.replace("__", ".")).write_text(text)

    def run(self, *words: str, code: int | None = 0, **environ: str) -> Done:
        """Type a command; fail the test unless it ends with ``code``."""
        ended = subprocess.run(
            words,
            cwd=self.home,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if code is not None:
            assert ended.returncode == code, f"{words} ended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return Done(ended.returncode, ended.stdout, ended.stderr)

    def ledger(self, *words: str, code: int | None = 0, **environ: str) -> Done:
        return self.run("ledger", *words, code=code, **environ)

    def git(self, *words: str) -> str:
        return self.run("git", *words).out

    def commit(self) -> None:
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "work")

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a ledger command in a process group of its own."""
        return subprocess.Popen(
            ["ledger", *words],
            cwd=self.home,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def metrics(self, run: str) -> dict[float, dict[str, float]]:
        """All logged values of a run by step, later ones last."""
        points: dict[float, dict[str, float]] = {}
        for fact in self.ledger("log", run, "--json").json:
            if fact["type"] == "metrics.logged":
                payload = fact["payload"]
                for name, values in payload["values"].items():
                    for step, value in zip(payload["step"], values, strict=True):
                        if value is not None:
                            points.setdefault(step, {})[name] = value
        return points

    def kill_at(self, step: int, *words: str, run: str) -> None:
        """Start a command and SIGKILL all its processes once the log has metrics of ``step``."""
        training = self.start(*words)
        try:
            self.await_step(training, run, step)
        finally:
            kill_all(training.pid)
            training.communicate()

    def await_step(self, training: subprocess.Popen[str], run: str, step: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if training.poll() is not None:
                output = training.communicate()[0]
                raise AssertionError(f"ended with {training.returncode} before step {step}:\n{output}")
            seen = self.ledger("log", run, "--json", code=None)
            steps = [s for f in seen.json if f["type"] == "metrics.logged" for s in f["payload"]["step"]]
            if max(steps, default=-1) >= step:
                return
            time.sleep(0.1)
        raise AssertionError(f"no step {step} within {PATIENCE_S} s")

    def fingerprints(self, run: str) -> dict[float, tuple[str, str]]:
        """Digests of parameters and optimizer by step, the latest attempt's last."""
        return {
            fact["payload"]["step"]: (fact["payload"]["parameters"], fact["payload"]["optimizer"])
            for fact in self.ledger("log", run, "--json").json
            if fact["type"] == "parameters.fingerprinted"
        }
