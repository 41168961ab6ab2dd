"""How alike a generated image and the true one are: errors, rank correlation, contours, and noise in decibels.

Grey images are uint8 [H, W], colour images uint8 [H, W, 3]; both arguments have one shape. A score that the truth
leaves undefined is nan: no output could have one. Formulas: docs/method/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

NEAR = 0.1
"""Where the truth is brighter than this share of white, errors are taken relative to it."""
WHITE = 128
"""A pixel of this grey value or more belongs to a contour."""
MAXIMUM_PSNR = 60.0
"""Decibels of an image that equals the truth, and the most that any image gets."""
THRESHOLDS = 64
"""Thresholds of the mean map that are tried, at most."""

_SQUARE = np.ones((3, 3), dtype=bool)


def grey(image: np.ndarray) -> np.ndarray:
    """Return the mean of the channels, uint8 [H, W]."""
    values: np.ndarray = np.floor(image.mean(axis=2) + 0.5).astype(np.uint8)
    return values


def relative_error(image: np.ndarray, truth: np.ndarray) -> float:
    """Mean of |image − truth| / truth over the pixels whose truth is above `NEAR`."""
    chosen = truth > NEAR * 255
    errors = np.abs(image[chosen].astype(np.float64) - truth[chosen]) / truth[chosen]
    return float(errors.mean()) if chosen.any() else float("nan")


def mean_error(image: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float:
    """Mean of |image − truth| over the pixels `where` (bool [H, W]), as a share of white."""
    errors = np.abs(image[where].astype(np.float64) - truth[where]) / 255
    return float(errors.mean()) if where.any() else float("nan")


def rank_correlation(image: np.ndarray, truth: np.ndarray) -> float:
    """Spearman's ρ over all pixels, ties at their mean rank; an image of one value orders nothing: 0."""
    ranks, true_ranks = _ranks(image), _ranks(truth)
    spread, true_spread = float((ranks**2).sum()), float((true_ranks**2).sum())
    if true_spread == 0:
        return float("nan")
    return float((ranks * true_ranks).sum()) / (spread * true_spread) ** 0.5 if spread else 0.0


def _ranks(image: np.ndarray) -> np.ndarray:
    """Ranks of the pixels less their mean, float64 [H · W]."""
    counts = np.bincount(image.ravel(), minlength=256)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    centred: np.ndarray = ranks[image.ravel()] - (image.size + 1) / 2
    return centred


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal to noise, 10 log₁₀(255² / mean squared error), in decibels; `MAXIMUM_PSNR` at most."""
    error = float(np.square(image.astype(np.float64) - truth).mean())
    return min(MAXIMUM_PSNR, 10 * float(np.log10(255**2 / error))) if error else MAXIMUM_PSNR


def contour_f1(image: np.ndarray, truth: np.ndarray) -> float:
    """F1 of the contours (pixels from `WHITE` on) with a tolerance of one pixel, diagonals included.

    Precision is the share of the image's contour pixels that lie on a true one or beside it, recall the share of the
    true ones that lie on one of the image's or beside it. Two images without contours agree: 1.
    """
    found, true = image >= WHITE, truth >= WHITE
    return _f1(found, _widened(found), true, _widened(true))


def _widened(contours: np.ndarray) -> np.ndarray:
    wider: np.ndarray = ndimage.binary_dilation(contours, _SQUARE)
    return wider


def _f1(found: np.ndarray, found_wide: np.ndarray, true: np.ndarray, true_wide: np.ndarray) -> float:
    if not found.any() or not true.any():
        return float(not found.any() and not true.any())
    precision = np.count_nonzero(found & true_wide) / np.count_nonzero(found)
    recall = np.count_nonzero(true & found_wide) / np.count_nonzero(true)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def mean_image(truths: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of images of one shape, uint8."""
    rounded: np.ndarray = np.floor(_mean(truths) + 0.5).astype(np.uint8)
    return rounded


def best_contours(truths: Sequence[np.ndarray]) -> np.ndarray:
    """Return the contours, uint8 [H, W] of 0 and 255, that the mean map gives at its best threshold.

    Best is the highest mean `contour_f1` against these very truths; of several the lowest threshold.
    """
    true = [truth >= WHITE for truth in truths]
    wide = [_widened(one) for one in true]
    mean = _mean([one.astype(np.uint8) for one in true])
    values = np.unique(mean[mean > 0])
    chosen = np.unique(np.linspace(0, len(values) - 1, min(THRESHOLDS, len(values))).astype(int))
    best, best_score = np.zeros(mean.shape, dtype=bool), -1.0
    for threshold in values[chosen]:
        found = mean >= threshold
        found_wide = _widened(found)
        score = sum(_f1(found, found_wide, *pair) for pair in zip(true, wide, strict=True))
        if score > best_score:
            best, best_score = found, score
    return np.where(best, 255, 0).astype(np.uint8)


def _mean(images: Sequence[np.ndarray]) -> np.ndarray:
    total = np.zeros(images[0].shape)
    for image in images:
        total += image
    return total / len(images)


def enclosed(contours: np.ndarray) -> np.ndarray:
    """Return what contours enclose, bool [H, W]: their own pixels and the regions that do not reach the border.

    Regions go on over the four neighbours of a pixel, so a contour that is closed over corners encloses too.
    """
    filled: np.ndarray = ndimage.binary_fill_holes(contours >= WHITE)
    return filled
