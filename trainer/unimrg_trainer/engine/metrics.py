"""Training metrics: kept on the device, reduced over ranks and read by the host once per report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.engine.step_plan import MicroStep


class NonFiniteLossError(UserError):
    """A loss or the gradient norm is not finite: what follows the last report and the last checkpoint is lost."""


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of one optimiser step. Losses are means over the cohorts of all ranks, unweighted."""

    step: int
    losses: Mapping[str, float]
    loss: float
    grad_norm: float


class MetricsCollector:
    """Collects per-step values on the device; `flush` reads them back, which waits for the device."""

    def __init__(self, objective_weights: Mapping[str, float]) -> None:
        """`objective_weights` holds λ of each active objective."""
        self.names = list(objective_weights)
        self.objective_weights = objective_weights
        self._steps: list[int] = []
        self._sums: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._current: Tensor | None = None

    def add_micro_step(self, micro_step: MicroStep, sums: Tensor) -> None:
        """Add the loss sums [rows] of one micro-step to the current step."""
        index = torch.tensor([self.names.index(row.objective) for row in micro_step.rows])
        weighted = sums.double() * micro_step.row_weights.to(sums.device, non_blocking=True)
        if self._current is None:
            self._current = torch.zeros(len(self.names), dtype=torch.float64, device=sums.device)
        self._current.index_add_(0, index.to(sums.device, non_blocking=True), weighted)

    def end_step(self, step: int, grad_norm: Tensor) -> None:
        """Close the current step; `step` counts finished optimiser steps."""
        assert self._current is not None
        self._steps.append(step)
        self._sums.append(self._current)
        self._norms.append(grad_norm.detach())
        self._current = None

    def discard(self) -> None:
        """Drop the values of the current step."""
        self._current = None

    def flush(self) -> list[StepMetrics]:
        """Reduce and read everything collected since the last flush; a collective call.

        Raises NonFiniteLossError (exit code 82) at the first step whose loss or gradient norm is not finite.
        """
        if not self._steps:
            return []
        table = torch.stack(self._sums).cpu()
        dist.all_reduce(table)
        norms: Sequence[float] = torch.stack(self._norms).double().cpu().tolist()
        result = []
        for step, row, norm in zip(self._steps, table.tolist(), norms, strict=True):
            if not (math.isfinite(sum(row)) and math.isfinite(norm)):
                found = dict(zip(self.names, row, strict=True))
                raise NonFiniteLossError(
                    f"the loss or gradient of step {step} is not finite (losses {found}, "
                    f"gradient norm {norm}); the last checkpoint is unaffected",
                    remedy="lower spec.training.optimizer.learningRate, or train in FP32, and run again",
                    exit_code=ExitCode.NON_FINITE_LOSS,
                )
            weights = zip(self.objective_weights.items(), row, strict=True)
            losses = {name: value * len(self.names) / weight for (name, weight), value in weights}
            result.append(StepMetrics(step, losses, sum(row), norm))
        self._steps, self._sums, self._norms = [], [], []
        return result
