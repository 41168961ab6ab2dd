"""Training metrics: kept on the device, reduced over ranks and read by the host once per report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from unimrg_trainer.engine.step_plan import MicroStep


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of one optimiser step. Losses are means over the cohorts of all ranks, unweighted.

    Those of a skipped step need not be finite.
    """

    step: int
    losses: Mapping[str, float]
    loss: float
    grad_norm: float
    """Before clipping."""
    skipped: bool = False
    """The numeric guard kept the step from being taken."""
    objective_norms: Mapping[str, float] = field(default_factory=dict)
    """Gradient norm of each objective's share of the loss, of the steps where it was measured."""
    substituted: int = 0
    """Samples, over all ranks, that stood in the place of damaged ones."""


class MetricsCollector:
    """Collects per-step values on the device; `flush` reads them back, which waits for the device."""

    def __init__(self, objective_weights: Mapping[str, float]) -> None:
        """`objective_weights` holds λ of each active objective."""
        self.names = list(objective_weights)
        self.objective_weights = objective_weights
        self._steps: list[int] = []
        self._values: list[Tensor] = []
        self._objective_norms: dict[int, Tensor] = {}
        self._current: Tensor | None = None
        """The losses and, last, the number of substituted samples."""
        self._own_substituted = 0
        self._substituted = torch.zeros(())

    def add_substituted(self, substituted: int) -> None:
        """Say how many of this rank's samples of the current step stand in the place of damaged ones."""
        self._own_substituted = substituted

    def add_micro_step(self, micro_step: MicroStep, sums: Tensor) -> None:
        """Add the loss sums [rows] of one micro-step to the current step."""
        index = torch.tensor([self.names.index(row.objective) for row in micro_step.rows])
        weighted = sums.double() * micro_step.row_weights.to(sums.device, non_blocking=True)
        if self._current is None:
            self._current = torch.zeros(len(self.names) + 1, dtype=torch.float64, device=sums.device)
        self._current.index_add_(0, index.to(sums.device, non_blocking=True), weighted)

    def reduced_losses(self) -> Tensor:
        """Return the weighted loss of each objective in the current step, over all ranks, on the device; float64
        [objectives]. Their sum is the loss of the step. A collective call."""
        assert self._current is not None
        current, self._current = self._current, None
        current[-1] += self._own_substituted
        self._own_substituted = 0
        dist.all_reduce(current)
        self._substituted = current[-1]
        return current[:-1]

    def end_step(self, step: int, losses: Tensor, grad_norm: Tensor, skipped: Tensor) -> None:
        """Keep what was measured in a step (tensors on the device); `step` counts finished optimiser steps."""
        self._steps.append(step)
        others = grad_norm.detach().double(), skipped.double(), self._substituted.to(losses)
        self._values.append(torch.cat([losses, torch.stack(others)]))

    def add_objective_norms(self, step: int, norms: Tensor) -> None:
        """Keep the gradient norm of each objective (on the device, [objectives]) in a step."""
        self._objective_norms[step] = norms

    def discard(self) -> None:
        """Drop the values of the current step."""
        self._current = None

    def flush(self) -> list[StepMetrics]:
        """Read everything collected since the last flush."""
        if not self._steps:
            return []
        result = []
        for step, row in zip(self._steps, torch.stack(self._values).tolist(), strict=True):
            *weighted, norm, skipped, substituted = row
            weights = zip(self.objective_weights.items(), weighted, strict=True)
            losses = {name: value * len(self.names) / weight for (name, weight), value in weights}
            norms = self._objective_norms.get(step)
            by_objective = {} if norms is None else dict(zip(self.names, norms.tolist(), strict=True))
            result.append(StepMetrics(step, losses, sum(weighted), norm, bool(skipped), by_objective, int(substituted)))
        self._steps, self._values, self._objective_norms = [], [], {}
        return result
