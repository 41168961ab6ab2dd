"""What training did to the loss on held-out rows: the same rows and the same noise, before and after."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.evaluation.intervals import Interval, bootstrap_ratio_interval, cluster_sums, paired_mean_interval


@dataclass(frozen=True, kw_only=True)
class PairedLoss:
    """Two losses of the same rows at the same noise, as means over them: how far the second is from the first."""

    n: int
    """Rows."""
    units: int
    """Rows or clusters that were drawn independently."""
    difference: float
    """second − first."""
    interval: Interval | None
    """95 %, paired t, of the difference; None with a single unit."""
    relative_change: float | None
    """difference / first; None if the first is not positive."""

    @property
    def excludes_zero(self) -> bool:
        """True if the difference's interval excludes 0."""
        return self.interval is not None and self.interval.excludes(0.0)


@dataclass(frozen=True, kw_only=True)
class HeldOutLoss(PairedLoss):
    """Before and after training; a negative difference is better."""

    before: float
    after: float
    relative_interval: Interval | None
    """95 %, paired bootstrap, of the relative change."""


def compare(
    before: Mapping[str, ArrayLike],
    after: Mapping[str, ArrayLike],
    *,
    seed: int,
    clusters: Mapping[str, Sequence[Hashable]] | None = None,
    when: tuple[str, str] = ("before training", "after training"),
) -> dict[str, HeldOutLoss]:
    """Compare per-row losses [rows] of each objective; row i is the same row and noise in both.

    `clusters` labels rows that are not independent (rows of a cohort share a mask rate, questions an image). `when` is
    how messages call the two. Raises UserError (exit code 82) if a loss is not finite.
    """
    return {
        objective: _compare(objective, losses, after[objective], (clusters or {}).get(objective), seed, when)
        for objective, losses in before.items()
    }


def _compare(
    objective: str,
    before: ArrayLike,
    after: ArrayLike,
    clusters: Sequence[Hashable] | None,
    seed: int,
    when: tuple[str, str],
) -> HeldOutLoss:
    earlier, later = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    for how, values in zip(when, (earlier, later), strict=True):
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values)))
            raise UserError(
                f"the held-out loss {how} is not finite: {objective}, row {row}",
                remedy="lower spec.training.optimizer.learningRate, or train in FP32",
                exit_code=ExitCode.NON_FINITE_LOSS,
            )
    n, differences = len(earlier), later - earlier
    sums, _ = cluster_sums(differences, clusters)
    base, _ = cluster_sums(earlier, clusters)
    mean_before, difference = math.fsum(earlier) / n, math.fsum(differences) / n
    return HeldOutLoss(
        n=n,
        units=len(sums),
        before=mean_before,
        after=math.fsum(later) / n,
        difference=difference,
        interval=paired_mean_interval(differences, clusters),
        relative_change=difference / mean_before if mean_before > 0 else None,
        relative_interval=bootstrap_ratio_interval(sums, base, seed=seed) if (base > 0).all() else None,
    )
