"""Intervals against published values, against simulation, and against reordering of rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unimrg_trainer.evaluation import intervals
from unimrg_trainer.evaluation.intervals import bootstrap_ratio_interval, mcnemar, paired_mean_interval, wilson


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_values_of_newcombes_table(correct: int, n: int, low: float, high: float) -> None:
    interval = wilson(correct, n)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_the_paired_interval_is_the_one_computed_by_hand() -> None:
    # differences 1, 2, 3, 6: mean 3, variance 14/3, t(3) = 3.18245
    half = 3.182446 * math.sqrt(14 / 3 / 4)
    interval = paired_mean_interval([1.0, 2.0, 3.0, 6.0])
    assert interval is not None
    assert interval.low == pytest.approx(3 - half, abs=1e-5)
    assert interval.high == pytest.approx(3 + half, abs=1e-5)


def test_one_row_has_no_interval() -> None:
    assert paired_mean_interval([0.3]) is None
    assert paired_mean_interval([0.3, 0.4], ["same", "same"]) is None
    assert bootstrap_ratio_interval(np.ones(1), np.ones(1), seed=0) is None


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(12)
    hits = 0
    for trial in range(200):
        base = random.uniform(1.0, 3.0, size=60)
        change = base * random.normal(-0.3, 0.2, size=60)
        interval = bootstrap_ratio_interval(change, base, seed=trial, resamples=300)
        assert interval is not None
        hits += not interval.excludes(-0.3)
    assert 0.89 < hits / 200 < 0.99


def test_rows_that_share_noise_are_only_covered_with_their_clusters() -> None:
    random = np.random.default_rng(13)
    labels = [row // 8 for row in range(160)]
    with_clusters = without = 0
    for _ in range(300):
        shared = np.repeat(random.normal(size=20), 8)
        values = shared + 0.3 * random.normal(size=160)
        clustered, plain = paired_mean_interval(values, labels), paired_mean_interval(values)
        assert clustered is not None and plain is not None
        with_clusters += not clustered.excludes(0.0)
        without += not plain.excludes(0.0)
    assert with_clusters / 300 > 0.91
    assert without / 300 < 0.7


@pytest.mark.parametrize(
    ("wins", "losses", "expected"), [(0, 0, 1.0), (0, 5, 0.0625), (9, 1, 22 / 1024), (3, 3, 1.0), (2, 3, 1.0)]
)
def test_mcnemar_sums_the_binomial_tail(wins: int, losses: int, expected: float) -> None:
    assert mcnemar(wins, losses) == mcnemar(losses, wins) == pytest.approx(expected)


def test_a_bootstrap_interval_is_the_same_however_many_units_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values, ones = np.random.default_rng(4).normal(size=7), np.ones(7)
    expected = bootstrap_ratio_interval(values, ones, seed=3, resamples=50)
    monkeypatch.setattr(intervals, "DRAWS_AT_ONCE", 20)
    assert bootstrap_ratio_interval(values, ones, seed=3, resamples=50) == expected
