"""Mirrors beside a run: processes of their own that bring it to other trackers, and that nothing waits for."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Final

from ledger.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.book import Book
    from ledger.settings import Settings

_MEMORY: Final = "memory:"
# The shell ends at once and leaves the mirror to the system: it is no child of the training, whose end nobody then has
# to take note of. What it is to start reaches it as arguments, never as text of the script.
_APART: Final = ("/bin/sh", "-c", '"$@" &', "sh")


def require_mirrors(book: Book) -> None:
    """Raise ``UsageError`` or ``PluginUnavailable``, with the mend, for a mirror of the settings that there is not."""
    if book.settings.mirrors and book.settings.url.startswith(_MEMORY):
        raise UsageError(
            "a ledger in memory has no mirrors: no other process sees its log",
            mend="leave `mirrors` out of ledger.toml",
        )
    for name in book.settings.mirrors:
        book.plugins.mirror(name, book.settings).close()


def start_mirrors(book: Book, *runs: str, follow: bool = False) -> None:
    """Start to bring the runs with these UUIDs to each mirror of the settings; with ``follow``, until they have ended.

    Returns at once, and never raises because of a mirror: what becomes of it is in ``mirror_log``.
    """
    settings = book.settings
    for name in settings.mirrors:
        mirror = [
            sys.executable,
            "-P",
            "-m",
            "ledger",
            "mirror",
            *runs,
            "--to",
            name,
            *(["--follow"] if follow else []),
        ]
        try:
            _start(mirror, settings)
        except (OSError, subprocess.SubprocessError) as error:
            warnings.warn(f"the mirror {name} could not be started: {error}", RuntimeWarning, stacklevel=2)


def mirror_log(settings: Settings) -> Path:
    """What the mirrors beside runs had to say."""
    return settings.scratch / "mirrors.log"


def _start(command: list[str], settings: Settings) -> None:
    log = mirror_log(settings)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as out:
        subprocess.run(
            [*_APART, *command],
            cwd=settings.base,  # where it finds the same ledger.toml
            env={**os.environ, **settings.environ()},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            check=True,
        )
