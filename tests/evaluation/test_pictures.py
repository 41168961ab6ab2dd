"""Curves and grids show what they were given, and the same input gives the same bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from unimrg_trainer.evaluation.pictures import GridRow, contact_sheet_png, curves_png, grid_png, running_mean
from unimrg_trainer.maps.registry import find_map

MAPS = [find_map(name) for name in ("depth", "segmentation", "pixel")]
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def where(png: bytes, colour: tuple[int, int, int]) -> np.ndarray:
    """(y, x) of the pixels [n, 2] that have about this colour."""
    return np.argwhere(np.abs(pixels(png) - np.array(colour)).max(axis=2) < 12)


def flat(colour: tuple[int, int, int], height: int = 16, width: int = 16) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def test_a_grid_has_a_tile_for_every_image_in_the_order_of_its_columns() -> None:
    images = [flat(colour, size) for colour, size in zip(COLOURS, (16, 12, 48, 300, 9, 16), strict=True)]
    row = GridRow(
        "scene 1",
        images[0],
        {"depth": images[1], "segmentation": images[3], "pixel": images[5]},
        {"depth": images[2], "segmentation": images[4]},
    )
    png = grid_png([row], MAPS, note="n")
    found = [where(png, colour) for colour in COLOURS]
    assert all(len(tile) > 1000 for tile in found)
    centres = [tile[:, 1].mean() for tile in found]
    assert centres == sorted(centres)
    assert png == grid_png([row], MAPS, note="n")
    assert set(Image.open(io.BytesIO(png)).info) <= {"dpi"}, "no date"


def test_a_photograph_without_truth_gets_empty_tiles() -> None:
    png = grid_png([GridRow("preview 0", flat(COLOURS[0]), {"pixel": flat(COLOURS[1])})], MAPS)
    assert len(where(png, COLOURS[0])) > 1000 and len(where(png, COLOURS[1])) > 1000


def test_a_contact_sheet_has_a_line_for_what_is_read_and_one_for_what_is_learnt() -> None:
    """By line: two questions' images, which learn none; two images; their targets, the second from text alone."""
    tiles = [flat(colour) for colour in COLOURS[:5]]
    asked = [(tiles[0], None), (tiles[1], None)]
    png = contact_sheet_png({"Understanding": asked, "Depth": [(tiles[2], tiles[3]), (None, tiles[4])]}, title="t")
    found = [where(png, colour) for colour in COLOURS[:5]]
    assert all(len(tile) > 1000 for tile in found)
    (y0, x0), (y1, x1), (y2, x2), (y3, x3), (y4, x4) = [tile.mean(axis=0).round() for tile in found]
    assert y0 == y1 < y2 < y3 == y4
    assert x0 == x2 == x3 < x1 == x4


def test_an_objective_keeps_its_colour_where_others_are_absent() -> None:
    losses = {"train/loss/pixel": {step: 100.0 - step for step in range(1, 90)}, "optim/lr": {1: 1e-3, 2: 1e-3}}
    png = curves_png(losses, objectives=("Understanding", "Pixel"), title="t", note="n", resumes=[10])
    orange = where(png, (0xFF, 0x7F, 0x0E))
    assert len(orange) > 100 and not len(where(png, (0x1F, 0x77, 0xB4)))
    left, right = (orange[orange[:, 1] < 300], orange[(orange[:, 1] > 600)])
    assert left[:, 0].mean() < right[:, 0].mean(), "a falling curve ends further down"
    assert png == curves_png(losses, objectives=("Understanding", "Pixel"), title="t", note="n", resumes=[10])


@pytest.mark.parametrize("points", [{1: 0.5}, {1: 1.0, 2: float("nan"), 3: float("inf"), 4: 0.5}])
def test_a_single_step_shows_and_values_that_are_not_finite_are_left_out(points: dict[int, float]) -> None:
    assert len(where(curves_png({"train/loss/pixel": points}, objectives=["Pixel"]), (0x1F, 0x77, 0xB4))) > 20


def test_the_running_mean_is_the_one_computed_by_hand() -> None:
    np.testing.assert_allclose(running_mean(np.array([0.0, 3.0, 6.0, 3.0]), 3), [0.0, 1.5, 3.0, 4.0])
    np.testing.assert_array_equal(running_mean(np.array([2.0, 5.0]), 1), [2.0, 5.0])
