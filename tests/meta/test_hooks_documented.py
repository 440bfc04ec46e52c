"""Every hook stands in docs/plugins.md with its exact arguments, and is tested by name."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from ledger.hooks import specs

ROOT = Path(__file__).parents[2]
HOOKS = {
    name: function
    for name, function in vars(specs).items()
    if inspect.isfunction(function) and hasattr(function, "ledger_spec")
}


def test_there_are_hooks() -> None:
    assert len(HOOKS) >= 11


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_documented_with_its_arguments(name: str) -> None:
    arguments = ", ".join(inspect.signature(HOOKS[name]).parameters)
    text = (ROOT / "docs/plugins.md").read_text()
    assert f"### `{name}({arguments})`" in text
    assert HOOKS[name].__doc__


def test_nothing_is_documented_that_is_no_hook() -> None:
    text = (ROOT / "docs/plugins.md").read_text()
    assert set(re.findall(r"^### `(\w+)\(", text, re.MULTILINE)) == set(HOOKS)


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_tested_by_name(name: str) -> None:
    tests = (ROOT / "tests/core/test_plugins.py").read_text()
    assert f"def {name}(self" in tests
