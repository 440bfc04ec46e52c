"""What FSDP2 gathers at once, without processes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ledger.errors import InvalidRecipe
from ledger_trainer.engines.replicas import require_splittable, units
from ledger_trainer.models.gpt import Gpt


def test_each_block_is_gathered_on_its_own() -> None:
    model = Gpt(vocabulary=5, block_size=4, n_layer=3, n_head=1, n_embd=4, dropout=0.0)
    assert units(model) == list(model.blocks)


def test_inner_units_come_first_and_empty_ones_are_left_out() -> None:
    inner = nn.ModuleList([nn.Linear(1, 1), nn.ReLU()])
    outer = nn.ModuleList([nn.Sequential(inner, nn.Linear(1, 1))])
    assert units(nn.Sequential(outer)) == [inner[0], outer[0]]


def test_what_shares_a_parameter_is_left_to_the_whole() -> None:
    layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)])
    layers[2].weight = layers[0].weight
    assert units(nn.Sequential(layers)) == [layers[1]]


@pytest.mark.parametrize(
    ("parameter", "says"),
    [
        (torch.tensor(1.0), "is a single number"),
        (torch.ones(0, 2), "has no element"),
        (torch.ones(3, 2).T, "is laid out in another order"),
    ],
)
def test_a_parameter_that_cannot_be_split(parameter: torch.Tensor, says: str) -> None:
    model = nn.Linear(1, 1)
    model.scale = nn.Parameter(parameter)
    with pytest.raises(InvalidRecipe, match=f"the parameter scale {says}"):
        require_splittable(model)
