"""A picture of what came from what: nodes and arrows, from the source to what was made of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ledger.events import DataCommitted
    from ledger.read.lineage import Affected, Ancestry, Descent, Impact, Origin
    from ledger.read.state import RunState

Kind = Literal["run", "data", "written", "code", "config", "environment", "file"]
_DIGITS: Final = 12
"""Of a digest in a label: the whole of it is in the identity of its node."""
_FILES: Final = 3


@dataclass(frozen=True)
class Node:
    """One thing; the first line of its label says what it is."""

    kind: Kind
    label: tuple[str, ...]


@dataclass
class Graph:
    """Nodes by their identity, and arrows with what to write on them."""

    nodes: dict[str, Node] = field(default_factory=dict)
    arrows: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, identity: str, kind: Kind, *label: str) -> str:
        """A node, if it is not there yet; its identity."""
        self.nodes.setdefault(identity, Node(kind, tuple(line for line in label if line)))
        return identity

    def arrow(self, source: str, result: str, text: str = "") -> None:
        """``result`` was made of ``source``."""
        self.arrows.setdefault((source, result), text)


def ancestry_graph(ancestry: Ancestry, target: str, origins: Sequence[Origin]) -> Graph:
    """From all that a run goes back to, to the run; and to ``target``, where it was found to be one of ``origins``."""
    graph = Graph()
    for state in ancestry.runs.values():
        _add_run(graph, state)
    for descent in ancestry.descents:
        _add_descent(graph, descent)
    first = next(iter(ancestry.runs.values()))
    for origin in origins:
        if origin.run_id == first.id:
            written = _add_written(graph, origin)
            graph.arrow(written, graph.add("target", "file", "asked about", target), _files([origin.file or "."]))
    if not origins:
        _add_all_written(graph, first)
    return graph


def impact_graph(impact: Impact) -> Graph:
    """From data to every run that they went into, and what those wrote."""
    graph = Graph()
    for affected in impact.runs.values():
        run = graph.add(f"run {affected.run_id}", "run", affected.run)
        for origin in affected.written:
            _add_written(graph, origin)
        _add_causes(graph, affected, run)
    return graph


def _add_causes(graph: Graph, affected: Affected, run: str) -> None:
    for cause in affected.causes:
        if cause.use:
            data = _add_data(graph, cause.use.data)
            graph.arrow(data, run, cause.use.data.name)
            if cause.origin:
                graph.arrow(_add_written(graph, cause.origin), data, _files(cause.use.files))
        if cause.replay_of:
            graph.nodes[run] = Node("run", (affected.run, f"replay of {cause.replay_of}"))


def _add_run(graph: Graph, state: RunState) -> None:
    run = graph.add(f"run {state.id}", "run", state.name, state.status, *_story(state))
    for data in state.data.values():
        graph.arrow(_add_data(graph, data), run, data.name)
    if code := state.code:
        commit = f"{(code.commit or 'no commit')[:_DIGITS]}{' and changes' if code.dirty else ''}"
        tree = f"tree {code.tree[:_DIGITS]}"
        graph.arrow(graph.add(f"code {code.tree}", "code", "code", code.repository or "", commit, tree), run)
    if resolved := state.resolved:
        graph.arrow(graph.add(f"config {resolved.digest}", "config", "config", resolved.digest[:_DIGITS]), run)
    if environment := state.environment:
        python = environment.python.get("version", "").partition(" ")[0]
        lock = environment.lock or ""
        label = (f"python {python}" if python else "", f"{len(environment.packages)} packages", lock[:_DIGITS])
        graph.arrow(graph.add(f"environment {state.id}", "environment", "environment", *label), run)


def _story(state: RunState) -> Iterable[str]:
    yield ", ".join(part for part in (state.started.user, state.started.process.host, state.started_at[:10]) if part)
    if len(state.attempts) > 1:
        yield f"{len(state.attempts)} attempts"
    if state.verdicts:
        told = (f"{verdict.verdict}{' (a part)' if verdict.segment else ''}" for verdict in state.verdicts)
        yield "replayed: " + ", ".join(dict.fromkeys(told))


def _add_descent(graph: Graph, descent: Descent) -> None:
    written = _add_written(graph, descent.origin)
    graph.arrow(written, _add_data(graph, descent.use.data), _files(descent.use.files))


def _add_data(graph: Graph, data: DataCommitted) -> str:
    commit = "" if data.commit == data.digest else data.commit[:_DIGITS]
    return graph.add(f"data {data.digest}", "data", "data", data.uri, commit, data.digest[:_DIGITS])


def _add_written(graph: Graph, origin: Origin) -> str:
    what = "checkpoint" if origin.checkpoint else "artifact"
    return _wrote(graph, origin.run_id, what, origin.name, origin.written.digest)


def _add_all_written(graph: Graph, state: RunState) -> None:
    """The checkpoints and artifacts that the run has."""
    for checkpoint in state.checkpoints:
        _wrote(graph, state.id, "checkpoint", checkpoint.name, checkpoint.digest)
    for artifact in state.artifacts.values():
        _wrote(graph, state.id, "artifact", artifact.path, artifact.digest)


def _wrote(graph: Graph, run_id: str, what: str, name: str, digest: str) -> str:
    node = graph.add(f"{what} {run_id} {name} {digest}", "written", what, name, digest[:_DIGITS])
    graph.arrow(f"run {run_id}", node)
    return node


def _files(paths: Sequence[str]) -> str:
    """The first few of these files; the rest is a number."""
    more = len(paths) - _FILES
    return ", ".join(path for path in paths[:_FILES] if path != ".") + (f" and {more} more" if more > 0 else "")
