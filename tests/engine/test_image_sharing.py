"""`imageSharing: All`: questions are about the images that a step generates, and packed rows then share them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.one_step import planner_of, tiny_family
from tests.support.scene_records import SceneRecords
from unimrg_api.errors import UserError
from unimrg_trainer.engine.row_reader import RowReader, require_questions
from unimrg_trainer.objectives.registry import objective


class WithoutQuestions(SceneRecords):
    """The same scenes; about the one numbered 2 nothing is asked."""

    def questions_about(self, image: int) -> range:
        return range(0) if image == 2 else super().questions_about(image)


def test_data_needs_a_question_about_every_image() -> None:
    require_questions(SceneRecords(4))
    with pytest.raises(UserError, match=r"image sample 2 has no question.*imageSharing"):
        require_questions(WithoutQuestions(4))


def test_a_question_is_about_the_image_of_its_global_row() -> None:
    def keys(same_images: bool, name: str) -> list[str]:
        read = RowReader(SceneRecords(6), seed=3, same_images=same_images)
        return [read(objective(name), row).key for row in range(12)]

    assert keys(True, "Understanding") == keys(True, "Depth") == keys(False, "Depth")
    assert keys(False, "Understanding") != keys(False, "Depth")


def test_packed_rows_of_shared_images_have_fewer_tokens() -> None:
    planner = planner_of(tiny_family("harmon"), 8, records=SceneRecords(40))
    shared = replace(planner, reader=replace(planner.reader, same_images=True))
    apart, together = (one.plan_step(0, 0, 1).micro_steps[0].batch for one in (planner, shared))
    assert len(together.images) < len(apart.images)
    assert together.positions.numel() < apart.positions.numel()
