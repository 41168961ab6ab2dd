"""How far a number can be trusted: Wilson, paired t and bootstrap intervals of 95 %, and the exact McNemar test.

All of them are functions of their arguments alone, and the order of rows never matters, bit for bit. A *unit* is what
was drawn independently: rows that share an image or a mask rate get one cluster label, which makes them one unit.
Formulas: docs/method/evaluation.md.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
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
    """Return the percentile bootstrap interval of Σ numerators / Σ denominators, both [units].

    None below two units, and where all units agree: resampling them cannot show how far others would differ.
    Denominators must be positive. (Σd, n_g) of each unit gives the interval of a mean difference, (Σ(after−before),
    Σbefore) that of a relative change.
    """
    units = len(numerators)
    if units < 2:
        return None
    pairs = np.stack([numerators, denominators], axis=1)[np.lexsort((denominators, numerators))]
    sums = np.concatenate([pairs[draws].sum(axis=1) for draws in _draws(units, seed, resamples)])
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [1 - TAIL, TAIL])
    return _unless_equal(low, high)


def bootstrap_means(
    values: np.ndarray,
    clusters: Sequence[str],
    averaged: Sequence[Sequence[int]],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> list[Interval | None]:
    """Return the percentile bootstrap interval of the mean of the means of each group of columns in `averaged`.

    `values` [rows, columns] is NaN where a row does not count for a column; a group of one is that column's own mean.
    The same draws of clusters serve all columns, so that hundreds of them cost little more than one. None where fewer
    than two clusters count, or all that do agree. Rows come in an order of their own, such as that of their names.
    """
    labels, unit = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    units = len(labels)
    if units < 2:
        return [None for _ in averaged]
    present = ~np.isnan(values)
    patterns, pattern = np.unique(present, axis=1, return_inverse=True)  # columns of the same rows are counted once
    of_rows = np.concatenate([np.where(present, values, 0.0), patterns], axis=1)
    of_units = np.zeros((units, of_rows.shape[1]))
    np.add.at(of_units, unit, of_rows)
    means = []
    for draws in _draws(units, seed, resamples):
        first = np.arange(len(draws))[:, None] * units
        counts = np.bincount((draws + first).ravel(), minlength=draws.size).reshape(draws.shape)
        sums = counts @ of_units
        with np.errstate(invalid="ignore"):  # a column of few clusters, none of which was drawn
            of_columns = sums[:, : values.shape[1]] / sums[:, values.shape[1] :][:, pattern.ravel()]
        means.append(np.stack([of_columns[:, group].mean(axis=1) for group in map(list, averaged)], axis=1))
    drawn = np.concatenate(means)
    ends = np.quantile(drawn, [1 - TAIL, TAIL], axis=0)
    for column in np.flatnonzero(np.isnan(ends[0])):
        known = drawn[~np.isnan(drawn[:, column]), column]
        ends[:, column] = np.quantile(known, [1 - TAIL, TAIL]) if len(known) else np.nan
    counted = (of_units[:, values.shape[1] :] > 0).sum(axis=0)[pattern.ravel()]
    return [
        _unless_equal(low, high) if min(counted[list(group)]) > 1 else None
        for group, (low, high) in zip(averaged, ends.T, strict=True)
    ]


def _unless_equal(low: float, high: float) -> Interval | None:
    """Return the interval of these ends; None where they differ by rounding alone."""
    return None if math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12) else Interval(float(low), float(high))


def _draws(units: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """Yield which units are drawn, with replacement: [some of the resamples, units]."""
    random = np.random.Generator(np.random.Philox(seed))
    most = max(1, DRAWS_AT_ONCE // units)
    for first in range(0, resamples, most):
        yield random.integers(units, size=(min(most, resamples - first), units))


def mcnemar(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value of `wins` against `losses` among differing pairs (binomial, ½)."""
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))
