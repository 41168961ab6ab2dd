"""The lists of wordings are long enough, clean, and drawn from as the method says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from unimrg_trainer.objectives.prompt_lists import UNCONDITIONAL, Wording, draw_prompt, load_prompts
from unimrg_trainer.objectives.registry import OBJECTIVES, objective
from unimrg_trainer.rng import generator


@pytest.mark.parametrize(("name", "least"), [("pixel", 200), ("depth", 5), ("segmentation", 15)])
def test_a_list_has_enough_wordings_and_none_twice(name: str, least: int) -> None:
    prompts = load_prompts(name)
    assert len(prompts) >= least
    assert len({prompt.casefold() for prompt in prompts}) == len(prompts)


@pytest.mark.parametrize("name", ["pixel", "depth", "segmentation"])
def test_a_wording_is_one_short_sentence_in_ascii(name: str) -> None:
    for prompt in load_prompts(name):
        assert prompt.isascii() and prompt[0].isupper() and prompt[-1] in ".?", prompt
        assert len(prompt.split()) <= 20, prompt
        assert "  " not in prompt and "\\n" not in prompt, prompt


def test_no_wording_carries_a_licence_or_a_name() -> None:
    for name in ("pixel", "depth", "segmentation"):
        text = "\n".join(load_prompts(name)).casefold()
        for word in ("licen", "copyright", "s-lab", "ntu", "harmon", "openuni"):
            assert word not in text


def test_the_lists_share_no_wording_so_that_a_request_names_its_target() -> None:
    lists = [set(load_prompts(name)) for name in ("pixel", "depth", "segmentation")]
    assert not (lists[0] & lists[1] or lists[0] & lists[2] or lists[1] & lists[2])
    assert all(UNCONDITIONAL not in prompts for prompts in lists)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "Understanding"])
def test_training_has_seen_the_words_that_sampling_uses(name: str) -> None:
    assert objective(name).prompt_at_inference() in load_prompts(name.lower())


def test_every_wording_is_drawn_about_equally_often() -> None:
    random = np.random.default_rng(0)
    draws = 4000
    counts = Counter(draw_prompt(random, "depth", "x", wording=Wording.LIST, unconditional=0.0) for _ in range(draws))
    expected = draws / len(load_prompts("depth"))
    assert set(counts) == set(load_prompts("depth"))
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < 27.9  # 0.999 quantile at 9 degrees of freedom


def test_a_tenth_of_the_pixel_requests_name_nothing_in_either_wording() -> None:
    for wording in Wording:
        pixel = objective("Pixel", wording)
        record = {"key": "a", "image": np.zeros((2, 2, 3), np.uint8)}
        prompts = [pixel.branch(record, generator(1, 0, row, "Pixel", "prompt")).prompt for row in range(2000)]
        share = prompts.count(UNCONDITIONAL) / len(prompts)
        assert 0.08 < share < 0.12


def test_the_draw_depends_on_the_address_alone() -> None:
    pixel = objective("Pixel")
    record = {"key": "a", "image": np.zeros((2, 2, 3), np.uint8)}

    def draw(row: int) -> str:
        return pixel.branch(record, generator(42, 3, row, "Pixel", "prompt")).prompt

    forwards = [draw(row) for row in range(20)]
    backwards = [draw(row) for row in reversed(range(20))][::-1]
    assert forwards == backwards
    assert len(set(forwards)) > 10
