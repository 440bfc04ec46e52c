"""The settings that DeepSpeed gets: the user's JSON, and over it what the recipe decides."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ledger.errors import InvalidRecipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pydantic_core import ErrorDetails

DECIDED_ELSEWHERE: Final = {"optimizer": "[optim]", "scheduler": "[schedule]", "tensor_parallel": "parallel.tensor"}
"""Tables of the JSON that the recipe has keys of its own for."""
PAGE: Final = "https://www.deepspeed.ai/docs/config-json/ lists them"


class Options(BaseModel):
    """The table ``[engine.options]`` of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    zero: Literal[0, 1, 2, 3] | None = None
    """What ZeRO splits between the processes.

    0: nothing, 1: the optimizer's state, 2: gradients as well, 3: parameters as well. By default what the JSON says,
    or 0.
    """
    config: str | None = None
    """Path of a DeepSpeed JSON of your own, relative to the working directory."""


def options(config: Mapping[str, Any]) -> Options:
    """The options in a recipe. Raises ``InvalidRecipe``."""
    try:
        return Options.model_validate(config["engine"]["options"])
    except ValidationError as error:
        found = (f"engine.options.{'.'.join(map(str, e['loc']))}: {_said(e)}" for e in error.errors())
        raise InvalidRecipe("\n".join(found), mend=f"options are {', '.join(Options.model_fields)}") from error


def _said(error: ErrorDetails) -> str:
    return "there is no such option" if error["type"] == "extra_forbidden" else error["msg"]


def check_sizes(config: Mapping[str, Any]) -> None:
    """Raise ``InvalidRecipe`` where DeepSpeed has no such layout of the processes."""
    for name in ("shard", "tensor"):
        if size(config, name) > 1:
            raise InvalidRecipe(
                f'parallel.{name} = {size(config, name)}: engine.name = "deepspeed" has no such dimension',
                mend="set parallel.data; engine.options.zero = 1, 2 or 3 splits the state over those processes",
            )


def size(config: Mapping[str, Any], dimension: str) -> int:
    """How many processes the recipe has along a dimension."""
    return config["parallel"][dimension] or 1


def merged(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for ``deepspeed.initialize``.

    Raises ``InvalidRecipe`` for a JSON that cannot be read, contradicts the recipe, or asks for what DeepSpeed does
    not do, naming the keys on both sides.
    """
    chosen = options(config)
    own = _read(Path(chosen.config)) if chosen.config else {}
    problems = [
        f"{name} is in {chosen.config}, but the recipe decides it by {key}"
        for name, key in DECIDED_ELSEWHERE.items()
        if name in own
    ]
    for path, value, key in _decided(config, chosen.zero):
        *tables, name = path
        table = own
        for outer in tables:
            table = _table(table, outer, chosen.config)
        if table.get(name, "auto") not in ("auto", value):
            problems.append(f"{'.'.join(path)} = {table[name]!r} in {chosen.config}, but {key} gives {value!r}")
        table[name] = value
    if problems:
        raise InvalidRecipe("\n".join(problems), mend=f"remove these from {chosen.config}, or change the recipe")
    own.setdefault("steps_per_print", None)  # log.every says when something is printed
    _refuse_pipeline(size(config, "pipeline"), _stage(own, chosen.config), own["bf16"]["enabled"])
    return own


def accepted(settings: Mapping[str, Any], file: str | None, parse: Callable[[dict[str, Any]], Any]) -> None:
    """Have DeepSpeed's own ``parse`` look at the settings.

    Raises ``InvalidRecipe`` with what it says, and for names that it never asks for: it would ignore them in silence.
    """
    where = file or "engine.options"
    asked = _Asked(settings)
    try:
        parse(asked)
    except Exception as error:  # it raises assertions, values, keys and pydantic's errors
        raise InvalidRecipe(f"{where}: DeepSpeed refuses these settings: {error}", mend=PAGE) from error
    if unknown := [name for name in settings if name not in asked.names]:
        near = get_close_matches(unknown[0], asked.names, n=1)
        raise InvalidRecipe(
            f"{where}: DeepSpeed knows no {', '.join(unknown)}",
            mend=f"did you mean {near[0]}?" if near else f"remove them; {PAGE}",
        )


class _Asked(dict[str, Any]):
    """Settings that remember which names were asked for."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def keys(self) -> Any:
        return self  # DeepSpeed asks `name in settings.keys()` as well


def _decided(config: Mapping[str, Any], zero: int | None) -> Iterator[tuple[Sequence[str], Any, str]]:
    """Path in the JSON, value, and the key of the recipe that decides it."""
    batch = config["batch"]
    micro = batch["size"] // (batch["accumulation"] * size(config, "data"))
    yield ("train_batch_size",), batch["size"], "batch.size"
    yield ("train_micro_batch_size_per_gpu",), micro, "batch.size / (batch.accumulation × parallel.data)"
    yield ("gradient_accumulation_steps",), batch["accumulation"], "batch.accumulation"
    yield ("gradient_clipping",), config["optim"]["clip"], "optim.clip"
    yield ("bf16", "enabled"), config["engine"]["precision"] == "bfloat16", "engine.precision"
    yield ("fp16", "enabled"), False, "engine.precision (float32 or bfloat16)"
    yield ("zero_allow_untested_optimizer",), True, "[optim], whose optimizers are torch's own,"
    if zero is not None:
        yield ("zero_optimization", "stage"), zero, "engine.options.zero"


def _table(within: dict[str, Any], name: str, file: str | None) -> dict[str, Any]:
    table = within.setdefault(name, {})
    if not isinstance(table, dict):
        raise InvalidRecipe(f"{name} in {file} is not a table", mend="write it as an object, { … }")
    return table


def _stage(own: dict[str, Any], file: str | None) -> int:
    """What ZeRO splits, 0 where nobody says."""
    stage = _table(own, "zero_optimization", file).setdefault("stage", 0)
    if type(stage) is not int or stage not in range(4):
        raise InvalidRecipe(
            f"zero_optimization.stage = {stage!r} in {file} is no stage of ZeRO",
            mend="write 0, 1, 2 or 3, or set engine.options.zero",
        )
    return stage


def _refuse_pipeline(stages: int, zero: int, bfloat16: bool) -> None:
    if stages == 1:
        return
    if zero == 0 and bfloat16:
        raise InvalidRecipe(
            f'parallel.pipeline = {stages} with ZeRO 0 and engine.precision = "bfloat16": DeepSpeed writes checkpoints '
            "of these that it cannot load",
            mend="set engine.options.zero = 1, which trains the same",
        )
    if zero > 1:
        raise InvalidRecipe(
            f"parallel.pipeline = {stages} with ZeRO {zero}: DeepSpeed's pipelines do no more than ZeRO 1",
            mend="set engine.options.zero to 0 or 1, or parallel.pipeline to 1",
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except (OSError, ValueError) as error:
        raise InvalidRecipe(
            f"engine.options.config = {str(path)!r} cannot be read as JSON: {error}",
            mend="give the path of a DeepSpeed JSON, relative to the working directory",
        ) from error
    if not isinstance(found, dict):
        raise InvalidRecipe(f"{path} is not a JSON object", mend="DeepSpeed's settings look like { … }")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Raises ``ValueError`` for a name that is there twice: one of the two would be lost."""
    names = [name for name, _ in pairs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{', '.join(sorted(twice))} is there twice")
    return dict(pairs)
