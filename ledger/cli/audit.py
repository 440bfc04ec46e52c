"""``ledger audit``: everything behind a run, a checkpoint or a digest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli import render
from ledger.cli.options import command
from ledger.errors import RunNotFound, UsageError

if TYPE_CHECKING:
    from ledger.book import Book
    from ledger.cli.session import Session
    from ledger.read.lineage import Origin
    from ledger.read.state import RunState

_DIGEST: Final = re.compile(r"[0-9a-fA-F]{8,64}")


@dataclass(frozen=True)
class _Audited:
    """What was asked about, the run behind it, and what the page needs besides."""

    target: str
    state: RunState
    origins: list[Origin]
    names: dict[str, str]
    """Names of the runs by UUID."""
    samples: list[list[int]] | None
    step: int | None


@command(
    "audit",
    example="ledger audit run-7\nledger audit out/step-500/model.safetensors\nledger audit run-7 --step 500",
    json="the chain of evidence",
)
@click.argument("target")
@click.option("--step", type=click.IntRange(min=0), metavar="N", help="Also which samples each rank read for step N.")
def audit(session: Session, target: str, step: int | None) -> None:
    """Tell what is behind a run or a checkpoint.

    TARGET is a run, the path of a checkpoint directory or of a file in one, or a digest. A checkpoint is
    found by its content, wherever it was copied to and whatever it is called now.
    """
    with session.reading() as book:
        run_id, origins = _resolve(book, target)
        state = book.run(run_id)
        samples = None if step is None else _samples(book, state, step)
        audited = _Audited(target, state, origins, book.names(), samples, step)
        if session.json:
            render.json_line(_facts(audited))
        else:
            from ledger.cli.chain import print_chain

            _print_origins(audited)
            print_chain(state, audited.names)
            _print_samples(audited)


def _resolve(book: Book, target: str) -> tuple[str, list[Origin]]:
    """The run behind ``target``, and how it was found. Of a path and a run of one name, the run."""
    from ledger.cli.session import find_run

    if "/" not in target:
        try:
            return find_run(book, target), []
        except RunNotFound:
            if not Path(target).exists() and not _DIGEST.fullmatch(target):
                raise
    elif not Path(target).exists():
        raise UsageError(f"there is nothing at {target}", mend="give a run, a path that exists, or a digest")
    origins = book.origins(target)
    return origins[0].run_id, origins


def _samples(book: Book, state: RunState, step: int) -> list[list[int]]:
    from ledger.record.data import place

    original = book.run(state.started.replay_of) if state.started.replay_of else state
    if original.started.kind != "train":
        raise UsageError(
            f"{state.name} was no training from a recipe: which samples it read is not known",
            mend="leave out --step",
        )
    places = {name: place(book, committed) for name, committed in state.data.items()}
    for name, committed in state.data.items():
        if committed.uri.startswith("file:") and places[name] != Path(committed.path):
            render.talk(f"{committed.uri} is no longer what was pinned: read from a verified copy")
    return book.plugins.trainer(book.settings).samples(state.config, places, step)


def _facts(audited: _Audited) -> dict[str, Any]:
    from ledger.cli.facts import run_facts

    environment = audited.state.environment
    return {
        "target": audited.target,
        "written_by": [
            {
                "run": origin.run,
                "run_id": origin.run_id,
                "checkpoint": origin.checkpoint.name if origin.checkpoint else None,
                "step": origin.checkpoint.step if origin.checkpoint else None,
                "digest": origin.checkpoint.digest if origin.checkpoint else None,
                "file": origin.file,
            }
            for origin in audited.origins
        ],
        "run": run_facts(audited.state),
        "environment": environment.model_dump(mode="json") if environment else None,
        "step": audited.step,
        "samples": audited.samples,
    }


def _print_origins(audited: _Audited) -> None:
    for origin in audited.origins:
        what = f"{origin.file} in " if origin.file else ""
        checkpoint = origin.checkpoint
        which = f"{checkpoint.name} (step {render.number(checkpoint.step)})" if checkpoint else "a checkpoint"
        render.line(f"{audited.target} is {what}{which} of {origin.run}")


def _print_samples(audited: _Audited) -> None:
    if audited.samples is None:
        return
    render.heading(f"samples read for step {audited.step}")
    render.fields([(f"rank {rank}", " ".join(map(str, ids))) for rank, ids in enumerate(audited.samples)])
