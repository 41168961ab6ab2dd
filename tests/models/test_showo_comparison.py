"""Comparing from outside: what is passed in is what the family's own path computes, and published names round-trip."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.models.rows import ALL, CPU, perturbed, picture, rng_for
from tests.models.showo_rows import BOTH, CODES, TINY, batch_of, family, rows_of
from unimrg_api.sizes.showo import ShowOConfig
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest
from unimrg_trainer.models.showo import comparison
from unimrg_trainer.models.showo.batch import ShowOBatch
from unimrg_trainer.models.showo.comparison import Draws, GivenAnswer, GivenTarget, SamplingSettings
from unimrg_trainer.models.showo.family import ShowOFamily
from unimrg_trainer.models.showo.inference import draw
from unimrg_trainer.models.showo.rows import ShowORow, TargetPart, TextPart, generation_prompt
from unimrg_trainer.sample import Sample


def given_images(config: ShowOConfig, batch: ShowOBatch) -> tuple[Tensor, Tensor]:
    assert batch.codes is not None
    codes = batch.codes[: len(batch.pictures) * config.tokens].view(-1, config.tokens)
    views = batch.features if config.clip else batch.codes[codes.numel() :].view(-1, config.source_tokens)
    assert views is not None
    return codes, views


def given(showo: ShowOFamily, row: ShowORow, batch: ShowOBatch, index: int) -> GivenAnswer | GivenTarget:
    """The row in the terms of a comparison."""
    condition, target = batch.conditions[index], batch.targets[index]
    image = None if condition is None else condition[1]
    texts = [part for part in row.parts if isinstance(part, TextPart)]
    if target is None:
        asked = [i for i, label in zip(texts[-1].token_ids, texts[-1].labels, strict=True) if label < 0]
        learnt = [label for label in texts[-1].labels if label >= 0]
        return GivenAnswer(asked, learnt, image, showo.template.system)
    part = row.parts[-2]
    assert isinstance(part, TargetPart)
    masked = torch.zeros(part.length, dtype=torch.bool)
    masked[
        torch.from_numpy(rng_for(row.objective, row.global_row, "order").permutation(part.length)[: part.masked])
    ] = True
    return GivenTarget(texts[-3].token_ids, image, target, masked)


@pytest.mark.parametrize("config", BOTH, ids=["CLIP", "codes"])
def test_losses_of_given_codes_and_masks_are_the_familys(config: ShowOConfig) -> None:
    showo = family(config)
    module = perturbed(showo)
    rows = rows_of(showo, ALL, [0, 1])
    batch = batch_of(showo, rows)
    codes, views = given_images(config, batch)
    from_outside = comparison.batch_of(
        config, [given(showo, row, batch, i) for i, row in enumerate(rows)], codes, views
    )
    with torch.no_grad():
        expected = module(batch)
        torch.testing.assert_close(module(from_outside), expected, rtol=1e-12, atol=0)
        blind = replace(from_outside, attention=torch.eye(from_outside.sources.shape[1], dtype=torch.bool)[None, None])
        assert ((module(blind) - expected).abs() > 1e-3).all()


@pytest.mark.parametrize("config", BOTH, ids=["CLIP", "codes"])
@pytest.mark.parametrize("source", [True, False], ids=["from an image", "from text alone"])
def test_samples_of_given_draws_are_the_familys(config: ShowOConfig, source: bool) -> None:
    showo = family(config, steps=3, guidance="1.5")
    module = perturbed(showo)
    request = GenerateRequest("Make it.", seed=4, row=1, image=picture("x") if source else None)
    template = showo.template
    with showo._inference(module) as inference:
        expected = inference.generate([request], showo.sampling, lambda done, total: None)
    parts = generation_prompt(config, template.prompt("Make it."), Sample("", picture("x")))
    batch = showo.prepare(showo.collate([ShowORow("", 0, 0, parts)], rng_for), CPU, torch.float64)
    _, views = given_images(config, batch)
    prompt = GivenTarget(template.prompt("Make it."), 0) if source else GivenTarget(template.caption("Make it."))
    settings = SamplingSettings(guidance=1.5)
    draws = draw([request], 3, config.tokens)
    found = comparison.sample(module, [prompt], views, draws=draws, settings=settings, without=template.caption(""))
    assert torch.equal(found, expected)
    other = Draws(1 - draws.choices, draws.confidences)
    changed = comparison.sample(module, [prompt], views, draws=other, settings=settings, without=template.caption(""))
    assert not torch.equal(changed, expected)


def test_answers_to_given_ids_are_the_familys() -> None:
    showo = family(CODES)
    module = perturbed(showo)
    template = showo.template
    ids = template.asked("What is a cross?")
    none = torch.zeros(0, CODES.tokens, dtype=torch.int16), torch.zeros(0, CODES.source_tokens, dtype=torch.int16)
    (answer,) = comparison.answers(module, [GivenAnswer(ids)], *none, ends=[template.text_end], max_new_tokens=5)
    words = [token for token in answer if token < CODES.text_vocabulary]
    expected = showo.answer(module, [AnswerRequest("What is a cross?")], max_new_tokens=5)
    assert [showo.tokenizer.decode(words).strip()] == expected


def test_published_names_come_in_and_go_out() -> None:
    config = replace(TINY, language=replace(TINY.language, layers=1, width=32, heads=2))
    one, other = comparison.build(config), comparison.build(config)
    published = comparison.export(one)
    assert "showo.model.layers.0.self_attn.dense.weight" in published and "mm_projector.2.bias" in published
    left = comparison.load(other, {**published, "unknown": torch.zeros(1)})
    assert left == ["unknown"]
    assert all(torch.equal(tensor, published[name]) for name, tensor in comparison.export(other).items())
    del published["mm_projector.2.bias"]
    with pytest.raises(RuntimeError, match=r"mm_projector\.2\.bias"):
        comparison.load(other, published)


def test_a_config_of_any_numbers_can_be_built_and_guesses_at_first() -> None:
    language = replace(TINY.language, width=64, layers=2, heads=2, feed_forward=80, initial_deviation=0.001)
    config = replace(CODES, language=language, image_size=24, source_size=12, text_vocabulary=100)
    module = comparison.build(config).double()
    assert config.tokens == 36
    rows = [GivenTarget([1, 2], 0, 0, torch.arange(36) < 9), GivenAnswer([5], [6, 7], 0)]
    codes = torch.randint(512, (1, 36))
    sums = module(comparison.batch_of(config, rows, codes, torch.randint(512, (1, 9))))
    expected = math.log(100 + 10 + 512 + 1)
    torch.testing.assert_close(
        sums / torch.tensor([9, 2]), torch.full((2,), expected, dtype=torch.float64), rtol=0, atol=0.05
    )
