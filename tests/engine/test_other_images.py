"""Which other image each held-out row is shown: never its own, one for each image, and only images of the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.scene_records import SceneRecords
from unimrg_trainer.engine.other_images import with_other_images
from unimrg_trainer.engine.row_reader import RowReader
from unimrg_trainer.objectives.registry import objective


def shown(data: Any, names: list[str], rows: int, *, same_images: bool = False) -> dict[str, dict[str, int]]:
    """For each objective: key of the image that a row is about → number of the image that it is shown."""
    images = [data.image_sample(number).image for number in data.images]
    reader = RowReader(data, seed=None, same_images=same_images)
    objectives = with_other_images([objective(name) for name in names], reader, rows, seed=3)
    assert objectives is not None
    result: dict[str, dict[str, int]] = {}
    for one in objectives:
        for row in range(rows):
            sample = reader(one, row)
            image = one.task(sample, np.random.default_rng(0)).sample.image
            (number,) = [index for index, candidate in enumerate(images) if candidate is image]
            assert result.setdefault(one.name, {}).setdefault(sample.key, number) == number
    return result


def test_every_row_is_shown_another_image_and_every_image_is_shown_once() -> None:
    of_objectives = shown(SceneRecords(10), ["Pixel", "Depth"], rows=8)
    assert of_objectives["Pixel"] == of_objectives["Depth"]
    pairs = of_objectives["Pixel"]
    assert sorted(pairs.values()) == list(range(8))  # none from beyond the rows
    assert all(int(key) != number for key, number in pairs.items())


def test_questions_about_one_image_share_the_other_one() -> None:
    data: Any = SceneRecords(6)
    pairs = shown(data, ["Understanding"], rows=len(data.questions))["Understanding"]
    assert sorted(pairs.values()) == list(range(6))
    assert all(int(key) != number for key, number in pairs.items())
    both = shown(data, ["Understanding", "Pixel"], rows=6)
    assert {key: both["Pixel"][key] for key in both["Understanding"]} == both["Understanding"]


def test_questions_about_generated_images_have_the_other_images_of_these() -> None:
    of_objectives = shown(SceneRecords(6), ["Understanding", "Pixel"], rows=6, same_images=True)
    assert of_objectives["Understanding"] == of_objectives["Pixel"]
    assert len(of_objectives["Pixel"]) == 6


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (4, 1)])
def test_rows_that_show_a_single_image_have_no_other(count: int, rows: int) -> None:
    data: Any = SceneRecords(count)
    assert with_other_images([objective("Pixel")], RowReader(data, seed=None), rows, seed=0) is None
