"""Learning rate per optimiser step against the reference's scheduler, stepped per micro-iteration."""

from __future__ import annotations

import math

import pytest
import torch

from unimrg_trainer.engine.schedule import WarmupCosine


def test_the_rate_is_the_reference_schedulers_at_the_last_micro_iteration_of_the_step() -> None:
    """torch's own LinearLR and CosineAnnealingLR, stepped per micro-iteration (method.md §1.3)."""
    warmup, horizon = 100, 10000
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1e-5)
    rising = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-5, 1.0, total_iters=warmup - 1)
    rates = []
    for micro in range(warmup):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if micro < warmup - 1:
            rising.step()
    schedule = WarmupCosine(1e-5, 25, 2500)
    for step in range(25):
        assert schedule.rate(step) == pytest.approx(rates[4 * step + 3], rel=1e-9)
    for step in range(25, 2500, 97):
        progress = (4 * step + 3 - warmup) / (horizon - warmup)
        assert schedule.rate(step) == pytest.approx(1e-5 * 0.5 * (1 + math.cos(math.pi * progress)), rel=1e-12)


def test_the_published_point_of_evaluation_has_the_published_rate() -> None:
    """Step 1000 of a 2500-step schedule: 0.66e-5 (method.md §1.3)."""
    assert WarmupCosine(1e-5, 25, 2500).rate(999) == pytest.approx(0.66e-5, abs=0.01e-5)


def test_after_the_horizon_nothing_is_learnt() -> None:
    assert WarmupCosine(1.0, 2, 10).rate(10) == 0.0
    assert WarmupCosine(1.0, 2, 10).rate(9) > 0.0


def test_without_warm_up_the_first_step_is_at_the_peak() -> None:
    assert WarmupCosine(1.0, 0, 1000).rate(0) == pytest.approx(1.0, abs=1e-4)
