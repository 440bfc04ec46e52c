"""From a TOML file and ``key=value`` overrides to a recipe, with errors that name the key and the line."""

from __future__ import annotations

import difflib
import tomllib
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ledger.errors import InvalidRecipe
from ledger_trainer.recipe import DataSet, Share, TrainingRecipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

MEND: Final = "`ledger train --help` lists every key with its default"

_TYPE_NAMES: Final[dict[Any, str]] = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "true or false",
    tuple[Share, Share]: "array of two numbers",
    dict[str, Any]: "table",
    dict[str, DataSet]: "tables",
    types.NoneType: "",
}


@dataclass(frozen=True)
class Source:
    """What the user wrote: the file's text, and the overrides beside it."""

    path: Path
    text: str
    table: dict[str, Any]
    """The file with the overrides applied."""
    overridden: dict[str, str]
    """The overrides as they were given, by dotted key."""

    def where(self, key: str) -> str:
        """``recipe.toml:12`` for a key of the file, ``override lr=x`` for one of the command line."""
        for prefix in _prefixes(key):
            if prefix in self.overridden:
                return f"override {self.overridden[prefix]}"
        for prefix in _prefixes(key):
            if line := _line_of(self.text, prefix):
                return f"{self.path}:{line}"
        return str(self.path)


def read(path: Path, overrides: Sequence[str] = ()) -> Source:
    """Parse the file and lay the overrides over it. Raises ``InvalidRecipe``."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InvalidRecipe(f"{path}: there is no such file", mend="give the path of a recipe in TOML") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRecipe(f"{path} cannot be read: {error}", mend="a recipe is a text file in TOML, UTF-8") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRecipe(
            f"{path} is not valid TOML: {error}", mend="strings need quotes; see https://toml.io"
        ) from error
    overridden = {}
    for override in overrides:
        key, value = parse_override(override)
        _set(table, key, value, override)
        overridden[key] = override
    return Source(path, text, table, overridden)


def parse_override(override: str) -> tuple[str, Any]:
    """Key and value of ``key=value``, the value read as TOML and, failing that, as a bare string."""
    key, equals, text = (part.strip() for part in override.partition("="))
    if not (key and equals and text) or not all(key.split(".")):
        raise InvalidRecipe(f"override {override!r} is not key=value", mend="for example optim.lr=0.001")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        if text[0] in "\"'[{":
            raise InvalidRecipe(f"override {override!r}: {error}", mend="quote it for the shell as well") from error
        return key, text


def validate(source: Source) -> TrainingRecipe:
    """The recipe behind ``source``. Raises ``InvalidRecipe`` with every error found, one a line."""
    try:
        return TrainingRecipe.model_validate(source.table)
    except ValidationError as error:
        raise invalid(error, source, _keys_of(source.table)) from error


def validate_options(options: type[BaseModel], source: Source) -> BaseModel:
    """The task's own options, errors in the same words."""
    try:
        return options.model_validate(source.table.get("task_options", {}))
    except ValidationError as error:
        valid = [f"task_options.{name}" for name in options.model_fields]
        raise invalid(error, source, valid, prefix="task_options") from error


def invalid(error: ValidationError, source: Source, valid: Sequence[str], *, prefix: str = "") -> InvalidRecipe:
    """All that pydantic found, in the words of a recipe."""
    return InvalidRecipe("\n".join(_explain(detail, source, valid, prefix) for detail in error.errors()), mend=MEND)


def _explain(detail: ErrorDetails, source: Source, valid: Sequence[str], prefix: str) -> str:
    key = detail.get("ctx", {}).get("key") or ".".join(str(part) for part in (prefix, *detail["loc"]) if part != "")
    where = source.where(key)
    match detail["type"]:
        case "extra_forbidden":
            hint = _nearest(key, valid)
            return f"{where}: {key} is not a key of a recipe" + (f"; did you mean {hint}?" if hint else "")
        case "missing":
            return f"{where}: {key} is missing"
        case "mismatch":
            return f"{where}: {key}: {detail['msg']}"
        case _:
            message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            return f"{where}: {key} = {detail['input']!r} should be {message}"


def _nearest(key: str, valid: Sequence[str]) -> str | None:
    """The valid key that was probably meant: of the same name elsewhere, or spelt much alike."""
    same_name = [v for v in valid if v.rpartition(".")[2] == key.rpartition(".")[2]]
    if len(same_name) == 1:
        return same_name[0]
    return next(iter(difflib.get_close_matches(key, valid, n=1)), None)


def _keys_of(table: Mapping[str, Any]) -> list[str]:
    """Every key that a recipe with these data sets may have, tables included."""
    keys = [key for key, _ in walk(TrainingRecipe)]
    tables = {key.rpartition(".")[0] for key in keys} - {""}
    data = table.get("data")
    names = data if isinstance(data, dict) else {}
    return [
        *keys,
        *sorted(tables),
        *(f"data.{name}.{field}" for name in names for field in DataSet.model_fields),
    ]


def walk(component: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and pydantic field of every leaf of a component."""
    for name, field in component.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from walk(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def type_name(annotation: Any) -> str:
    """A type in the words of TOML."""
    if annotation in _TYPE_NAMES:
        return _TYPE_NAMES[annotation]
    arguments = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Annotated:
            return type_name(arguments[0])
        case origin if origin is Literal:
            return " or ".join(f'"{value}"' for value in arguments)
        case _:
            return " or ".join(name for name in map(type_name, arguments) if name)


def _set(table: dict[str, Any], key: str, value: Any, override: str) -> None:
    *tables, last = key.split(".")
    for i, name in enumerate(tables):
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise InvalidRecipe(f"override {override}: {'.'.join(tables[: i + 1])} is not a table", mend=MEND)
    table[last] = value


def _prefixes(key: str) -> Iterator[str]:
    """The key, then the tables it lies in, innermost first."""
    parts = key.split(".")
    return (".".join(parts[:n]) for n in range(len(parts), 0, -1))


def _line_of(text: str, key: str) -> int | None:
    """The first line by whose end the key is there, as TOML itself sees it; None where it never is."""
    lines = text.splitlines()
    for n in range(1, len(lines) + 1):
        try:
            table: Any = tomllib.loads("\n".join(lines[:n]))
        except tomllib.TOMLDecodeError:
            continue  # in the middle of a value of several lines
        for part in key.split("."):
            table = table.get(part) if isinstance(table, dict) else None
        if table is not None:
            return n
    return None
