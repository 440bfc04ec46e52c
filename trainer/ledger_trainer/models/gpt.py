"""A decoder-only transformer in the shape of GPT-2 (Radford et al. 2019), as small as the caller likes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ledger.errors import InvalidRecipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ledger_trainer.task import Cut


class Gpt(nn.Module):
    """Tokens [batch, time] to logits [batch, time, vocabulary]; ``time`` is at most ``block_size``."""

    def __init__(
        self, vocabulary: int, block_size: int, n_layer: int, n_head: int, n_embd: int, dropout: float
    ) -> None:
        super().__init__()
        self.n_head = n_head
        self.embed = Embed(vocabulary, block_size, n_embd, dropout)
        self.blocks = nn.ModuleList(Block(n_head, n_embd, dropout) for _ in range(n_layer))
        self.norm = nn.LayerNorm(n_embd)
        self.head = nn.Linear(n_embd, vocabulary, bias=False)
        self.apply(_initialise)
        for block in self.blocks:  # GPT-2 scales what is added to the residual stream by its depth
            for name in ("project", "down"):
                nn.init.normal_(block.get_parameter(f"{name}.weight"), std=0.02 / (2 * n_layer) ** 0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def pipeline_layers(self) -> Sequence[str]:
        """Every module, in the order of ``forward``."""
        return ["embed", *(f"blocks.{i}" for i in range(len(self.blocks))), "norm", "head"]

    def tensor_plan(self, size: int) -> Mapping[str, Cut]:
        """Heads, and the features inside of the feed-forward layer, are dealt out.

        The processes draw the same random numbers, so dropout inside attention treats the heads of each alike:
        it is as strong as in one process, but not the same draw.
        """
        if self.n_head % size:
            raise InvalidRecipe(
                f"parallel.tensor = {size}: {self.n_head} heads of attention cannot be dealt out to {size} processes",
                mend="set parallel.tensor to a divisor of task_options.n_head",
            )
        cuts: dict[str, Cut] = {"attend": "colwise", "project": "rowwise", "up": "colwise", "down": "rowwise"}
        return {f"blocks.*.{name}": cut for name, cut in cuts.items()}


class Embed(nn.Module):
    """Tokens [batch, time] to the sum of what stands for each token and for its place."""

    def __init__(self, vocabulary: int, block_size: int, n_embd: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, n_embd)
        self.positions = nn.Embedding(block_size, n_embd)
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Activations [batch, time, width]."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x: Tensor = self.drop(self.tokens(tokens) + self.positions(places))
        return x


class Block(nn.Module):
    """Attention, then a feed-forward layer, each normalised before and added to its input."""

    def __init__(self, n_head: int, n_embd: int, dropout: float) -> None:
        super().__init__()
        self.width = n_embd // n_head
        """Of one head."""
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(n_embd)
        self.attend = nn.Linear(n_embd, 3 * n_embd)
        self.project = nn.Linear(n_embd, n_embd)
        self.feed_norm = nn.LayerNorm(n_embd)
        self.up = nn.Linear(n_embd, 4 * n_embd)
        self.down = nn.Linear(4 * n_embd, n_embd)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Activations [batch, time, width] to the same shape."""
        x = x + self.drop(self.project(self._attention(self.attention_norm(x))))
        y: Tensor = self.drop(self.down(functional.gelu(self.up(self.feed_norm(x)))))
        return x + y

    def _attention(self, x: Tensor) -> Tensor:
        # Query, key and value of one head lie side by side: whoever has some of the rows has whole heads.
        heads = self.attend(x).unflatten(-1, (-1, 3, self.width)).transpose(1, 2)
        query, key, value = heads.unbind(-2)
        dropout = self.dropout if self.training else 0.0
        y = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        return y.transpose(1, 2).flatten(2)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
