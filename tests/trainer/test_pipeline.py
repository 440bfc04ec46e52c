"""Dealing out layers, without processes."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ledger.errors import InvalidRecipe
from ledger_trainer.engines.pipeline import deal_out, keep_stage
from ledger_trainer.engines.tensor import plan_layers
from ledger_trainer.models.convolutional import Convolutional
from ledger_trainer.models.gpt import Gpt


def gpt(n_layer: int = 3) -> Gpt:
    torch.manual_seed(0)
    return Gpt(vocabulary=11, block_size=8, n_layer=n_layer, n_head=4, n_embd=16, dropout=0.0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=7), st.integers(1, 4))
def test_layers_are_dealt_out_as_evenly_as_can_be(sizes: list[int], stages: int) -> None:
    def loads(ends: tuple[int, ...]) -> list[int]:
        return [sum(sizes[a:b]) for a, b in itertools.pairwise((0, *ends, len(sizes)))]

    splits = [loads(ends) for ends in itertools.combinations(range(1, len(sizes)), stages - 1)]
    possible = [max(split) for split in splits if all(split)]
    deal = deal_out(sizes, stages)
    if not possible:
        assert deal is None
        return
    assert deal is not None
    assert deal == sorted(deal)
    found = [sum(size for size, owner in zip(sizes, deal, strict=True) if owner == k) for k in range(stages)]
    assert all(found)
    assert max(found) == min(possible)


@pytest.mark.parametrize("stages", [2, 3, 4, 5])
def test_the_stages_one_after_the_other_are_the_model(stages: int) -> None:
    whole = gpt()
    tokens = torch.arange(16).reshape(2, 8) % 11
    x, names = tokens, set[str]()
    for k in range(stages):
        stage = copy.deepcopy(whole)
        keep_stage(stage, k, stages)
        x = stage(x)
        mine = set(stage.state_dict())
        assert mine
        assert not mine & names
        names |= mine
    assert torch.equal(x, whole(tokens))
    assert names == set(whole.state_dict())


def test_too_many_stages() -> None:
    with pytest.raises(InvalidRecipe, match=r"parallel.pipeline = 6: the model has too few layers"):
        keep_stage(gpt(n_layer=1), 0, 6)


def test_a_model_that_cannot_be_dealt_out_or_split() -> None:
    with pytest.raises(InvalidRecipe, match=r"parallel.pipeline = 2: Convolutional does not say"):
        keep_stage(Convolutional(2, 0.0), 0, 2)
    with pytest.raises(InvalidRecipe, match=r"parallel.tensor = 2: Convolutional does not say"):
        plan_layers(Convolutional(2, 0.0), 2)


def test_a_parameter_tied_across_stages() -> None:
    model = gpt()
    model.head.weight = model.embed.tokens.weight
    with pytest.raises(InvalidRecipe, match="used in two stages"):
        keep_stage(model, 0, 2)


def test_a_parameter_outside_of_the_layers() -> None:
    model = gpt()
    model.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(InvalidRecipe, match="scale of the model is in none of its layers"):
        keep_stage(model, 0, 2)


def test_whole_heads_are_split() -> None:
    plan = plan_layers(gpt(), 4)
    assert plan["blocks.2.attend"] == "colwise"
    assert plan["blocks.0.down"] == "rowwise"
    assert len(plan) == 12
    with pytest.raises(InvalidRecipe, match=r"parallel.tensor = 3: 4 heads of attention"):
        plan_layers(gpt(), 3)


class Planned(nn.Module):
    """A model with a plan that does not fit it."""

    def __init__(self, plan: dict[str, str]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 6), nn.LayerNorm(6)])
        self.plan = plan

    def tensor_plan(self, size: int) -> dict[str, str]:
        return self.plan


@pytest.mark.parametrize(
    ("plan", "size", "says"),
    [
        ({"layers.0": "colwise"}, 4, r"layers.0 has 6 of what is to be dealt out to 4"),
        ({"layers.0": "rowwise"}, 3, r"layers.0 has 4 of what is to be dealt out to 3"),
        ({"layers.*": "colwise"}, 2, r"layers.1 of the model's plan is neither Linear nor Embedding"),
        ({"*": "colwise"}, 2, r"layers of the model's plan is neither"),
        ({"layer.0": "colwise"}, 2, r"names layer.0, which it has not"),
    ],
)
def test_a_plan_that_does_not_fit(plan: dict[str, str], size: int, says: str) -> None:
    with pytest.raises(InvalidRecipe, match=says):
        plan_layers(Planned(plan), size)
