"""One optimiser step of the tiny model in float64, in a process group of its own: writes the gradient to a file.

`python -m tests.support.one_step RENDEZVOUS RANK WORLD MICRO_ROWS OUT`
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from tests.support.scene_records import SceneRecords
from unimrg_trainer.engine.rows import BatchShape
from unimrg_trainer.engine.step_plan import RowReader, StepPlanner
from unimrg_trainer.engine.strategy import DataParallel
from unimrg_trainer.models.base import Family
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.objectives.registry import objective

TINY = {"variant": "Tiny", "dropout": "0"}
OBJECTIVES = ("Understanding", "Pixel", "Depth", "Segmentation")
WEIGHTS = {"Understanding": 1.0, "Pixel": 0.5, "Depth": 2.0, "Segmentation": 1.0}


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Draw every parameter anew: at the published initialisation heads are zero and many gradients vanish."""
    torch.manual_seed(11)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64) * 0.05 + ("norm" in name))
    return module


def freeze(module: torch.nn.Module, frozen: frozenset[str]) -> None:
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen)


def planner_of(family: Family, micro_rows: int, rows: int = 8, cohort_rows: int = 4) -> StepPlanner:
    """Steps over six scenes under all objectives."""
    return StepPlanner(
        family=family,
        objectives=[objective(name) for name in OBJECTIVES],
        weights=WEIGHTS,
        reader=RowReader(SceneRecords(6), seed=3),
        shape=BatchShape(rows, cohort_rows),
        micro_rows=micro_rows,
        seed=3,
    )


def main(rendezvous: str, rank: int, world_size: int, micro_rows: int, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=world_size)
    family = find_family("harmon", TINY)
    module = randomised(family.build().double())
    planner = planner_of(family, micro_rows)
    freeze(module, family.frozen(planner.objectives))
    strategy = DataParallel(module, "FP64", torch.device("cpu"))
    step = planner.step(4, rank, world_size)
    loss = torch.zeros((), dtype=torch.float64)
    for index, micro_step in enumerate(step.micro_steps):
        batch = family.prepare(micro_step.batch, torch.device("cpu"), torch.float64)
        sums = strategy.forward_backward(batch, micro_step.weights, last=index == len(step.micro_steps) - 1)
        loss += (sums * micro_step.weights).sum()
    dist.all_reduce(loss)
    if rank == 0:
        gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        save_file({**gradients, "loss": loss}, out)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
