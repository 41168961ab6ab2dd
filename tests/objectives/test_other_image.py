"""An objective with another image asks, learns and draws the same, in every family; only what is shown is another's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.one_step import FAMILIES, OBJECTIVES, planner_of, randomised, tiny_family
from tests.support.scene_records import SceneRecords
from unimrg_trainer.engine.step_plan import MicroStep
from unimrg_trainer.models.base import Family
from unimrg_trainer.objectives.base import Objective
from unimrg_trainer.objectives.other_image import OtherImage
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.packing.composition import Composition

DATA = SceneRecords(6)


def image_of(key: str, further: int) -> np.ndarray:
    image = DATA.image_sample((int(key) + further) % 6).image
    assert image is not None
    return image


def exchanged(further: int) -> list[Objective]:
    """The objectives when each image's rows see the image `further` places on; 0: their own."""
    return [OtherImage(objective(name), lambda key: image_of(key, further)) for name in OBJECTIVES]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_wording_answer_and_target_stay_and_the_image_is_another(name: str) -> None:
    own, other = objective(name), OtherImage(objective(name), lambda key: image_of(key, 1))
    assert (other.name, other.source, other.map) == (own.name, own.source, own.map)
    sample = DATA.question_sample(0) if own.source == "questions" else DATA.image_sample(2)
    expected, task = (one.task(sample, np.random.default_rng(4)) for one in (own, other))
    assert (task.prompt, task.answer) == (expected.prompt, expected.answer)
    assert task.sample.image is image_of(sample.key, 1)
    assert replace(task.sample, image=sample.image).__dict__ == sample.__dict__
    if task.map is not None and expected.map is not None:
        assert np.array_equal(task.map.target(task.sample, 32), expected.map.target(sample, 32))
        for field in ("name", "objective", "title", "stored", "canonical_prompt", "unconditional"):
            assert getattr(task.map, field) == getattr(expected.map, field)
        assert task.map.wordings() == expected.map.wordings()


def micro_step(family: Family, objectives: Sequence[Objective] | None, composition: Composition) -> MicroStep:
    """The first micro-step, in which all rows of an image can share what they read of it."""
    planner = planner_of(family, 8, records=DATA)
    planner = replace(planner, composition=composition, reader=replace(planner.reader, same_images=True))
    if objectives is not None:
        planner = replace(planner, objectives=objectives)
    (step,) = planner.plan_step(0, 0, 1).micro_steps
    return step


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("composition", [Composition.OFFICIAL, Composition.GROUPED])
def test_every_family_learns_the_same_target_from_another_image(name: str, composition: Composition) -> None:
    family = tiny_family(name)
    module = randomised(family.build().double()).eval()

    def measured(objectives: Sequence[Objective] | None) -> tuple[list[tuple[np.ndarray | None, ...]], np.ndarray]:
        batch = family.prepare(micro_step(family, objectives, composition).batch, torch.device("cpu"), torch.float64)
        with torch.no_grad():
            return [*family.preview(batch)], module(batch).numpy()

    shown, losses = measured(None)
    same, again = measured(exchanged(0))
    assert np.array_equal(losses, again)  # the same rows, masks and noise
    shown_other, others = measured(exchanged(1))
    assert (losses != others).all()
    for (image, target), (other, other_target) in zip(shown, shown_other, strict=True):
        assert (target is None) == (other_target is None)
        assert target is None or np.array_equal(target, other_target)
        assert image is None or not np.array_equal(image, other)
    assert any(image is not None for image, _ in shown) and len(same) == len(shown)
