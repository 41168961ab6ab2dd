"""What training did to the loss on held-out rows: the same rows and the same noise, before and after."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.evaluation.intervals import (
    Interval,
    bootstrap_ratio_interval,
    cluster_sums,
    paired_mean_interval,
)


@dataclass(frozen=True)
class HeldOutLoss:
    """Means over the same rows before and after training."""

    n: int
    """Rows."""
    units: int
    """Rows or clusters that were drawn independently."""
    before: float
    after: float
    difference: float
    """after − before: negative is better."""
    interval: Interval | None
    """95 %, paired t, of the difference; None with a single unit."""
    relative_change: float | None
    """difference / before; None if before is not positive."""
    relative_interval: Interval | None
    """95 %, paired bootstrap, of the relative change."""
    excludes_zero: bool
    """True if the difference's interval excludes 0."""


def compare(
    before: Mapping[str, ArrayLike],
    after: Mapping[str, ArrayLike],
    *,
    seed: int,
    clusters: Mapping[str, Sequence[Hashable]] | None = None,
) -> dict[str, HeldOutLoss]:
    """Compare per-row losses [rows] of each objective; row i is the same row and noise in both.

    `clusters` labels rows that are not independent (rows of a cohort share a mask rate, questions an image).
    Raises ValueError if objectives or rows do not match, UserError (exit code 82) if a loss is not finite.
    """
    if set(before) != set(after):
        raise ValueError(f"losses before are of {sorted(before)}, losses after of {sorted(after)}")
    return {
        objective: _compare(
            objective,
            np.asarray(before[objective], dtype=np.float64),
            np.asarray(after[objective], dtype=np.float64),
            None if clusters is None else clusters.get(objective),
            seed,
        )
        for objective in before
    }


def _compare(
    objective: str, before: np.ndarray, after: np.ndarray, clusters: Sequence[Hashable] | None, seed: int
) -> HeldOutLoss:
    if before.shape != after.shape or before.ndim != 1 or before.size == 0:
        raise ValueError(f"{objective}: rows do not pair, {before.shape} before and {after.shape} after")
    for when, values in (("before", before), ("after", after)):
        if not np.isfinite(values).all():
            raise UserError(
                f"the held-out loss {when} training is not finite: {objective}, "
                f"row {int(np.argmin(np.isfinite(values)))}",
                remedy="lower spec.training.optimizer.learningRate, or train in FP32",
                exit_code=ExitCode.NUMERIC_GUARD,
            )
    differences = after - before
    sums, _ = cluster_sums(differences, clusters)
    base, _ = cluster_sums(before, clusters)
    interval = paired_mean_interval(differences, clusters)
    positive = bool((base > 0).all())
    n = len(before)
    mean_before, difference = math.fsum(before) / n, math.fsum(differences) / n
    return HeldOutLoss(
        n=n,
        units=len(sums),
        before=mean_before,
        after=math.fsum(after) / n,
        difference=difference,
        interval=interval,
        relative_change=difference / mean_before if mean_before > 0 else None,
        relative_interval=bootstrap_ratio_interval(sums, base, seed=seed) if positive else None,
        excludes_zero=interval is not None and interval.excludes(0.0),
    )
