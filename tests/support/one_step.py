"""One optimiser step of each family's tiny model in float64, as a rank of a process group computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from tests.support.scene_records import SceneRecords
from unimrg_api.spec_training import OptimizerSpec
from unimrg_trainer.checkpoint.agreement import Agreement
from unimrg_trainer.engine.optimizer import build_optimizer
from unimrg_trainer.engine.row_reader import RowReader
from unimrg_trainer.engine.rows import BatchShape
from unimrg_trainer.engine.step_plan import StepPlanner
from unimrg_trainer.engine.strategies.ddp import DataParallel
from unimrg_trainer.models.base import Family
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.packing.composition import Composition

TINY = {"variant": "Tiny", "dropout": "0"}
"""Harmon's settings."""
FAMILIES = ("harmon", "openuni", "showo")
OBJECTIVES = ("Understanding", "Pixel", "Depth", "Segmentation")
WEIGHTS = {"Understanding": 1.0, "Pixel": 0.5, "Depth": 2.0, "Segmentation": 1.0}


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Draw every parameter anew: at the published initialisation heads are zero and many gradients vanish."""
    torch.manual_seed(11)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64) * 0.05 + ("norm" in name))
    return module


def tiny_family(name: str) -> Family:
    """The built-in family at its smallest size, without dropout."""
    return find_family(name, TINY if name == "harmon" else {"variant": "Tiny"})


def freeze(module: torch.nn.Module, frozen: frozenset[str]) -> None:
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen)


def planner_of(
    family: Family,
    micro_batch_rows: int,
    names: Sequence[str] = OBJECTIVES,
    records: SceneRecords | None = None,
    composition: Composition = Composition.GROUPED,
) -> StepPlanner:
    """Steps over six scenes, or over `records`, under the named objectives."""
    return StepPlanner(
        family=family,
        objectives=[objective(name) for name in names],
        objective_weights=WEIGHTS,
        reader=RowReader(records or SceneRecords(6), seed=3),
        shape=BatchShape(rows=8, cohort_rows=4),
        micro_batch_rows=micro_batch_rows,
        seed=3,
        composition=composition,
    )


def gradients(agreement: Agreement, family_name: str, micro_batch_rows: int) -> dict[str, Any]:
    """The gradient of step 4 as NumPy arrays by name, and its `loss`; torch's tensors would live no longer than we."""
    family = tiny_family(family_name)
    module = randomised(family.build().double())
    planner = planner_of(family, micro_batch_rows)
    freeze(module, family.frozen(planner.objectives))
    strategy = DataParallel(
        module, lambda m: build_optimizer(m, OptimizerSpec(), family.decays), "FP64", torch.device("cpu")
    )
    step = planner.plan_step(4, agreement.rank, agreement.world_size)
    loss = torch.zeros((), dtype=torch.float64)
    for index, micro_step in enumerate(step.micro_steps):
        batch = family.prepare(micro_step.batch, torch.device("cpu"), torch.float64)
        sums = strategy.forward_backward(
            batch, micro_step.row_weights, sync_gradients=index == len(step.micro_steps) - 1
        )
        loss += (sums * micro_step.row_weights).sum()
    dist.all_reduce(loss)
    found = {name: p.grad.numpy() for name, p in module.named_parameters() if p.grad is not None}
    return {**found, "loss": loss.numpy()}
