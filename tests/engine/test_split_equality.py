"""Packing, micro-batch size and world size change nothing but rounding (docs/method/randomness.md): float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.models.rows import CPU, assert_equal_gradients
from tests.models.rows import gradients as gradients_of
from tests.support.one_step import FAMILIES, OBJECTIVES, WEIGHTS, gradients, planner_of, randomised, tiny_family
from tests.support.processes import run_ranks
from tests.support.scene_records import SceneRecords
from unimrg_trainer.models.base import Family
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.sample import Sample


def gradient(family: Family, folder: Path, world_size: int, micro_batch_rows: int) -> dict[str, Tensor]:
    found, *_ = run_ranks(world_size, folder / "meeting", gradients, family.name, micro_batch_rows)
    return {name: torch.from_numpy(value) for name, value in found.items()}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return tiny_family(request.param)


@pytest.fixture(scope="module")
def module(family: Family) -> torch.nn.Module:
    return randomised(family.build().double())


@pytest.fixture(scope="module")
def whole(family: Family, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The step of one process with every row of every objective in one forward."""
    return gradient(family, tmp_path_factory.mktemp("whole"), world_size=1, micro_batch_rows=8)


def test_two_micro_batch_splits_give_the_same_step(family: Family, whole: dict[str, Tensor], tmp_path: Path) -> None:
    assert_equal_gradients(whole, gradient(family, tmp_path, world_size=1, micro_batch_rows=3))


def test_one_and_two_processes_give_the_same_step(family: Family, whole: dict[str, Tensor], tmp_path: Path) -> None:
    assert_equal_gradients(whole, gradient(family, tmp_path, world_size=2, micro_batch_rows=4))


def test_one_packed_forward_equals_an_official_one_for_each_objective(
    family: Family, module: torch.nn.Module, whole: dict[str, Tensor]
) -> None:
    """The published computation: each objective's own batch and loss, then the mean over the objectives."""
    loss = torch.zeros((), dtype=torch.float64)
    for name in OBJECTIVES:
        planner = planner_of(family, 8, [name], composition=Composition.OFFICIAL)
        (micro_step,) = planner.plan_step(4, 0, 1).micro_steps
        sums = module(family.prepare(micro_step.batch, CPU, torch.float64))
        loss = loss + (sums * micro_step.row_weights).sum() / len(OBJECTIVES)
    assert_equal_gradients(whole, {**gradients_of(module, loss), "loss": loss.detach()})


def test_the_step_is_the_weighted_mean_over_objectives_of_cohort_means(
    family: Family, module: torch.nn.Module, whole: dict[str, Tensor]
) -> None:
    """Each row alone through the model, weighed by hand: L = (1/|A|) Σ λ_k · mean of cohort means."""
    planner = planner_of(family, micro_batch_rows=1, composition=Composition.OFFICIAL)
    cohorts: dict[tuple[str, int], list[tuple[float, int]]] = {}
    with torch.no_grad():
        for micro_step in planner.plan_step(4, 0, 1).micro_steps:
            sums = module(family.prepare(micro_step.batch, CPU, torch.float64))
            for row, total in zip(micro_step.rows, sums.tolist(), strict=True):
                cohorts.setdefault((row.objective, row.global_row // 4), []).append((total, row.loss_terms))
    assert len(cohorts) == 8
    loss = 0.0
    for (name, _), rows in cohorts.items():
        loss += WEIGHTS[name] / 4 / 2 * sum(total for total, _ in rows) / sum(count for _, count in rows)
    assert loss == pytest.approx(float(whole["loss"]), rel=1e-9)


class MapsSwapped(SceneRecords):
    """The same images, every two of which have exchanged their maps."""

    def image_sample(self, index: int, wanted: object = None, read: object = None) -> Sample:
        return replace(super().image_sample(index), maps=super().image_sample(index ^ 1).maps)


def test_swapping_two_targets_changes_the_loss(family: Family, module: torch.nn.Module) -> None:
    def sums(records: SceneRecords) -> Tensor:
        (micro_step,) = planner_of(family, 8, ["Depth", "Segmentation"], records).plan_step(4, 0, 1).micro_steps
        with torch.no_grad():
            found: Tensor = module(family.prepare(micro_step.batch, CPU, torch.float64))
        return found

    right = sums(SceneRecords(6))
    assert ((right - sums(MapsSwapped(6))).abs() > 1e-7 * right).all()


def test_frozen_encoders_compute_in_float32_under_autocast_too(family: Family) -> None:
    (micro_step,) = planner_of(family, 8, OBJECTIVES).plan_step(4, 0, 1).micro_steps
    outside = family.prepare(micro_step.batch, CPU, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = family.prepare(micro_step.batch, CPU, torch.float32)
    compared = 0
    for name, value in vars(outside).items():
        if isinstance(value, Tensor) and value.is_floating_point():
            compared += 1
            assert value.dtype == torch.float32 or name == "coefficients", name
            assert value.equal(getattr(inside, name)), name
    assert compared
