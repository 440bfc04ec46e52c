"""``ledger audit``: everything behind a run, a checkpoint, a file or a digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from ledger.cli import render
from ledger.cli.options import command, complete_run
from ledger.cli.picture import draw, graph_option, require_graphviz
from ledger.errors import NotFound, RunNotFound, UsageError

if TYPE_CHECKING:
    from ledger.book import Book
    from ledger.cli.counter import Counter
    from ledger.cli.session import Session
    from ledger.read.lineage import Ancestry, Origin, Use
    from ledger.read.state import RunState

_HELP = """Tell what is behind a run, a checkpoint or a file.

TARGET is a run, a checkpoint of one (`run-7/best`, `run-7/step-500`), a path or a digest. What a run wrote (a
checkpoint, an artifact, a file of one) is found by its content, wherever it was copied to and whatever it is called
now. Of a file of data the runs that read it are listed.

The chain goes on through data: where a run read a checkpoint or an artifact of another, what is behind that run is told
as well.
"""
_EXAMPLE = """ledger audit run-7
ledger audit model-bfloat16.safetensors --graph model.svg
ledger audit run-7/best --statement best.intoto.json
ledger audit run-7 --step 500
ledger audit run-7 --sample 1234"""


@dataclass(frozen=True)
class _Audited:
    """What was asked about, what is behind it, and which samples."""

    target: str
    ancestry: Ancestry
    origins: list[Origin]
    names: dict[str, str]
    """Names of the runs by UUID."""
    step: int | None
    samples: list[list[int]] | None
    sample: int | None
    readings: list[tuple[int, int]] | None

    @property
    def state(self) -> RunState:
        """The run behind it."""
        return next(iter(self.ancestry.runs.values()))


def _writable(_ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and not value.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no directory {value.absolute().parent}")
    return value


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Runs of that name, else files."""
    runs = complete_run(ctx, param, incomplete)
    return [CompletionItem(name) for name in runs] or [CompletionItem(incomplete, type="file")]


@command("audit", help=_HELP, example=_EXAMPLE, json="the chain of evidence")
@click.argument("target", shell_complete=_complete)
@click.option("--step", type=click.IntRange(min=0), metavar="N", help="Also which samples each rank read for step N.")
@click.option("--sample", type=int, metavar="ID", help="Also which steps read this sample.")
@graph_option("Also draw the chain, as .svg or .dot.")
@click.option(
    "--statement",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    callback=_writable,
    help="Also write it as an in-toto statement of SLSA provenance.",
)
def audit(
    session: Session, target: str, step: int | None, sample: int | None, graph: Path | None, statement: Path | None
) -> None:
    """Print the chain; write what else was asked for."""
    from ledger.cli.counter import Counter

    require_graphviz(graph)
    if statement:
        from ledger.read.provenance import require_library

        require_library()
    with session.reading() as book:
        with Counter() as counter:
            run, origins, uses = _resolve(book, target, counter)
            ancestry = book.ancestry(run, counter) if run else None
        if ancestry is None:
            _refuse_for_data([("--step", step), ("--sample", sample), ("--graph", graph), ("--statement", statement)])
            _print_uses(session, target, uses)
            return
        state = next(iter(ancestry.runs.values()))
        samples = None if step is None else _samples(book, state, step)
        readings = None if sample is None else _readings(book, state, sample)
        audited = _Audited(target, ancestry, origins, book.names(), step, samples, sample, readings)
        if statement:
            _write_statement(book, audited, statement)
        if graph:
            from ledger.read.provenance_graph import ancestry_graph

            draw(ancestry_graph(ancestry, target, origins), graph)
        _print(session, audited)


def _print(session: Session, audited: _Audited) -> None:
    for gap in audited.ancestry.gaps:
        render.talk(f"note: {gap}")
    if session.json:
        render.json_line(_facts(audited))
        return
    from ledger.cli.chain import print_chain
    from ledger.cli.links import print_links

    print_links(audited.target, audited.origins, audited.ancestry, audited.names)
    for state in audited.ancestry.runs.values():
        render.line("")
        print_chain(state, audited.names)
    _print_samples(audited)


def _write_statement(book: Book, audited: _Audited, dest: Path) -> None:
    from ledger.files import appearing
    from ledger.read.provenance import statement, subjects_of
    from ledger.store.base import run_stream

    state = audited.state
    (began,) = book.store.read(run_stream(state.id), limit=1)
    asked = Path(audited.target)
    subjects = subjects_of(state, audited.origins, asked.name if asked.exists() else None, book.objects.get_manifest)
    content = statement(audited.ancestry, subjects, began.metadata.version)
    with appearing(dest) as temporary:
        temporary.write_bytes(content)


# --- what is asked about ---------------------------------------------------------------------------------------


def _resolve(book: Book, target: str, counter: Counter) -> tuple[str | None, list[Origin], list[Use]]:
    """The run behind ``target`` and how it was found; or else the data that it is. A run's name means the run."""
    from ledger.cli.session import find_run
    from ledger.read.lineage import SHORTENED

    there = Path(target).exists()
    if "/" in target and not there:
        origin = _checkpoint(book, target, counter)
        return origin.run_id, [origin], []
    if "/" not in target:
        try:
            return find_run(book, target), [], []
        except RunNotFound:
            if not there and not SHORTENED.fullmatch(target):
                raise
    try:
        origins = book.origins(target, counter)
    except NotFound:
        if uses := book.uses(target, counter):
            return None, [], uses
        raise
    return origins[0].run_id, origins, []


