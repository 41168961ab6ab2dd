"""Learning rate per optimiser step: the formula in the middle of the step, and how far the reference's is away."""

from __future__ import annotations

import math

import pytest

from tests.support.published_recipe import rate_by_hand, reference_rate
from unimrg_trainer.engine.schedule import Schedule


@pytest.mark.parametrize(("warmup", "total"), [(25, 2500), (1, 12), (0, 40), (10, 10)])
def test_the_rate_is_the_schedules_in_the_middle_of_the_step(warmup: int, total: int) -> None:
    schedule = Schedule(1e-3, warmup, total)
    for step in range(total):
        expected = rate_by_hand(1e-3, warmup, total, step) if step < warmup or warmup < total else 0.0
        assert schedule.rate(step) == pytest.approx(expected, rel=1e-9)


def test_the_reference_is_a_quarter_of_a_step_ahead_and_no_more() -> None:
    """By half a step's rise in the warm-up, by a quarter step's steepest fall after it (docs/method/recipe.md)."""
    peak, warmup, total = 1e-5, 25, 2500
    schedule = Schedule(peak, warmup, total)
    for step in range(total):
        difference = reference_rate(peak, warmup, total, step) - schedule.rate(step)
        if step < warmup:
            assert 0 <= difference <= peak * 0.5 / warmup
        else:
            assert 0 <= -difference <= peak * 0.25 * math.pi / 2 / (total - warmup)


def test_the_published_point_of_evaluation_has_the_published_rate() -> None:
    """Step 1000 of a 2500-step schedule: 0.66e-5 (docs/method/recipe.md)."""
    assert Schedule(1e-5, 25, 2500).rate(999) == pytest.approx(0.66e-5, abs=0.01e-5)


def test_after_the_last_step_of_the_schedule_nothing_is_learnt() -> None:
    assert Schedule(1.0, 2, 10).rate(10) == 0.0
    assert Schedule(1.0, 2, 10).rate(9) > 0.0


def test_a_constant_schedule_stays_at_its_peak_after_the_warm_up() -> None:
    schedule = Schedule(0.5, 4, 10, "Constant")
    assert [schedule.rate(step) for step in (4, 9, 100)] == [0.5] * 3
    assert [schedule.rate(step) for step in range(4)] == [Schedule(0.5, 4, 10).rate(step) for step in range(4)]
