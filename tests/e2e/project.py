"""A user's repository and a ledger beside it, for what is asked of Ledger in Python."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.record.command import Request, record_command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.book import Book
    from ledger.events import ReplayCompared
    from ledger.read.state import RunState
    from ledger.record.command import Outcome


@dataclass
class Project:
    """A user's repository, and a ledger beside it."""

    root: Path
    book: Book

    def write(self, name: str, content: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(content))
        return path

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
        done = subprocess.run(["git", *identity, *arguments], cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout

    def record(
        self,
        *arguments: str,
        directory: str = "",
        data: Mapping[str, str] | None = None,
        outputs: tuple[str, ...] = (),
        snapshot: bool = True,
    ) -> Outcome:
        request = Request(
            kind="command",
            invocation=("ledger", "run"),
            command=(sys.executable, *(arguments or ("train.py",))),
            directory=self.root / directory,
            data=data or {},
            outputs=tuple(map(Path, outputs)),
            snapshot=snapshot,
        )
        return record_command(self.book, request)

    def replayed(self, compared: ReplayCompared) -> RunState:
        assert compared.replay is not None
        return self.book.run(compared.replay)