def _checkpoint(book: Book, target: str, counter: Counter) -> Origin:
    """A checkpoint by its run and its name. Raises ``NotFound``."""
    from ledger.read.lineage import checkpoint_named, shown

    reference, _, which = target.partition("/")
    try:
        state = book.run(reference)
    except RunNotFound as error:
        raise NotFound(
            f"there is nothing at {shown(target)}" + (f", and {error}" if reference else ""),
            mend="give a run, a path that exists, or a digest",
        ) from error
    written = state.effective(state.written)
    chosen = checkpoint_named(written, which)
    if chosen is None:
        known = ", ".join(dict.fromkeys(one.name for one in written)) or "none"
        raise NotFound(f"{state.name} wrote no checkpoint {which!r}", mend=f"`best`, `last`, a step or a name: {known}")
    return next(o for o in book.origins(chosen.digest, counter) if o.run_id == state.id and o.written == chosen)


def _refuse_for_data(options: list[tuple[str, object]]) -> None:
    for name, value in options:
        if value is not None:
            raise UsageError(
                f"{name} is about a run or what one wrote, and these are data",
                mend="`ledger impact` tells and draws what they went into",
            )


# --- samples ---------------------------------------------------------------------------------------------------


def _samples(book: Book, state: RunState, step: int) -> list[list[int]]:
    """What each rank read for a step of the history that counts, as the attempt that made it was configured."""
    from ledger.read.lineage import spans

    _require_recipe(book, state)
    known = spans(state)
    span = next((span for span in known if span.after < step <= span.until), None)
    if span is None:
        made = ", ".join(f"{render.number(s.after + 1)} to {render.number(s.until)}" for s in known)
        raise UsageError(
            f"{state.name} made no step {step}: " + (f"it has steps {made}" if made else "it has made none yet"),
            mend="name a step that it made, and that no later attempt took back",
        )
    config = span.attempt.resolved.config if span.attempt.resolved else state.config
    return book.plugins.trainer(book.settings).samples(config, _places(book, state), step)


def _readings(book: Book, state: RunState, sample: int) -> list[tuple[int, int]]:
    """Each step of the history that counts that read the sample, and the rank that did. Raises ``NotFound``."""
    from ledger.read.lineage import spans

    _require_recipe(book, state)
    places = _places(book, state)
    trainer = book.plugins.trainer(book.settings)
    found = []
    for span in spans(state):
        config = span.attempt.resolved.config if span.attempt.resolved else state.config
        told = trainer.readings(config, places, sample)
        found += [(step, rank) for step, rank in told if span.after < step <= span.until]
    if not found:
        raise NotFound(
            f"{state.name} read no training sample {sample}",
            mend="`ledger audit RUN --step N` shows what such numbers look like; samples for validation train nothing",
        )
    return found


def _require_recipe(book: Book, state: RunState) -> None:
    original = book.run(state.started.replay_of) if state.started.replay_of else state
    if original.started.kind != "train":
        raise UsageError(
            f"{state.name} was no training from a recipe: which samples it read is not known",
            mend="leave out --step and --sample",
        )


def _places(book: Book, state: RunState) -> dict[str, Path]:
    from ledger.record.data import place

    places = {name: place(book, committed) for name, committed in state.data.items()}
    for name, committed in state.data.items():
        if committed.uri.startswith("file:") and places[name] != Path(committed.path):
            render.talk(f"{committed.uri} is no longer what was pinned: read from a verified copy")
    return places


def _print_samples(audited: _Audited) -> None:
    if audited.samples is not None:
        render.heading(f"samples read for step {audited.step}")
        render.fields([(f"rank {rank}", " ".join(map(str, ids))) for rank, ids in enumerate(audited.samples)])
    if audited.readings is not None:
        steps: dict[int, list[str]] = {}
        for step, rank in audited.readings:
            steps.setdefault(rank, []).append(str(step))
        render.heading(f"steps that read sample {audited.sample}")
        render.fields([(f"rank {rank}", " ".join(read)) for rank, read in sorted(steps.items())])


# --- json ------------------------------------------------------------------------------------------------------


def _facts(audited: _Audited) -> dict[str, Any]:
    from ledger.cli.facts import descent_facts, origin_facts, run_facts

    first, *further = audited.ancestry.runs.values()
    environment = first.environment
    return {
        "target": audited.target,
        "written_by": [origin_facts(origin) for origin in audited.origins],
        "run": run_facts(first),
        "environment": environment.model_dump(mode="json") if environment else None,
        "bases": [descent_facts(descent) for descent in audited.ancestry.descents],
        "further_runs": [run_facts(state) for state in further],
        "not_known": audited.ancestry.gaps,
        "step": audited.step,
        "samples": audited.samples,
        "sample": audited.sample,
        "read_by": [{"step": step, "rank": rank} for step, rank in audited.readings or ()],
    }


def _print_uses(session: Session, target: str, uses: list[Use]) -> None:
    """The data that ``target`` is, or is a file of."""
    from ledger.cli.facts import use_facts

    if session.json:
        render.json_line({"target": target, "held_by": [use_facts(use) for use in uses]})
        return
    for use in uses:
        which = f"{', '.join(use.files)} in " if use.files and use.files != (".",) else ""
        render.line(f"{target} is {which}data {use.data.name} of {use.run}: {use.data.uri} at {use.data.commit}")
    render.talk(f"`ledger impact {target}` tells what came of it")
