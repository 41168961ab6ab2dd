"""A figure over several seeds, as sweeps and reports show it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class Mean(BaseModel):
    """A figure over several seeds."""

    model_config = ConfigDict(frozen=True)

    mean: float
    deviation: float | None = None
    """Standard deviation between seeds; None for one."""
    jobs: int


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """Return mean and standard deviation of at least one value."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Mean(mean=statistics.fmean(values), deviation=deviation, jobs=len(values))
