"""Learning rate of an optimiser step: linear warm-up, then half a cosine down to zero, or the peak throughout.

The rate is evaluated at the middle of the step (step + 0.5). The published training code has four scheduler
steps per optimiser step and evaluates at the last of them (step + 0.75; docs/method/recipe.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

WARMUP_START = 1e-5
"""Share of the peak at which the warm-up starts."""


@dataclass(frozen=True)
class Schedule:
    """`warmup` and `total` in optimiser steps, `peak` the learning rate after the warm-up."""

    peak: float
    warmup: int
    total: int
    kind: Literal["Cosine", "Constant"] = "Cosine"

    def rate(self, step: int) -> float:
        """Learning rate of the 0-based optimiser step `step`."""
        middle = step + 0.5
        if middle < self.warmup:
            return self.peak * (WARMUP_START + (1 - WARMUP_START) * middle / self.warmup)
        if self.kind == "Constant":
            return self.peak
        if middle >= self.total:
            return 0.0
        return self.peak * 0.5 * (1 + math.cos(math.pi * (middle - self.warmup) / (self.total - self.warmup)))
