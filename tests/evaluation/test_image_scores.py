"""Scores of images against values computed by hand, and against the scenes that the images were drawn from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from unimrg_trainer.evaluation.image_scores import (
    MAXIMUM_PSNR,
    best_contours,
    contour_f1,
    enclosed,
    grey,
    mean_error,
    mean_image,
    psnr,
    rank_correlation,
    relative_error,
)
from unimrg_trainer.scenes import generate


def line(column: int, size: int = 9) -> np.ndarray:
    """A white vertical line on black."""
    image = np.zeros((size, size), dtype=np.uint8)
    image[:, column] = 255
    return image


def square(first: int, last: int, size: int = 12) -> np.ndarray:
    """The outline of a square."""
    image = np.zeros((size, size), dtype=np.uint8)
    image[first : last + 1, first : last + 1] = 255
    image[first + 1 : last, first + 1 : last] = 0
    return image


def test_the_relative_error_counts_only_pixels_that_are_not_far_away() -> None:
    truth = np.array([[200, 100, 25, 0]], dtype=np.uint8)  # 25 is below a tenth of white
    image = np.array([[100, 150, 255, 255]], dtype=np.uint8)
    assert relative_error(image, truth) == pytest.approx((0.5 + 0.5) / 2)
    assert relative_error(truth, truth) == 0.0
    assert math.isnan(relative_error(image, np.zeros_like(truth)))


def test_the_mean_error_is_taken_where_it_is_asked_for() -> None:
    truth, image = np.array([[0, 255, 51]], dtype=np.uint8), np.array([[255, 255, 102]], dtype=np.uint8)
    assert mean_error(image, truth, np.array([[False, True, True]])) == pytest.approx(0.1)
    assert math.isnan(mean_error(image, truth, np.zeros((1, 3), dtype=bool)))


def test_the_rank_correlation_is_spearmans_with_ties() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 12, size=(20, 20)).astype(np.uint8)
    image = np.clip(truth + random.integers(0, 6, size=(20, 20)), 0, 255).astype(np.uint8)
    assert rank_correlation(image, truth) == pytest.approx(spearmanr(image.ravel(), truth.ravel()).statistic, abs=1e-12)
    assert rank_correlation((255 - truth).astype(np.uint8), truth) == pytest.approx(-1)
    assert rank_correlation(np.full_like(truth, 7), truth) == 0.0
    assert math.isnan(rank_correlation(image, np.full_like(truth, 7)))


def test_the_psnr_is_that_of_a_known_error_and_ends_at_its_maximum() -> None:
    truth = np.full((4, 4, 3), 100, dtype=np.uint8)
    assert psnr(truth + np.uint8(51), truth) == pytest.approx(20 * math.log10(5))
    assert psnr(truth, truth) == MAXIMUM_PSNR
    almost = truth.copy()
    almost[0, 0, 0] += 1
    assert psnr(almost, truth) == MAXIMUM_PSNR


def test_contours_beside_the_true_ones_count_and_those_two_pixels_off_do_not() -> None:
    assert contour_f1(line(4), line(4)) == 1.0
    assert contour_f1(line(5), line(4)) == 1.0
    assert contour_f1(line(6), line(4)) == 0.0
    # shifted diagonally the tolerance is the same; by two, the corners alone still touch
    assert contour_f1(square(3, 9), square(2, 8)) == 1.0
    assert 0 < contour_f1(square(4, 10), square(2, 8)) < 0.5


def test_f1_weighs_what_is_missing_against_what_is_too_much() -> None:
    two = np.maximum(line(1), line(7))
    assert contour_f1(line(1), two) == pytest.approx(2 / 3)  # precision 1, recall ½
    assert contour_f1(two, line(1)) == pytest.approx(2 / 3)
    everything = np.full((9, 9), 255, dtype=np.uint8)
    assert contour_f1(everything, line(4)) == pytest.approx(0.5)  # three of nine columns, recall 1


def test_no_contours_agree_with_none_only() -> None:
    nothing = np.zeros((9, 9), dtype=np.uint8)
    assert contour_f1(nothing, nothing) == 1.0
    assert contour_f1(nothing, line(4)) == contour_f1(line(4), nothing) == 0.0


def test_pixels_from_half_of_white_on_are_contours() -> None:
    assert contour_f1((line(4) // 2 + 1).astype(np.uint8), line(4)) == 1.0
    assert contour_f1((line(4) // 2).astype(np.uint8), line(4)) == 0.0


def test_the_mean_image_and_grey_are_rounded_means() -> None:
    assert mean_image([np.array([[0, 9]], np.uint8), np.array([[3, 9]], np.uint8)]).tolist() == [[2, 9]]
    assert grey(np.array([[[0, 0, 2], [255, 255, 255]]], np.uint8)).tolist() == [[1, 255]]


def test_no_threshold_of_the_mean_map_beats_the_best_one() -> None:
    truths = [line(column) for column in (2, 2, 2, 6, 8)]
    best = best_contours(truths)
    assert np.array_equal(best, line(2))  # 3 of 5; all three lines together get (3 · ½ + ½ + ½) / 5
    mean = np.mean([truth >= 128 for truth in truths], axis=0)
    earned = np.mean([contour_f1(best, truth) for truth in truths])
    for threshold in np.linspace(0.01, 0.99, 50):
        constant = np.where(mean >= threshold, 255, 0).astype(np.uint8)
        assert np.mean([contour_f1(constant, truth) for truth in truths]) <= earned


def test_truths_without_contours_have_an_empty_constant() -> None:
    nothing = np.zeros((9, 9), dtype=np.uint8)
    assert not best_contours([nothing, nothing]).any()


def test_a_closed_contour_encloses_its_inside_and_an_open_one_only_itself() -> None:
    closed = square(3, 8)
    expected = np.zeros((12, 12), dtype=bool)
    expected[3:9, 3:9] = True
    assert np.array_equal(enclosed(closed), expected)
    opened = closed.copy()
    opened[5, 3] = 0
    assert np.array_equal(enclosed(opened), opened >= 128)


def test_the_contours_of_scenes_enclose_their_things() -> None:
    """Besides the things only pockets of the ground that things close in on all sides."""
    for index in range(12):
        scene = generate(3, index, 48)
        inside, things = enclosed(scene.segmentation), scene.instances > 0
        assert (inside | ~things).all()
        assert (inside & ~things).mean() < 0.01
