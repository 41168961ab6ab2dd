"""Each objective asks for the right thing over the right geometry, and refuses records that teach nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_training import RECIPES
from unimrg_trainer.objectives.base import Objective
from unimrg_trainer.objectives.pixel import Pixel
from unimrg_trainer.objectives.prompt_lists import Wording, load_prompts
from unimrg_trainer.objectives.registry import OBJECTIVES, objective
from unimrg_trainer.packing.plan import Geometry


def record() -> dict[str, Any]:
    return {
        "key": "scene-7",
        "image": np.zeros((4, 4, 3), np.uint8),
        "depth": np.zeros((4, 4), np.uint8),
        "segmentation": np.zeros((4, 4), np.uint8),
        "question": "Where is the nearest object?",
        "answer": "left",
    }


def test_understanding_asks_the_records_question_over_the_padded_image() -> None:
    branch = objective("Understanding").branch(record(), np.random.default_rng(0))
    assert branch.prompt == "Where is the nearest object?"
    assert branch.answer == "left"
    assert branch.representation is None
    assert branch.geometry is Geometry.PAD


@pytest.mark.parametrize("name", ["Pixel", "Depth", "Segmentation"])
def test_a_generative_objective_asks_for_its_representation_over_the_squashed_image(name: str) -> None:
    branch = objective(name, Wording.CANONICAL).branch(record(), np.random.default_rng(0))
    assert branch.representation == name.lower()
    assert branch.answer is None
    assert branch.geometry is Geometry.SQUASH


def test_sampling_uses_the_published_words() -> None:
    assert objective("Pixel").prompt_at_inference() == "Describe the image in detail."
    assert objective("Depth").prompt_at_inference() == "Generate the depth map of this image."
    assert objective("Segmentation").prompt_at_inference() == "Generate the segmentation mask of this image."


def test_understanding_has_no_words_of_its_own_for_sampling() -> None:
    with pytest.raises(LookupError, match="own question"):
        objective("Understanding").prompt_at_inference()


def test_the_wording_is_the_lists_or_the_canonical_one_as_asked() -> None:
    canonical = {
        objective("Depth", Wording.CANONICAL).branch(record(), np.random.default_rng(seed)).prompt for seed in range(30)
    }
    assert canonical == {"Generate the depth map of this image."}
    listed = {objective("Depth").branch(record(), np.random.default_rng(seed)).prompt for seed in range(30)}
    assert len(listed) > 3 and listed <= set(load_prompts("depth"))


def test_understanding_follows_questions_and_the_others_follow_images() -> None:
    sources = {name: objective(name).source for name in OBJECTIVES}
    assert sources == {
        "Understanding": "questions",
        "Pixel": "images",
        "Depth": "images",
        "Segmentation": "images",
    }


def test_names_in_the_registry_are_the_objectives_own_names() -> None:
    for name in OBJECTIVES:
        instance: Objective = objective(name)
        assert instance.name == name


def test_an_unknown_objective_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="Pose") as caught:
        objective("Pose")
    for name in OBJECTIVES:
        assert name in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "field"), [("Depth", "depth"), ("Segmentation", "segmentation"), ("Understanding", "answer")]
)
@pytest.mark.parametrize("absent", [True, False])
def test_a_record_without_the_target_is_named_and_refused(name: str, field: str, absent: bool) -> None:
    broken = record()
    if absent:
        del broken[field]
    else:
        broken[field] = None
    with pytest.raises(UserError, match=f"scene-7.*{field}") as caught:
        objective(name).branch(broken, np.random.default_rng(0))
    assert caught.value.exit_code is ExitCode.DATA_CORRUPT


def test_a_photograph_without_maps_still_teaches_pixels() -> None:
    photograph = {"key": "photo-1", "image": np.zeros((4, 4, 3), np.uint8), "depth": None}
    assert objective("Pixel").branch(photograph, np.random.default_rng(0)).representation == "pixel"


def test_a_probability_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Pixel(unconditional=1.5)


def test_every_objective_of_every_method_is_registered() -> None:
    named = {name for recipe in RECIPES.values() for name in recipe}
    assert named == set(OBJECTIVES)
