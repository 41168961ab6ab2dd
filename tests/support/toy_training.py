"""A model of two layers under the real training loop: for tests of the loop in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unimrg_api.spec_training import GuardSpec, OptimizerSpec
from unimrg_trainer.checkpoint.state import LocalState, StateReader
from unimrg_trainer.engine.guard import NumericGuard
from unimrg_trainer.engine.loop import LoopReport, LoopSettings, TrainingLoop
from unimrg_trainer.engine.metrics import MetricsCollector
from unimrg_trainer.engine.optimizer import build_optimizer
from unimrg_trainer.engine.rank_times import RankTimes
from unimrg_trainer.engine.schedule import Schedule
from unimrg_trainer.engine.step_plan import MicroStep, Step
from unimrg_trainer.engine.stopping import CollectiveStopFlag, StopFlag
from unimrg_trainer.engine.strategies.base import Strategy
from unimrg_trainer.engine.strategies.ddp import DataParallel
from unimrg_trainer.models.base import Row

TOY_WEIGHTS = {"Pixel": 0.5, "Depth": 2.0}
TOY_ROWS = 4
"""Rows of each objective in a step."""


class Toy(nn.Module):
    """A squared error for each row of inputs [rows, 3]; has dropout, a frozen parameter, matrices and a scalar."""

    def __init__(self, seed: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 1)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.unreached = nn.Parameter(torch.randn(2), requires_grad=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.dropout(torch.tanh(self.first(inputs)))
        losses: Tensor = (self.second(hidden).squeeze(-1) * self.scale - 1.0) ** 2
        return losses


def micro_step(rows: list[tuple[str, int, float]], batch: Any = None) -> MicroStep:
    """Rows (objective, global row, absolute weight) as one forward."""
    weights = torch.tensor([weight for _, _, weight in rows], dtype=torch.float64)
    return MicroStep(tuple(Row(name, row, 1) for name, row, _ in rows), batch, weights)


def toy_step(number: int, rank: int = 0, world_size: int = 1) -> Step:
    """Step of four rows per objective, two rows of each per micro-step; inputs belong to the global row."""
    micro_steps = []
    own = range(rank * TOY_ROWS // world_size, (rank + 1) * TOY_ROWS // world_size)
    for first in own[::2]:
        rows = [
            (name, number * TOY_ROWS + row, weight / len(TOY_WEIGHTS) / TOY_ROWS)
            for name, weight in TOY_WEIGHTS.items()
            for row in own[first - own[0] : first - own[0] + 2]
        ]
        inputs = [torch.randn(3, generator=torch.Generator().manual_seed(7 + row)) for _, row, _ in rows]
        micro_steps.append(micro_step(rows, torch.stack(inputs)))
    return Step(number, tuple(micro_steps))


def toy_optimizer(module: nn.Module) -> torch.optim.AdamW:
    return build_optimizer(module, OptimizerSpec(), lambda name, parameter: parameter.ndim > 1)


def toy_strategy(module: nn.Module) -> Strategy:
    return DataParallel(module, toy_optimizer, "FP32", torch.device("cpu"))


def toy_loop(
    module: nn.Module,
    *,
    stop_step: int,
    save_every: int,
    save: Callable[[LocalState, str], None],
    state: StateReader | None = None,
    flag: StopFlag | None = None,
    plan_step: Callable[[int], Step] = toy_step,
    report: Callable[[LoopReport], None] = lambda measured: None,
    wrap: Callable[[Strategy], Strategy] = lambda strategy: strategy,
    weights: Mapping[str, float] = TOY_WEIGHTS,
    guard: NumericGuard | None = None,
    objective_norms_every: int | None = None,
) -> TrainingLoop:
    """The real loop with every real part, in the process group that this process has joined."""
    assert dist.group.WORLD is not None
    strategy = toy_strategy(module)
    if state is not None:
        strategy.import_state(state)
    return TrainingLoop(
        strategy=wrap(strategy),
        schedule=Schedule(0.05, 2, 20),
        collector=MetricsCollector(weights),
        guard=guard or NumericGuard(GuardSpec(), torch.device("cpu")),
        plan_step=plan_step,
        prepare=lambda batch: batch,
        stop=CollectiveStopFlag(flag or SimpleNamespace(requested=False), dist.group.WORLD),
        save=save,
        report=report,
        rank_times=RankTimes(module, torch.device("cpu"), dist.group.WORLD),
        settings=LoopSettings(
            stop_step, save_every, clip_norm=1.0, seed=9, objective_norms_every=objective_norms_every
        ),
    )
