"""Micro-batch size and world size change nothing but rounding (docs/method/randomness.md): float64, dropout 0."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.models.harmon_rows import assert_equal_gradients
from tests.support.one_step import TINY, WEIGHTS, gradients, planner_of, randomised
from tests.support.processes import run_ranks
from unimrg_trainer.models.registry import find_family


def gradient(folder: Path, world_size: int, micro_rows: int) -> dict[str, torch.Tensor]:
    found, *_ = run_ranks(world_size, folder / "meeting", gradients, micro_rows)
    return {name: torch.from_numpy(value) for name, value in found.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The step of one process with every row in one forward."""
    return gradient(tmp_path_factory.mktemp("whole"), world_size=1, micro_rows=8)


def test_two_micro_batch_splits_give_the_same_step(whole: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert_equal_gradients(whole, gradient(tmp_path, world_size=1, micro_rows=3))


def test_one_and_two_processes_give_the_same_step(whole: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert_equal_gradients(whole, gradient(tmp_path, world_size=2, micro_rows=4))


def test_the_step_is_the_weighted_mean_over_objectives_of_cohort_means(whole: dict[str, torch.Tensor]) -> None:
    """Each row alone through the model, weighed by hand: L = (1/|A|) Σ λ_k · mean of cohort means."""
    family = find_family("harmon", TINY)
    module = randomised(family.build().double())
    planner = planner_of(family, micro_rows=1)
    cohorts: dict[tuple[str, int], list[tuple[float, int]]] = {}
    with torch.no_grad():
        for micro_step in planner.step(4, 0, 1).micro_steps:
            sums = module(family.prepare(micro_step.batch, torch.device("cpu"), torch.float64))
            for row, total in zip(micro_step.rows, sums.tolist(), strict=True):
                cohorts.setdefault((row.objective, row.global_row // 4), []).append((total, row.loss_terms))
    assert len(cohorts) == 8
    loss = 0.0
    for (name, _), rows in cohorts.items():
        loss += WEIGHTS[name] / 4 / 2 * sum(total for total, _ in rows) / sum(count for _, count in rows)
    assert loss == pytest.approx(float(whole["loss"]), rel=1e-9)
