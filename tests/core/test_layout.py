"""Tables as wide as they may be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ledger.cli.layout import aligned, breadth, cut, fitted, folded, width, wrapped

texts = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), max_size=30)


def test_chinese_takes_two_cells() -> None:
    assert width("学习") == 4
    assert aligned(["学习", "abc"], 6) == ["学习  ", "abc   "]
    assert cut("学习率", 4) == "学 …"


@given(texts, st.integers(2, 40))
def test_nothing_is_wider_than_there_is_room(text: str, room: int) -> None:
    assert breadth(folded(text, room)) <= room
    assert width(cut(text, room)) <= room


@given(texts, st.integers(2, 40))
def test_folding_loses_nothing_but_blanks(text: str, room: int) -> None:
    assert "".join("".join(folded(text, room)).split()) == "".join(text.split())


def test_columns_that_may_give_way_do_so_first_and_the_first_one_never() -> None:
    assert fitted([10, 20, 30], [False, False, True], 50) == [10, 20, 20]
    assert fitted([10, 20, 30], [False, False, True], 26) == [10, 8, 8]
    assert fitted([30, 8], [False, True], 20) == [30, 8]


def test_a_line_goes_on_below_itself_only_where_a_cell_is_too_wide() -> None:
    lines = [["run", "tags"], ["run-1", "a b"], ["run-2", "one two three"]]
    assert [list(line) for line in wrapped(lines, [5, 8])] == [
        ["run", "tags"],
        ["run-1", "a b"],
        ["run-2", "one two"],
        ["", "three"],
    ]
