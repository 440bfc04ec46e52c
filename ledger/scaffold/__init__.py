"""A new plugin: a whole distribution, made from the templates beside this file, that installs and passes at once.

A template is the file as it is written, but for a few words: ``plugin-name`` and ``plugin_name``, in its path, too, and
what is written in capitals.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata, resources
from typing import TYPE_CHECKING, Final

from ledger import __version__
from ledger.errors import UsageError
from ledger.files import appearing
from ledger.hooks.loading import GROUP

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable
    from pathlib import Path

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST: Final = 30
_SUFFIX: Final = ".tmpl"
_COMMON: Final = "common"


@dataclass(frozen=True)
class Kind:
    """What a plugin can be, and what its distribution says of itself."""

    description: str
    extra: str
    """Of training-ledger, that the plugin runs with."""
    test_needs: tuple[str, ...]


KINDS: Final = {
    "tracker": Kind("Every run of Ledger as a CSV file", "", ("hypothesis>=6.100", "pytest>=8.3")),
    "data": Kind("Dated snapshots as data that Ledger pins", "", ("pytest>=8.3",)),
    "store": Kind("Ledger's checkpoints in plain directories", "", ("pytest>=8.3",)),
    "engine": Kind("PyTorch in one process, as an engine for Ledger's trainer", "[torch]", ("pytest>=8.3",)),
}


def require_name(name: str) -> None:
    """Raise ``UsageError`` for a name that a plugin cannot have."""
    proper = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-").removeprefix("ledger-")[:_LONGEST].rstrip("-")
    if not _NAME.fullmatch(name) or name != proper:
        suggestion = proper if _NAME.fullmatch(proper) else "my-tracker"
        raise UsageError(
            f"{name!r} is no name for a plugin",
            mend=f"up to {_LONGEST} small letters and digits, words joined by hyphens, without ledger-: {suggestion}",
        )


def write(name: str, kind: str, directory: Path) -> list[str]:
    """Write the distribution ``ledger-<name>`` to ``directory``; the relative paths of its files.

    Raises ``UsageError`` where the name cannot be, or an installed plugin has it, or the directory is there already.
    """
    require_name(name)
    if metadata.entry_points(group=GROUP, name=name):  # pip would let one overwrite the other's modules
        raise UsageError(f"a plugin {name!r} is installed already", mend=f"choose another name: my-{name}")
    if directory.exists() or directory.is_symlink():
        raise UsageError(f"{directory} exists already", mend="name a directory that does not")
    files = rendered(name, kind)
    with appearing(directory) as place:
        for path, content in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(content, encoding="utf-8")
    return sorted(files)


def rendered(name: str, kind: str) -> dict[str, str]:
    """The files of a distribution by their relative paths."""
    words = _words(name, KINDS[kind])
    found = {}
    for folder in (_COMMON, kind):
        for path, template in _templates(resources.files(__name__) / "templates" / folder):
            content = template.read_text(encoding="utf-8")
            found[_filled(path, words).replace("gitignore", ".gitignore")] = _filled(content, words)
    return found


def _words(name: str, kind: Kind) -> dict[str, str]:
    return {
        "plugin-name": name,
        "plugin_name": name.replace("-", "_"),
        "LEDGER_VERSION": __version__,
        "PLUGIN_DESCRIPTION": kind.description,
        "PLUGIN_EXTRA": kind.extra,
        "PLUGIN_TEST_NEEDS": ", ".join(f'"{need}"' for need in kind.test_needs),
    }


def _filled(text: str, words: dict[str, str]) -> str:
    for placeholder, word in words.items():
        text = text.replace(placeholder, word)
    return text


def _templates(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _templates(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            yield prefix + entry.name.removesuffix(_SUFFIX), entry
