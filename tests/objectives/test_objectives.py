"""Each objective asks for the right thing in the right words, and refuses samples that teach nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_model import RECIPES
from unimrg_trainer.maps.registry import MAPS, find_map
from unimrg_trainer.objectives import registry
from unimrg_trainer.objectives.generation import UNCONDITIONAL
from unimrg_trainer.objectives.registry import built_in, in_order, objective
from unimrg_trainer.rng import generator
from unimrg_trainer.sample import Sample

GENERATIVE = ("Pixel", "Depth", "Segmentation")
PLANE = np.zeros((4, 4), np.uint8)
SAMPLE = Sample(
    "scene-7",
    np.zeros((4, 4, 3), np.uint8),
    {"depth": PLANE, "segmentation": PLANE},
    question="Where is the nearest object?",
    answer="left",
)


def prompts(name: str, draws: int) -> list[str]:
    one = objective(name)
    return [one.task(SAMPLE, generator(1, 0, row, name, "prompt")).prompt for row in range(draws)]


def test_understanding_asks_the_samples_question() -> None:
    understanding = objective("Understanding")
    task = understanding.task(SAMPLE, np.random.default_rng(0))
    assert (task.prompt, task.answer, task.map) == ("Where is the nearest object?", "left", None)
    with pytest.raises(LookupError, match="the sample's question"):
        understanding.inference_prompt()


@pytest.mark.parametrize("name", GENERATIVE)
def test_a_generative_objective_asks_for_its_map(name: str) -> None:
    one = objective(name)
    task = one.task(SAMPLE, np.random.default_rng(0))
    assert task.answer is None and task.map is not None
    assert task.map.name == name.lower() and one.map is task.map
    assert one.inference_prompt() in task.map.wordings()  # training has seen the prompt of inference


def test_names_order_and_sources_are_those_of_the_methods() -> None:
    named = list(dict.fromkeys(name for recipe in RECIPES.values() for name in recipe))
    assert list(built_in()) == named == ["Understanding", *GENERATIVE]
    assert in_order(["zebra", "Depth", "apple", "Understanding"]) == ["Understanding", "Depth", "apple", "zebra"]
    sources = {name: one.source for name, one in built_in().items()}
    assert sources == {"Understanding": "questions", **dict.fromkeys(GENERATIVE, "images")}


def test_an_unknown_objective_is_refused_with_the_known_maps() -> None:
    with pytest.raises(UserError, match=r"'Pose'.*pixel, depth, segmentation"):
        objective("Pose")


@pytest.mark.parametrize(("name", "missing"), [("Depth", "depth"), ("Segmentation", "segmentation")])
def test_a_sample_without_the_map_is_named_and_refused(name: str, missing: str) -> None:
    broken = replace(SAMPLE, maps={key: value for key, value in SAMPLE.maps.items() if key != missing})
    with pytest.raises(UserError, match=f"scene-7.*{missing}") as caught:
        objective(name).task(broken, np.random.default_rng(0))
    assert caught.value.exit_code is ExitCode.DATA_CORRUPT
    # the image alone still teaches pixels
    assert objective("Pixel").task(replace(SAMPLE, maps={}), np.random.default_rng(0)).map is find_map("pixel")


def test_a_sample_without_an_answer_is_named_and_refused() -> None:
    with pytest.raises(UserError, match=r"scene-7.*answer"):
        objective("Understanding").task(replace(SAMPLE, answer=None), np.random.default_rng(0))


def test_every_wording_is_drawn_about_equally_often() -> None:
    wordings = find_map("depth").wordings()
    counts = Counter(prompts("Depth", 4000))
    assert set(counts) == set(wordings)
    expected = 4000 / len(wordings)
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 27.9  # χ², 0.999 at 9 degrees


def test_a_tenth_of_the_pixel_requests_and_no_other_name_nothing() -> None:
    shares = {name: prompts(name, 2000).count(UNCONDITIONAL) / 2000 for name in GENERATIVE}
    assert 0.08 < shares["Pixel"] < 0.12
    assert shares["Depth"] == shares["Segmentation"] == 0
    assert all(UNCONDITIONAL not in find_map(name).wordings() for name in MAPS)


@pytest.mark.parametrize("name", GENERATIVE)
def test_canonical_prompts_are_those_of_inference_and_no_others(name: str) -> None:
    one = objective(name, "Canonical")
    asked = {one.task(SAMPLE, generator(1, 0, row, name, "prompt")).prompt for row in range(200)}
    assert asked == {one.inference_prompt()}


def test_the_wording_depends_on_the_rng_key_alone() -> None:
    first = prompts("Pixel", 20)
    assert first == prompts("Pixel", 20)
    assert len(set(first)) > 10


def test_an_objective_has_the_name_that_the_job_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_map", lambda name: find_map("depth"))
    near_and_far = registry.objective("near-and-far", "Canonical")
    assert near_and_far.name == "near-and-far"
    assert near_and_far.task(SAMPLE, np.random.default_rng(1)).prompt == find_map("depth").canonical_prompt
