"""Learning rate of an optimiser step: linear warm-up, then cosine to zero at the horizon.

The reference steps its scheduler per micro-iteration, four to an optimiser step, and the optimiser acts at the last
of them: the rate of optimiser step j is the reference's at micro-iteration 4j + 3 (method.md §1.3, §9).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MICRO_ITERATIONS = 4
"""Micro-iterations (one per task) in the reference's optimiser step."""

WARMUP_START = 1e-5
"""Factor at which the warm-up starts."""


@dataclass(frozen=True)
class WarmupCosine:
    """Rate over optimiser steps; `warmup` and `horizon` in optimiser steps, `peak` the learning rate."""

    peak: float
    warmup: int
    horizon: int

    def rate(self, step: int) -> float:
        """Learning rate of the 0-based optimiser step `step`."""
        micro = MICRO_ITERATIONS * step + MICRO_ITERATIONS - 1
        warmup, horizon = MICRO_ITERATIONS * self.warmup, MICRO_ITERATIONS * self.horizon
        if micro < warmup:
            return self.peak * (WARMUP_START + (1 - WARMUP_START) * micro / max(1, warmup - 1))
        if micro >= horizon:
            return 0.0
        return self.peak * 0.5 * (1 + math.cos(math.pi * (micro - warmup) / (horizon - warmup)))
