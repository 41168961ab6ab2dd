"""Counts the samples that stand in the place of damaged ones, and ends the training where they are too many.

Which sample stands in for which is a function of row and data (`data/order.py`). Their number is part of a checkpoint:
a training is comparable only with one that had the same substitutions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.texts import counted
from unimrg_trainer.checkpoint.state import Piece, StateReader
from unimrg_trainer.engine.metrics import StepMetrics

STATE = "data/substituted"
"""Its tensor in a checkpoint: float64 []."""


@dataclass
class Substitutions:
    """`samples_per_step` are those of one optimiser step, over all ranks; `records` are those of the data set."""

    largest_fraction: float
    samples_per_step: int
    records: int
    total: int = 0
    """Substituted samples since the start of training, as far as they were reported."""

    def count(self, steps: Iterable[StepMetrics]) -> UserError | None:
        """Count those of these steps; return what to raise (65) at the first step with more than the fraction allows.

        The fraction is of the samples read so far, or of the data set before it was read once.
        """
        for step in steps:
            self.total += step.substituted
            read = max(step.step * self.samples_per_step, self.records)
            if step.substituted and self.total > self.largest_fraction * read:
                return UserError(
                    f"{counted(self.total, 'sample')} of {read} could not be read up to step {step.step}, and others "
                    f"stood in their place: more than spec.data.reading.maxSubstitutedFraction allows "
                    f"({self.largest_fraction:g})",
                    remedy="`unimrg data verify` and the log name each: prepare the data again, restore the shards, or "
                    "raise the fraction",
                    exit_code=ExitCode.DATA_CORRUPT,
                )
        return None

    def export_pieces(self) -> list[Piece]:
        """Return this rank's pieces of a checkpoint: all of it on rank 0. Call `count` before."""
        value = torch.tensor([self.total], dtype=torch.float64)
        return [Piece(STATE, (), 0, value)] if dist.get_rank() == 0 else []

    def import_state(self, reader: StateReader) -> None:
        """Go on from a checkpoint."""
        self.total = int(reader.read(STATE))
