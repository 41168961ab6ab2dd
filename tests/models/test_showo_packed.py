"""Packed rows of Show-o: what they share, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import product

import pytest
import torch

from tests.models.rows import ALL, assert_equal_gradients, gradients, perturbed, rng_for, task
from tests.models.showo_rows import BOTH, batch_of, family, rows_of
from unimrg_api.sizes.showo import ShowOConfig, config_of
from unimrg_trainer.maps.pixel import PIXEL
from unimrg_trainer.models.common.text import text_segment
from unimrg_trainer.models.showo.family import ShowOFamily
from unimrg_trainer.models.showo.rows import Part, ShowORow, answering, generated, generation_prompt, row_tokens
from unimrg_trainer.packing import packed
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.sample import Sample

GIVEN = Sample("given")


def mixed_rows(showo: ShowOFamily) -> list[ShowORow]:
    """All objectives, each twice about one image and once about another, and two rows without an image.

    The question is another every time. Prompts have one length within an objective, different ones between them.
    """
    kinds = [(name, key, True) for name, key in product(ALL, (0, 0, 1))]
    kinds += [("Understanding", 2, False), ("Depth", 3, False)]
    rows = []
    for number, (name, key, image) in enumerate(kinds):
        asked = task(name, key, image=image, prompt="Where is it?" + " Say it." * number)
        rows += showo.plan(name, [(number, asked)], rng_for)
    return rows


def generating(config: ShowOConfig, prompt: list[int]) -> tuple[Part, ...]:
    return (*generation_prompt(config, prompt, GIVEN), *generated(config, GIVEN, PIXEL, 1, with_source=True))


@pytest.mark.parametrize("config", BOTH, ids=["CLIP", "codes"])
def test_packed_rows_have_the_losses_and_gradients_of_official_ones(config: ShowOConfig) -> None:
    showo = family(config)
    module = perturbed(showo)
    rows = mixed_rows(showo)
    weights = torch.arange(1, len(rows) + 1, dtype=torch.float64)
    expected = module(batch_of(showo, rows))
    grouped = batch_of(showo, rows, composition=Composition.GROUPED)
    found = module(grouped)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    assert_equal_gradients(gradients(module, (found * weights).sum()), gradients(module, (expected * weights).sum()))
    with torch.no_grad():
        flex = module(batch_of(showo, rows, composition=Composition.FLEX))
    torch.testing.assert_close(flex, expected, rtol=1e-10, atol=0)
    assert grouped.labels_per_row == tuple(row.loss_terms for row in rows)


@pytest.mark.parametrize("config", BOTH, ids=["CLIP", "codes"])
def test_a_packed_sequence_holds_what_is_shared_once(config: ShowOConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "padded_length", lambda tokens: tokens)
    showo = family(config)
    rows = mixed_rows(showo)
    answer = 1 + len(showo.template.system) + 1 + 64 + 1
    generation = 3 + config.source_tokens
    # of the first image 2 questions and 6 generations, of the second 3 generations
    again = answer + (5 + 2 if config.clip else 3) * generation
    length = sum(part.length for row in rows for part in row.parts)
    batch = batch_of(showo, rows, composition=Composition.GROUPED)
    assert batch.sources.shape == batch.positions.shape == (1, length - again)
    assert len(batch.shown) == (4 if config.clip else 0)  # each image as a question and as a source
    assert len(batch_of(showo, rows).shown) == (12 if config.clip else 0)
    assert len(set(batch.shown_places.tolist())) == len(batch.shown_places) == 64 * len(batch.shown)


def test_only_equal_beginnings_have_equal_keys() -> None:
    def key(parts: tuple[Part, ...], image: Hashable = "a") -> Hashable:
        return row_tokens(parts, image).prefix_key

    for config in BOTH:
        prompt = generating(config, [1, 2, 3])
        assert key(prompt) == key(generating(config, [4, 5, 6])) != key(prompt, "b")
        assert (key(prompt) == key(generating(config, [1, 2]))) == bool(config.clip)
        question = answering(config, [9], text_segment([1, 2], [3]), GIVEN)
        assert key(question) == key(answering(config, [9], text_segment([5], [6, 7]), GIVEN)) != key(prompt)
        assert key(question) != key(answering(config, [8], text_segment([1, 2], [3]), GIVEN))
        assert key(answering(config, [9], text_segment([1], [2]), None)) is None


@pytest.mark.parametrize("variant", ["VQ-256", "VQ-512", "CLIP-256", "CLIP-512"])
def test_published_rows_share_all_up_to_the_images_eoi(variant: str) -> None:
    config = config_of(variant)
    codes, source, shown = config.tokens, config.source_tokens, config.source_tokens if config.clip else config.tokens
    rows = [generating(config, [1] * 9), generating(config, [2] * 9)]
    rows += [answering(config, [9] * 28, text_segment([1] * count, [2] * 4), GIVEN) for count in (5, 7)]
    packed_rows = packed.pack_rows([row_tokens(parts, "image") for parts in rows])
    ends = [int(places[-1]) + 1 for places in packed_rows.places]
    generations = 3 + source + 2 * (9 + codes + 2)
    assert ends[1:] == [generations, generations + 31 + shown + 9, generations + 31 + shown + 9 + 11]
    # the generated image's soi keeps its published position
    assert packed_rows.positions[ends[0] - codes - 2] == (704 if config.clip else 640)


def test_text_alone_needs_no_mask() -> None:
    """Rows of different length: behind the shorter one's end positions do not count up."""
    showo = family()
    module = perturbed(showo)
    rows = rows_of(showo, ["Understanding"], [0, 1, 2], image=False)
    batch = batch_of(showo, rows)
    assert batch.attention is None
    among = batch_of(showo, [*rows, *rows_of(showo, ["Depth"], [3])])
    assert isinstance(among.attention, torch.Tensor)
    with torch.no_grad():
        expected = module(among)[:3]
        torch.testing.assert_close(module(batch), expected, rtol=1e-10, atol=0)
        grouped = batch_of(showo, rows, composition=Composition.GROUPED)
        torch.testing.assert_close(module(grouped), expected, rtol=1e-10, atol=0)
