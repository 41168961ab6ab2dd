"""Held-out losses before and after: means, paired interval, clusters, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.evaluation.held_out import compare


def test_means_change_and_verdict_are_those_computed_by_hand() -> None:
    result = compare({"Depth": [1.0, 2.0, 3.0, 2.0]}, {"Depth": [0.5, 1.4, 2.6, 1.5]}, seed=0)["Depth"]
    assert (result.n, result.units) == (4, 4)
    assert result.before == 2.0 and result.after == 1.5
    assert result.difference == -0.5 and result.relative_change == -0.25
    # differences −0.5, −0.6, −0.4, −0.5: sd 0.08165, t(3) = 3.18245, half-width 0.12992
    assert result.interval is not None
    assert result.interval.low == pytest.approx(-0.62992, abs=1e-5)
    assert result.interval.high == pytest.approx(-0.37008, abs=1e-5)
    assert result.excludes_zero
    assert result.relative_interval is not None
    assert result.relative_interval.low < result.relative_change < result.relative_interval.high < 0


def test_pairing_finds_a_change_that_unpaired_rows_would_hide() -> None:
    random = np.random.default_rng(0)
    hard = random.uniform(0.1, 5.0, size=64)
    paired = compare({"Pixel": hard}, {"Pixel": hard - 0.05 + 0.02 * random.normal(size=64)}, seed=0)["Pixel"]
    shuffled = compare({"Pixel": hard}, {"Pixel": random.permutation(hard - 0.05)}, seed=0)["Pixel"]
    assert paired.excludes_zero and not shuffled.excludes_zero
    assert paired.difference == pytest.approx(shuffled.difference, abs=0.01)


def test_clusters_widen_the_interval_of_rows_that_share_noise() -> None:
    random = np.random.default_rng(3)
    before = random.uniform(1, 2, size=64)
    after = before + np.repeat(random.normal(size=8), 8)
    plain = compare({"Depth": before}, {"Depth": after}, seed=0)["Depth"]
    clustered = compare(
        {"Depth": before}, {"Depth": after}, seed=0, clusters={"Depth": [row // 8 for row in range(64)]}
    )["Depth"]
    assert clustered.units == 8 and plain.units == 64
    assert plain.interval is not None and clustered.interval is not None
    width = plain.interval.high - plain.interval.low
    assert clustered.interval.high - clustered.interval.low > 2 * width


def test_a_single_row_has_a_change_and_no_interval() -> None:
    result = compare({"Depth": [2.0]}, {"Depth": [1.0]}, seed=0)["Depth"]
    assert result.relative_change == -0.5
    assert result.interval is None and result.relative_interval is None and not result.excludes_zero


def test_a_loss_of_zero_before_has_no_relative_change() -> None:
    result = compare({"Depth": [0.0, 0.0]}, {"Depth": [1.0, 2.0]}, seed=0)["Depth"]
    assert result.relative_change is None and result.relative_interval is None
    assert result.difference == 1.5


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_loss_that_is_not_finite_is_named_with_the_guards_exit_code(when: str) -> None:
    losses = {"before": {"Depth": [1.0, 1.0]}, "after": {"Depth": [1.0, 1.0]}}
    losses[when]["Depth"][1] = float("nan")
    with pytest.raises(UserError, match=f"{when} training.*Depth, row 1") as caught:
        compare(losses["before"], losses["after"], seed=0)
    assert caught.value.exit_code is ExitCode.NON_FINITE_LOSS
