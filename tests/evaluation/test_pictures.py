"""Curves and grids show what they were given, and the same input gives the same bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from unimrg_trainer.evaluation.curves import curves_png, smooth, window_for
from unimrg_trainer.evaluation.grid import (
    GridRow,
    columns,
    draw_grid,
    grid_png,
    tile_origin,
    tile_scale,
)
from unimrg_trainer.maps.registry import find_map

MAPS = [find_map(name) for name in ("depth", "segmentation", "pixel")]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def noise(seed: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(size, size, 3), dtype=np.uint8)


def scene(first: int = 0, size: int = 16) -> GridRow:
    images = [noise(first + index, size) for index in range(6)]
    return GridRow(
        "scene 1",
        images[0],
        {"depth": images[1], "segmentation": images[3], "pixel": images[5]},
        {"depth": images[2], "segmentation": images[4]},
    )


def tile(picture: np.ndarray, row: int, column: int, size: int = 16) -> np.ndarray:
    x, y = tile_origin(row, column, size)
    side = size * tile_scale(size)
    return picture[y : y + side, x : x + side]


def test_every_tile_holds_its_image_with_each_pixel_repeated_four_times() -> None:
    picture = pixels(grid_png([scene(0), scene(100)], MAPS))
    for row in (0, 1):
        for column in range(6):
            expected = noise(100 * row + column).repeat(4, axis=0).repeat(4, axis=1)
            np.testing.assert_array_equal(tile(picture, row, column), expected)


def test_a_photograph_without_truth_gets_blank_tiles() -> None:
    photograph = GridRow("photo", noise(7), {"pixel": noise(8)})
    picture = pixels(grid_png([photograph], MAPS))
    np.testing.assert_array_equal(tile(picture, 0, 0)[::4, ::4], noise(7))
    np.testing.assert_array_equal(tile(picture, 0, 5)[::4, ::4], noise(8))
    for column in (1, 2, 3, 4):
        assert (tile(picture, 0, column)[:8, :8] == 236).all()


def test_captions_and_labels_leave_ink_in_the_margins() -> None:
    picture = pixels(grid_png([scene()], MAPS, note="seed 1"))
    for column in range(len(columns(MAPS))):
        x, y = tile_origin(0, column, 16)
        assert (picture[: y - 1, x : x + 64] < 128).any()
    x, y = tile_origin(0, 0, 16)
    assert (picture[y : y + 64, : x - 1] < 128).any()
    assert (picture[y + 64 :, x:] < 160).any()


def test_the_same_samples_give_the_same_bytes_and_no_date() -> None:
    data = grid_png([scene()], MAPS, note="n")
    assert data == grid_png([scene()], MAPS, note="n")
    assert Image.open(io.BytesIO(data)).info == {}


@pytest.mark.parametrize(("size", "scale"), [(16, 4), (48, 4), (64, 4), (128, 2), (256, 1), (512, 1)])
def test_large_images_are_enlarged_less(size: int, scale: int) -> None:
    assert tile_scale(size) == scale
    assert tile_origin(0, 1, size)[0] - tile_origin(0, 0, size)[0] <= 256 + 6


def test_images_above_256_pixels_are_reduced() -> None:
    flat = np.full((512, 512, 3), 77, np.uint8)
    picture = pixels(grid_png([GridRow("large", flat)], MAPS))
    x, y = tile_origin(0, 0, 512)
    assert (picture[y : y + 256, x : x + 256] == 77).all()


def test_images_of_other_sizes_fill_their_tiles() -> None:
    row = GridRow(
        "odd", noise(0), {"pixel": np.full((12, 12, 3), 9, np.uint8), "depth": np.full((9, 70, 3), 5, np.uint8)}
    )
    picture = pixels(grid_png([row], MAPS))
    assert (tile(picture, 0, 1) == 5).all() and (tile(picture, 0, 5) == 9).all()


def test_long_labels_and_captions_stay_in_their_place() -> None:
    short, long = draw_grid([scene()], MAPS), draw_grid([GridRow("a label " * 30, noise(0))], MAPS)
    assert short.size == long.size


@pytest.mark.parametrize("wrong", [np.zeros((16, 16), np.uint8), np.zeros((16, 16, 3))])
def test_what_is_no_image_is_refused_by_name(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="scene 9, depth"):
        draw_grid([GridRow("scene 9", noise(0), {"depth": wrong})], MAPS)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        draw_grid([], MAPS)


def test_columns_come_from_the_maps_in_their_order() -> None:
    assert [caption for caption, _, _ in columns([])] == ["input"]
    captions = [caption for caption, _, _ in columns(MAPS[:2])]
    assert captions == ["input", "depth, generated", "depth, true", "segmentation, generated", "segmentation, true"]
    assert columns(MAPS)[-1] == (MAPS[-1].title, "generated", "pixel"), "the truth of an image is the input"


OBJECTIVES = ("Understanding", "Pixel", "Depth")


def history(steps: int = 60) -> dict[str, list[tuple[int, float]]]:
    points = range(1, steps + 1)
    return {
        "train/loss/understanding": [(step, 5.0 / step) for step in points],
        "train/loss/pixel": [(step, 1.0 - step / 200) for step in points],
        "train/loss": [(step, 3.0 / step + 0.2) for step in points],
        "train/grad_norm": [(step, 2.0) for step in points],
        "optim/lr": [(step, 1e-3) for step in points],
        "perf/step_s": [(step, 9.0) for step in points],
    }


UNDERSTANDING = (0x00, 0x72, 0xB2)
PIXEL = (0xD5, 0x5E, 0x00)


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(picture - np.array(colour)).max(axis=2) < 8).sum() > 20)


def test_an_objective_keeps_its_colour_where_others_are_absent() -> None:
    both = pixels(curves_png(history(), objectives=OBJECTIVES))
    assert has_colour(both, UNDERSTANDING) and has_colour(both, PIXEL)
    alone = pixels(curves_png({"train/loss/pixel": history()["train/loss/pixel"]}, objectives=OBJECTIVES))
    assert has_colour(alone, PIXEL) and not has_colour(alone, UNDERSTANDING)
    unlisted = pixels(curves_png({"train/loss/normals": [(1, 1.0), (9, 0.5)]}, objectives=OBJECTIVES))
    assert not has_colour(unlisted, PIXEL) and not has_colour(unlisted, UNDERSTANDING)


def test_the_curve_follows_the_values() -> None:
    falling = pixels(
        curves_png({"train/loss/pixel": [(step, 100.0 - step) for step in range(101)]}, objectives=OBJECTIVES)
    )
    plot = falling[20:380, 80:720]
    orange = np.argwhere(np.abs(plot - np.array(PIXEL)).max(axis=2) < 60)
    left = orange[orange[:, 1] < 120, 0].mean()
    right = orange[orange[:, 1] > 520, 0].mean()
    assert left + 100 < right  # further down on the page


def test_the_same_history_gives_the_same_bytes_and_no_date_in_the_file() -> None:
    first = curves_png(history(), title="t", note="n", resumes=[10])
    assert first == curves_png(history(), title="t", note="n", resumes=[10])
    assert set(Image.open(io.BytesIO(first)).info) <= {"dpi"}


def test_a_resume_mark_and_a_note_are_visible() -> None:
    plain = pixels(curves_png(history()))
    assert (pixels(curves_png(history(), resumes=[30])) != plain).any()
    noted = pixels(curves_png(history(), note="60 steps, 2026-01-01"))
    assert (noted[-40:] < 128).any() and not (plain[-40:] < 128).any()


def test_a_step_measured_again_after_a_rewind_counts_once() -> None:
    rewound = {"train/loss/pixel": [(1, 1.0), (2, 0.9), (3, 55.0), (3, 0.8), (4, 0.7)]}
    straight = {"train/loss/pixel": [(1, 1.0), (2, 0.9), (3, 0.8), (4, 0.7)]}
    assert curves_png(rewound) == curves_png(straight)


def test_values_that_are_not_finite_are_left_out() -> None:
    broken = {
        "train/loss/pixel": [(1, 1.0), (2, float("nan")), (3, 0.5)],
        "train/grad_norm": [(1, float("inf"))],
    }
    assert has_colour(pixels(curves_png(broken, objectives=OBJECTIVES)), PIXEL)


def test_a_single_step_still_shows() -> None:
    assert has_colour(pixels(curves_png({"train/loss/pixel": [(1, 0.5)]}, objectives=OBJECTIVES)), PIXEL)


def test_a_history_without_losses_is_refused() -> None:
    with pytest.raises(ValueError, match="no finite value"):
        curves_png({"optim/lr": [(1, 0.1)], "train/loss/pixel": [(1, float("nan"))]})


def test_the_running_mean_is_the_one_computed_by_hand() -> None:
    np.testing.assert_allclose(smooth(np.array([0.0, 3.0, 6.0, 3.0]), 3), [0.0, 3.0, 4.0, 4.5])
    np.testing.assert_array_equal(smooth(np.array([2.0, 5.0]), 1), [2.0, 5.0])
    assert [window_for(points) for points in (1, 59, 60, 600)] == [1, 1, 3, 21]
