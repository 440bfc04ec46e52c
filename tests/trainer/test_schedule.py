from __future__ import annotations

import pytest

from ledger_trainer.recipe import Schedule
from ledger_trainer.schedule import learning_rate


def test_warm_up_then_half_a_cosine_down_to_the_least() -> None:
    schedule = Schedule(kind="cosine", warmup=10, min_lr=0.1)
    rates = [learning_rate(schedule, 1.0, step, 110) for step in range(1, 111)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[59] == pytest.approx(0.55)
    assert rates[109] == pytest.approx(0.1)
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_constant_is_constant_after_its_warm_up() -> None:
    schedule = Schedule(warmup=4)
    assert [learning_rate(schedule, 1.0, step, 8) for step in range(1, 9)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


def test_a_training_that_is_all_warm_up() -> None:
    assert learning_rate(Schedule(kind="cosine", warmup=5), 1.0, 5, 5) == 1.0
