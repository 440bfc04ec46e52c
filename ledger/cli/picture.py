"""Graphs as files: DOT, which any program for graphs reads, or SVG, drawn by Graphviz."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli.render import clean
from ledger.errors import PluginUnavailable, UsageError
from ledger.files import appearing

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.read.provenance_graph import Graph, Kind

_FORMATS: Final = (".dot", ".svg")
_LONGEST: Final = 48
"""Characters of a line in a node."""
_MOST: Final = 3000
"""Nodes in an SVG. So many take dot half a minute, four times as many more than half an hour."""
_LOOKS: Final[dict[Kind, dict[str, str]]] = {
    "run": {"shape": "box", "style": "rounded,filled", "fillcolor": "#dbeafe"},
    "data": {"shape": "cylinder", "style": "filled", "fillcolor": "#dcfce7"},
    "written": {"shape": "component", "style": "filled", "fillcolor": "#fef3c7"},
    "code": {"shape": "note"},
    "config": {"shape": "note"},
    "environment": {"shape": "note"},
    "file": {"shape": "folder", "style": "bold"},
}


def _place(_ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix not in _FORMATS:
        raise click.BadParameter(f"{value} ends with neither {' nor '.join(_FORMATS)}, the kinds of picture there are")
    return value


def graph_option(help_text: str) -> Callable[[Any], Any]:
    """``--graph FILE``: a picture besides what is printed."""
    return click.option(
        "--graph", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", callback=_place, help=help_text
    )


def draw(graph: Graph, dest: Path) -> None:
    """Write ``graph`` to ``dest``, in the format of its ending. Raises ``UsageError`` where dot cannot draw it."""
    import graphviz  # asked for at the start, see `require_graphviz`

    if dest.suffix == ".svg" and len(graph.nodes) > _MOST:
        raise UsageError(
            f"the picture would show {len(graph.nodes)} things: beyond {_MOST} dot takes too long",
            mend="ask for a .dot file, which other programs draw, or about less",
        )
    drawing = graphviz.Digraph(
        "ledger",
        graph_attr={"rankdir": "LR", "fontname": "sans-serif"},
        node_attr={"fontname": "sans-serif", "fontsize": "10"},
        edge_attr={"fontname": "sans-serif", "fontsize": "9", "color": "#64748b"},
    )
    # Numbered: an identity may hold what DOT takes for a port.
    numbers = {identity: f"n{number}" for number, identity in enumerate(graph.nodes)}
    for identity, node in graph.nodes.items():
        label = "\n".join(map(_short, node.label))
        tip = _text(clean("\n".join((identity, *node.label))))
        drawing.node(numbers[identity], _text(label), tooltip=tip, **_LOOKS[node.kind])
    for (source, result), text in graph.arrows.items():
        drawing.edge(numbers[source], numbers[result], _text(_short(text)))
    content = drawing.source.encode() if dest.suffix == ".dot" else _drawn(drawing)
    with appearing(dest) as temporary:
        temporary.write_bytes(content)


def require_graphviz(dest: Path | None) -> None:
    """Raise, with the mend, before anything is looked up, where the picture cannot be made or put there."""
    if dest is None:
        return
    try:
        import graphviz  # noqa: F401
    except ImportError as error:
        raise PluginUnavailable("a picture needs the graphviz package", mend=_INSTALL) from error
    if not dest.absolute().parent.is_dir():
        raise UsageError(f"there is no directory {dest.absolute().parent} for the picture", mend="make it first")
    if dest.suffix == ".svg":
        import shutil

        if not shutil.which("dot"):
            raise PluginUnavailable("an SVG needs the program `dot` of Graphviz, which is not on the PATH", mend=_DOT)


_INSTALL: Final = "pip install 'training-ledger[audit]'"
_DOT: Final = "install Graphviz (apt-get install graphviz, brew install graphviz), or ask for a .dot file"


def _text(text: str) -> str:
    """``text`` as dot shows it unchanged: it would read backslashes, tags and HTML's entities."""
    import graphviz

    escaped: str = graphviz.escape(text.replace("&", "&amp;"))
    return escaped


def _drawn(drawing: Any) -> bytes:
    import graphviz

    try:
        content: bytes = drawing.pipe(format="svg")
    except graphviz.CalledProcessError as error:
        raise UsageError(f"dot cannot draw this: {error}", mend="ask for a .dot file") from error
    return content


def _short(line: str) -> str:
    """A line cut in the middle: both ends of a URI tell something."""
    line = clean(line)
    if len(line) <= _LONGEST:
        return line
    half = _LONGEST // 2
    return f"{line[:half]}…{line[-half:]}"
