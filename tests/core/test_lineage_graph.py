"""Pictures of what came from what hold whatever text the facts hold, and nothing but text."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from ledger import open_ledger
from ledger.cli.picture import draw
from ledger.errors import UsageError
from ledger.read.provenance_graph import Graph, ancestry_graph, impact_graph
from tests.core.test_lineage import Lab, digest

if TYPE_CHECKING:
    from pathlib import Path

ODD = 'file:a"b\\N<b>&amp;\x07é{|}'


@pytest.mark.skipif(not shutil.which("dot"), reason="the program dot of Graphviz is not here")
@pytest.mark.parametrize("uri", [ODD, "<b>bold</b>", "\\", "a\nb", 'x"];evil[label="y'])
def test_odd_names_stay_text(tmp_path: Path, uri: str) -> None:
    with open_ledger(str(tmp_path / "ledger")) as book:
        lab = Lab(book)
        lab.read(lab.run("run-1"), {"a": "words"}, uri=uri)
        lab.checkpoint("run-1", {"m": "weights"})
        for graph in (ancestry_graph(lab.ancestry("run-1"), uri, []), impact_graph(book.impact(digest("words")))):
            draw(graph, tmp_path / "odd.svg")
            words = list(ElementTree.parse(tmp_path / "odd.svg").getroot().itertext())
            shown = uri.replace("\x07", "\\x07").split("\n")
            assert all(part in words for part in shown)
            assert len([word for word in words if word in ("data", "checkpoint")]) == 2


def test_more_than_dot_can_draw_is_refused_at_once(tmp_path: Path) -> None:
    graph = Graph()
    for number in range(3001):
        graph.add(f"run {number}", "run", f"run-{number}")
    with pytest.raises(UsageError, match="3001 things") as told:
        draw(graph, tmp_path / "large.svg")
    assert ".dot" in (told.value.mend or "")
    draw(graph, tmp_path / "large.dot")
    assert [path.name for path in tmp_path.iterdir()] == ["large.dot"]


def test_a_node_is_drawn_once_whoever_refers_to_it(tmp_path: Path) -> None:
    with open_ledger(str(tmp_path / "ledger")) as book:
        lab = Lab(book)
        lab.read(lab.run("run-1"), {"a": "words"})
        lab.checkpoint("run-1", {"m": "weights"})
        for reader in ("run-2", "run-3"):
            lab.read(lab.run(reader), {"m": "weights"})
        graph = impact_graph(book.impact(digest("words")))
        assert sorted(node.kind for node in graph.nodes.values()) == ["data", "data", "run", "run", "run", "written"]
        assert len(graph.arrows) == 5
