"""The numeric guard: decides on the device which optimiser steps are skipped, so that nothing waits for it.

A step is skipped if its loss or gradient norm is not finite, or, where the job asks for it, far above those of the
last steps that were taken. The decision follows from values that are reduced over the ranks, so all ranks decide alike.
Spikes in a row that would be half a window are no spikes but a new level: they become part of the window.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_training import GuardSpec
from unimrg_api.texts import counted
from unimrg_trainer.checkpoint.state import Piece, StateReader
from unimrg_trainer.engine.metrics import StepMetrics

SKIPPED, HISTORY, STREAK = "guard/skipped", "guard/history", "guard/streak"
"""The guard's tensors in a checkpoint: float64 [], [2, window] and [2, half of the window, rounded up]."""
DEVIATION = 1.4826
"""Median absolute deviation × this = standard deviation, of a normal distribution."""
LEAST_DEVIATION = 1e-3
"""Added to the deviation, as a share of the median: a window of nearly equal values makes no spikes of the next."""


class NumericGuardError(UserError):
    """More steps were skipped than the job tolerates."""


class NumericGuard:
    """Judges steps, counts those that were skipped, and remembers the steps taken to recognise spikes.

    Its state is part of a checkpoint, so that a resumed training skips exactly the steps that it would have skipped
    without the interruption.
    """

    def __init__(self, settings: GuardSpec, device: torch.device) -> None:
        self.skipped = 0
        """Steps skipped since the start of training, as far as they were reported."""
        self._budget = settings.skip_budget
        self._threshold = float(settings.spike_threshold) if settings.spike_threshold is not None else None
        window = settings.spike_window if self._threshold is not None else 0
        # rows: loss, gradient norm; the newest column is the last; NaN: not so many steps were taken yet
        self._history = torch.full((2, window), torch.nan, dtype=torch.float64, device=device)
        # the spikes since the last step that was none, as above; rounded up, so that the median becomes one of theirs
        self._streak = self._history[:, : window - window // 2].clone()

    def judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Return whether to skip the step with this loss and gradient norm, both of the whole world; bool [].

        Takes and gives tensors on the device and reads no value.
        """
        values = torch.stack([loss.detach().double(), norm.detach().double()])
        finite = values.isfinite().all()
        skip = ~finite
        if self._threshold is not None:
            middle = self._history.shape[1] // 2
            median = self._history.sort(dim=1).values[:, middle]
            distances = (self._history - median[:, None]).abs().sort(dim=1).values[:, middle]
            limit = median + self._threshold * (DEVIATION * distances + LEAST_DEVIATION * median.abs())
            spike = finite & self._history.isfinite().all() & (values > limit).any()
            skip = skip | spike
            taken = torch.cat([self._history[:, 1:], values[:, None]], dim=1)
            streak = torch.where(spike, torch.cat([self._streak[:, 1:], values[:, None]], dim=1), torch.nan)
            new_level = streak.isfinite().all()
            shifted = torch.cat([self._history[:, streak.shape[1] :], streak], dim=1)
            self._history = torch.where(skip, torch.where(new_level, shifted, self._history), taken)
            self._streak = torch.where(new_level, torch.nan, streak)
        return skip

    def count(self, steps: Iterable[StepMetrics], committed_step: int) -> NumericGuardError | None:
        """Count the skipped ones of these steps; return what to raise (exit code 82) at the first beyond the budget.

        `committed_step` is that of the last checkpoint, which the message names; 0: there is none.
        """
        for step in steps:
            self.skipped += step.skipped
            if step.skipped and self.skipped > self._budget:
                kept = f"the last checkpoint is that of step {committed_step}" if committed_step else "no checkpoint"
                level = (
                    ""
                    if self._threshold is None
                    else (
                        f" (beyond {self._streak.shape[1]}, spikeWindow/2, a lasting higher level becomes the new one)"
                    )
                )
                return NumericGuardError(
                    f"{counted(self.skipped, 'step')} had a loss or gradient that is non-finite or a spike, the last "
                    f"one step {step.step} (spec.training.guard.skipBudget: {self._budget}; loss {step.loss:.4g} of "
                    f"{dict(step.losses)}, gradient norm {step.grad_norm:.4g}); {kept}",
                    remedy="start with a lower spec.training.optimizer.learningRate, or in FP32, under another "
                    f"spec.checkpoint.uri; or raise skipBudget{level} to go on from the last checkpoint",
                    exit_code=ExitCode.NON_FINITE_LOSS,
                )
        return None

    def export_pieces(self) -> list[Piece]:
        """Return this rank's pieces of the guard's part of a checkpoint: all of it on rank 0. Call `count` before."""
        if dist.get_rank() != 0:
            return []
        state = {SKIPPED: torch.tensor(self.skipped, dtype=torch.float64)}
        if self._threshold is not None:
            state |= {HISTORY: self._history.cpu(), STREAK: self._streak.cpu()}
        return [Piece(name, tuple(tensor.shape), 0, tensor.reshape(-1)) for name, tensor in state.items()]

    def import_state(self, reader: StateReader) -> None:
        """Go on from a checkpoint."""
        self.skipped = int(reader.read(SKIPPED))
        if self._threshold is not None:
            self._history = reader.read(HISTORY).view(self._history.shape).to(self._history)
            self._streak = reader.read(STREAK).view(self._streak.shape).to(self._streak)
