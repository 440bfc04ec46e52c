"""The hooks as docs/plugins.md has them, made from their specifications: ``make docs`` writes it anew."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Final

from ledger.hooks import specs

PAGE: Final = Path(__file__).parents[2] / "docs/plugins.md"
BEGIN: Final = "<!-- made from ledger/hooks/specs.py by `make docs` -->\n"
END: Final = "<!-- end -->\n"
HOOKS: Final = {name: each for name, each in vars(specs).items() if hasattr(each, "ledger_spec")}


def reference() -> str:
    """Every hook with its arguments, who is asked, and what its failure costs."""
    return "\n".join(_section(name, function) for name, function in HOOKS.items())


def _section(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    arguments = [f"`{each.name}: {each.annotation}`" for each in signature.parameters.values()]
    asked = "The first plugin with an answer." if function.ledger_spec["firstresult"] else "Every plugin."
    taken = f" Takes {', '.join(arguments)}." if arguments else ""
    promise, _, failing = inspect.getdoc(function).rpartition("Failing: ")
    text = f"Asked: {asked}{taken} Returns `{signature.return_annotation}`."
    title = f"### `{name}({', '.join(signature.parameters)})`"
    return "\n\n".join((title, text, _markdown(promise), f"**If it fails:** {_markdown(failing)}\n"))


def _markdown(text: str) -> str:
    return text.strip().replace("``", "`")


def written(page: str) -> str:
    """The page with this reference in it."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + "\n" + reference() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
