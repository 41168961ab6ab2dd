"""How far a number can be trusted: Wilson, paired t and bootstrap intervals of 95 %, and the exact McNemar test.

All of them are functions of their arguments alone, and the order of rows never matters, bit for bit. A *unit* is what
was drawn independently: rows that share an image or a mask rate get one cluster label, which makes them one unit.
Formulas: docs/method/evaluation.md.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, stdtrit

TAIL = 0.975
"""Quantile of the upper end."""
RESAMPLES = 10_000
DRAWS_AT_ONCE = 100_000
"""Units that are drawn in one call, about: bounds the memory and changes no result."""


@dataclass(frozen=True)
class Interval:
    """An interval of confidence, both ends included."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """True if `value` lies outside."""
        return not self.low <= value <= self.high


def interval_text(interval: Interval | None, form: str, factor: float = 1.0) -> str:
    """Return `[low, high]` for a table, both multiplied by `factor` and written in the format `form`."""
    if interval is None:
        return "[unknown]"
    return f"[{factor * interval.low:{form}}, {factor * interval.high:{form}}]"


def wilson(correct: int, n: int) -> Interval:
    """Return Wilson's score interval of a share of `correct` among `n` > 0 independent trials."""
    z = NormalDist().inv_cdf(TAIL)
    share = correct / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the formula is 0 and 1 exactly; rounding must not push an interval past its own estimate.
    return Interval((middle - half) / scale if correct else 0.0, (middle + half) / scale if correct < n else 1.0)


def cluster_sums(values: ArrayLike, clusters: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return (sum of values, number of rows) of each unit [units]; without clusters a row is a unit."""
    array = np.asarray(values, dtype=np.float64)
    labels = list(range(len(array))) if clusters is None else clusters
    units: dict[Hashable, list[float]] = {}
    for label, value in zip(labels, array.tolist(), strict=True):
        units.setdefault(label, []).append(value)
    return np.array([math.fsum(unit) for unit in units.values()]), np.array(
        [float(len(unit)) for unit in units.values()]
    )


def paired_mean_interval(differences: ArrayLike, clusters: Sequence[Hashable] | None = None) -> Interval | None:
    """Return the t interval of the mean of paired differences [rows]; None with fewer than two units."""
    sums, counts = cluster_sums(differences, clusters)
    units, rows = len(sums), float(counts.sum())
    if units < 2:
        return None
    mean = math.fsum(sums) / rows
    spread = math.sqrt(units / (units - 1) * math.fsum((sums - counts * mean) ** 2)) / rows
    half = float(stdtrit(units - 1, TAIL)) * spread
    return Interval(mean - half, mean + half)


def bootstrap_ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, *, seed: int, resamples: int = RESAMPLES
) -> Interval | None:
    """Return the percentile bootstrap interval of Σ numerators / Σ denominators, both [units]; None below two units.

    Denominators must be positive. (Σd, n_g) of each unit gives the interval of a mean difference, (Σ(after−before),
    Σbefore) that of a relative change.
    """
    units = len(numerators)
    if units < 2:
        return None
    pairs = np.stack([numerators, denominators], axis=1)[np.lexsort((denominators, numerators))]
    random = np.random.Generator(np.random.Philox(seed))
    most = max(1, DRAWS_AT_ONCE // units)
    parts = [min(most, resamples - first) for first in range(0, resamples, most)]
    sums = np.concatenate([pairs[random.integers(units, size=(part, units))].sum(axis=1) for part in parts])
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [1 - TAIL, TAIL])
    return Interval(float(low), float(high))


def mcnemar(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value of `wins` against `losses` among differing pairs (binomial, ½)."""
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))
