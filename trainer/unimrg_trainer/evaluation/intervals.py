"""How far a number can be trusted: Wilson, paired t and bootstrap intervals, and the exact McNemar test.

All of them are functions of their arguments alone. The order of rows never matters: bootstrap units are
sorted before they are drawn, so that the same rows in another order give the same interval, bit for bit.

A *unit* is what was drawn independently. Questions about one image, or rows that share a mask rate, stand and
fall together; give such rows one cluster label and the cluster becomes the unit.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, stdtrit

LEVEL = 0.95
RESAMPLES = 10_000


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


def wilson(correct: int, n: int, level: float = LEVEL) -> Interval:
    """Return Wilson's score interval of a share of `correct` among `n` independent trials; 0 … 1 for n = 0.

    The ends are (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n), with p = correct/n and z the normal
    quantile.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} correct among {n}")
    if n == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = correct / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the formula is 0 and 1 exactly; rounding must not push an interval past its own estimate.
    low = 0.0 if correct == 0 else (middle - half) / scale
    high = 1.0 if correct == n else (middle + half) / scale
    return Interval(low, high)


def cluster_sums(values: ArrayLike, clusters: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return (sum of values, number of rows) of each unit [units]; without clusters a row is a unit."""
    array = _finite(values)
    if clusters is None:
        return array, np.ones_like(array)
    if len(clusters) != len(array):
        raise ValueError(f"{len(clusters)} cluster labels for {len(array)} rows")
    labels = {label: index for index, label in enumerate(dict.fromkeys(clusters))}
    index = np.array([labels[label] for label in clusters], dtype=np.intp)
    # Sorted first: a sum of floats depends on the order of its terms, an interval must not.
    order = np.lexsort((array, index))
    sums = np.bincount(index[order], weights=array[order], minlength=len(labels))
    return sums, np.bincount(index, minlength=len(labels)).astype(np.float64)


def paired_mean_interval(
    differences: ArrayLike, clusters: Sequence[Hashable] | None = None, level: float = LEVEL
) -> Interval | None:
    """Return the t interval of the mean of paired differences [rows]; None with fewer than two units.

    With d̄ the mean over the n rows and S_g the sum of unit g's differences less n_g·d̄, the interval is
    d̄ ± t(G−1) · √(G/(G−1) · Σ_g S_g²) / n. For units of one row this is the paired t interval.
    """
    sums, counts = cluster_sums(differences, clusters)
    units = len(sums)
    if units < 2:
        return None
    rows = float(counts.sum())
    mean = math.fsum(sums) / rows
    spread = math.sqrt(units / (units - 1) * math.fsum((sums - counts * mean) ** 2)) / rows
    half = float(stdtrit(units - 1, 0.5 + level / 2)) * spread
    return Interval(mean - half, mean + half)


def bootstrap_ratio_interval(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    seed: int,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """Return the percentile bootstrap interval of Σ numerators / Σ denominators; None below two units.

    Units [units] are drawn with replacement; denominators must be positive. (Σd, n_g) of each unit gives the
    interval of a mean difference, (Σ(after−before), Σbefore) that of a relative change.
    """
    top, bottom = _finite(numerators), _finite(denominators)
    if top.shape != bottom.shape:
        raise ValueError(f"{len(top)} numerators for {len(bottom)} denominators")
    if np.any(bottom <= 0):
        raise ValueError("denominators must be positive")
    units = len(top)
    if units < 2:
        return None
    order = np.lexsort((bottom, top))
    top, bottom = top[order], bottom[order]
    random = np.random.Generator(np.random.Philox(seed))
    ratios = np.empty(resamples)
    chunk = max(1, 1_000_000 // units)
    for start in range(0, resamples, chunk):
        stop = min(start + chunk, resamples)
        drawn = random.integers(units, size=(stop - start, units))
        ratios[start:stop] = top[drawn].sum(axis=1) / bottom[drawn].sum(axis=1)
    low, high = np.quantile(ratios, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(low), float(high))


def mcnemar(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value of `wins` against `losses` among differing pairs (binomial, ½)."""
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def _finite(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"one number per row is expected, not an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"row {int(np.argmin(np.isfinite(array)))} is not a finite number")
    return array
