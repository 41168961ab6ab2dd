"""What a reported loss is: the mean over cohorts of the cohort's mean, without λ, over the whole world."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.one_step import TINY
from tests.support.processes import run_ranks
from tests.support.scene_records import SceneRecords
from tests.support.toy_training import TOY_WEIGHTS, micro_step
from unimrg_trainer.checkpoint.agreement import Agreement
from unimrg_trainer.engine.metrics import MetricsCollector, StepMetrics
from unimrg_trainer.engine.row_reader import RowReader
from unimrg_trainer.engine.rows import BatchShape
from unimrg_trainer.engine.step_plan import StepPlanner
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.objectives.registry import objective

WEIGHTS = {"Understanding": 1.0, "Pixel": 0.5, "Depth": 2.0}
STEPS, COHORTS, COHORT_ROWS = (6, 7), 2, 2


def row_sum(name: str, row: int) -> float:
    """A row's loss sum, as if a model had computed it."""
    return random.Random(f"{name} {row}").uniform(0.5, 9.0)


def measured(rank: int, world_size: int, micro_batch_rows: int) -> tuple[list[StepMetrics], dict[tuple[str, int], int]]:
    """Two steps through a real plan: (what `flush` returns, loss terms of each row of this rank)."""
    planner = StepPlanner(
        family=find_family("harmon", TINY),
        objectives=[objective(name) for name in WEIGHTS],
        objective_weights=WEIGHTS,
        reader=RowReader(SceneRecords(3), seed=3),
        shape=BatchShape(rows=COHORTS * COHORT_ROWS, cohort_rows=COHORT_ROWS),
        micro_batch_rows=micro_batch_rows,
        seed=3,
    )
    collector = MetricsCollector(WEIGHTS)
    terms: dict[tuple[str, int], int] = {}
    for number in STEPS:
        for one in planner.plan_step(number, rank, world_size).micro_steps:
            terms |= {(row.objective, row.global_row): row.loss_terms for row in one.rows}
            sums = [row_sum(row.objective, row.global_row) for row in one.rows]
            collector.add_micro_step(one, torch.tensor(sums, dtype=torch.float64))
        collector.add_substituted(number + rank)
        collector.end_step(number + 1, collector.reduced_losses(), torch.tensor(number / 8), torch.tensor(False))
    return collector.flush(), terms


def measured_on(agreement: Agreement, micro_batch_rows: int) -> Any:
    return measured(agreement.rank, agreement.world_size, micro_batch_rows)


def by_hand(number: int, terms: dict[tuple[str, int], int]) -> dict[str, float]:
    losses = {}
    for name in WEIGHTS:
        means = []
        for cohort in range(COHORTS):
            first = (number * COHORTS + cohort) * COHORT_ROWS
            rows = range(first, first + COHORT_ROWS)
            means.append(sum(row_sum(name, row) for row in rows) / sum(terms[name, row] for row in rows))
        losses[name] = sum(means) / COHORTS
    return losses


def assert_right(metrics: list[StepMetrics], terms: dict[tuple[str, int], int]) -> None:
    assert [point.step for point in metrics] == [number + 1 for number in STEPS]
    for number, point in zip(STEPS, metrics, strict=True):
        losses = by_hand(number, terms)
        assert dict(point.losses) == pytest.approx(losses, rel=1e-12)
        weighted = sum(WEIGHTS[name] * loss for name, loss in losses.items()) / len(WEIGHTS)
        assert point.loss == pytest.approx(weighted, rel=1e-12)
        assert point.grad_norm == number / 8


@pytest.mark.parametrize("micro_batch_rows", [2, 3])
def test_two_ranks_report_means_of_cohort_means_without_weights(tmp_path: Path, micro_batch_rows: int) -> None:
    (first, some), (second, others) = run_ranks(2, tmp_path / "meeting", measured_on, micro_batch_rows)
    assert first == second
    assert not some.keys() & others.keys()
    assert [point.substituted for point in first] == [2 * number + 1 for number in STEPS]
    terms = some | others
    assert len(set(terms.values())) > 2  # rows of different length: a mean over rows would be another number
    assert_right(first, terms)


@pytest.mark.usefixtures("process_group")
def test_discarded_steps_and_steps_already_reported_do_not_count() -> None:
    collector = MetricsCollector(TOY_WEIGHTS)
    rows = micro_step([("Pixel", 0, 0.25), ("Depth", 0, 1.0)])
    collector.add_micro_step(rows, torch.tensor([100.0, 100.0]))
    collector.discard()
    assert collector.flush() == []
    for step, value in ((1, 3.0), (2, 5.0)):
        collector.add_micro_step(rows, torch.tensor([value, 2 * value]))
        collector.end_step(step, collector.reduced_losses(), torch.tensor(1.0), torch.tensor(step == 2))
        (point,) = collector.flush()
        assert (point.step, dict(point.losses)) == (step, {"Pixel": value, "Depth": 2 * value})
        assert point.skipped == (step == 2)
