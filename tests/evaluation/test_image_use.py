"""Losses with the own image and with another: means, the paired interval, and what is refused."""

from __future__ import annotations

import pytest

from unimrg_api.errors import UserError
from unimrg_trainer.evaluation.image_use import compare_images


def test_a_loss_that_rises_with_another_image_shows_that_the_image_is_used() -> None:
    use = compare_images({"Depth": [1.0, 2.0, 3.0]}, {"Depth": [2.0, 3.1, 3.9]}, seed=0)["Depth"]
    assert (use.n, use.units, use.own, use.other) == (3, 3, 2.0, 3.0)
    assert use.difference == pytest.approx(1.0) and use.relative_change == pytest.approx(0.5)
    # differences 1.0, 1.1, 0.9: sd 0.1, t(2) = 4.30265, half-width 0.24842
    assert use.interval is not None
    assert (use.interval.low, use.interval.high) == pytest.approx((0.75158, 1.24842), abs=1e-5)
    assert use.excludes_zero


def test_a_model_that_ignores_the_image_shows_no_difference() -> None:
    use = compare_images({"Pixel": [1.0, 2.0, 3.0]}, {"Pixel": [1.0, 2.0, 3.0]}, seed=0)["Pixel"]
    assert use.difference == 0.0 and not use.excludes_zero


def test_clusters_are_what_counts_as_independent() -> None:
    own, other = {"Depth": [1.0] * 4}, {"Depth": [2.0, 2.0, 1.5, 1.5]}
    assert compare_images(own, other, seed=0, clusters={"Depth": ["a", "a", "b", "b"]})["Depth"].units == 2


def test_a_loss_with_another_image_that_is_not_finite_is_named() -> None:
    with pytest.raises(UserError, match="with another image is not finite: Depth, row 0"):
        compare_images({"Depth": [1.0]}, {"Depth": [float("inf")]}, seed=0)
