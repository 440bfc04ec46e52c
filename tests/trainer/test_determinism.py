from __future__ import annotations

import io
import random

import numpy as np
import torch

from ledger_trainer.determinism import capture_random_state, random_state_kept, restore_random_state, seed_all


def draw() -> tuple[float, float, float, float]:
    return random.random(), random.gauss(), float(np.random.standard_normal()), torch.rand(()).item()


def test_every_generator_goes_on_where_it_was_after_a_trip_through_a_file() -> None:
    seed_all(7, "rank 0")
    draw()  # leaves half a pair of normal numbers behind in python and NumPy, which is state as well
    file = io.BytesIO()
    torch.save(capture_random_state(), file)
    expected = [draw() for _ in range(3)]
    seed_all(8, "rank 0")
    file.seek(0)
    restore_random_state(torch.load(file, weights_only=True))
    assert [draw() for _ in range(3)] == expected


def test_seeds_repeat_and_purposes_differ() -> None:
    drawn = []
    for seed, purpose in ((7, "rank 0"), (7, "rank 0"), (7, "rank 1"), (8, "rank 0")):
        seed_all(seed, purpose)
        drawn.append(draw())
    assert drawn[0] == drawn[1]
    for values in zip(drawn[0], drawn[2], drawn[3], strict=True):
        assert len(set(values)) == 3


def test_what_is_drawn_inside_leaves_no_trace() -> None:
    seed_all(7, "rank 0")
    expected = draw()
    seed_all(7, "rank 0")
    with random_state_kept():
        draw()
    assert draw() == expected
