"""The loop's optimiser steps against the published recipe written by hand: float64, dropout 0, one process."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from tests.support.one_step import TINY, WEIGHTS, freeze, planner_of, randomised
from tests.support.published_recipe import Recipe, assert_trained_alike, rate_by_hand, train_by_hand
from unimrg_api.spec_training import OptimizerSpec
from unimrg_trainer.checkpoint.state import TrainingState
from unimrg_trainer.engine.loop import LoopReport, LoopSettings, TrainingLoop
from unimrg_trainer.engine.metrics import MetricsCollector
from unimrg_trainer.engine.optimizer import build_optimizer
from unimrg_trainer.engine.schedule import WarmupCosine
from unimrg_trainer.engine.stopping import StopAgreement
from unimrg_trainer.engine.strategy import DataParallel
from unimrg_trainer.models.registry import find_family

PEAK, WARMUP, TOTAL, STEPS = 1e-2, 2, 8, 4


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("clip_norm", [None, 100.0], ids=["clipped at the default", "below the clip norm"])
def test_steps_of_the_loop_are_clipped_adamw_at_the_schedules_rate(clip_norm: float | None) -> None:
    """Warm-up, peak and cosine; the gradient's norm is about 3.5."""
    settings = OptimizerSpec()
    clip = 1.0 if clip_norm is None else clip_norm  # the published one is the default
    family = find_family("harmon", TINY)
    module = randomised(family.build().double())
    planner = planner_of(family, micro_rows=1, rows=2, cohort_rows=1)
    freeze(module, family.frozen(planner.objectives))
    rates = [rate_by_hand(PEAK, WARMUP, TOTAL, step) for step in range(STEPS)]
    assert rates[0] < rates[1] < rates[2] > rates[3]
    expected = train_by_hand(
        family,
        copy.deepcopy(module),
        [planner.step(step, 0, 1) for step in range(STEPS)],
        rates,
        Recipe(clip_norm=clip),
    )
    assert all((norm > clip) == (clip_norm is None) for norm in expected.norms)

    saved: list[TrainingState] = []
    reports: list[LoopReport] = []
    assert dist.group.WORLD is not None
    loop = TrainingLoop(
        module=module,
        optimizer=build_optimizer(module, settings, family.decays),
        strategy=DataParallel(module, "FP64", torch.device("cpu")),
        schedule=WarmupCosine(PEAK, WARMUP, TOTAL),
        collector=MetricsCollector(WEIGHTS),
        plan_step=lambda step: planner.step(step, 0, 1),
        prepare=lambda batch: family.prepare(batch, torch.device("cpu"), torch.float64),
        stop=StopAgreement(SimpleNamespace(requested=False), dist.group.WORLD),
        save=lambda state, reason: saved.append(state),
        report=reports.append,
        settings=LoopSettings(
            stop_step=STEPS,
            save_every=STEPS,
            clip_norm=float(settings.clip_norm) if clip_norm is None else clip_norm,
            seed=3,
        ),
    )
    assert loop.run(0) == STEPS
    (state,) = saved
    assert state.step == STEPS
    assert_trained_alike(state.tensors, expected)
    assert [rate for one in reports for rate in one.learning_rates] == pytest.approx(rates, rel=1e-12)
    # the norm that is reported is the one before clipping
    norms = [point.grad_norm for one in reports for point in one.metrics]
    assert norms == pytest.approx(expected.norms, rel=1e-10)
