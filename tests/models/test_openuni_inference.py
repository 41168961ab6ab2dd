"""OpenUni at inference: caches and batches change nothing, draws can be passed in, images and answers come out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models.openuni_rows import batch_of, family, rows_of
from tests.models.rows import ALL, perturbed, picture
from unimrg_api.sizes.openuni import ConnectorConfig, OpenUniConfig, SanaConfig, VisionConfig
from unimrg_api.sizes.qwen2 import Qwen2Config
from unimrg_trainer.maps.geometry import squash
from unimrg_trainer.models.common.text import TextSegment
from unimrg_trainer.models.openuni import comparison
from unimrg_trainer.models.openuni.inference import SamplingSettings
from unimrg_trainer.models.openuni.module import OpenUni
from unimrg_trainer.models.openuni.rows import ImageSegment, OpenUniRow
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest
from unimrg_trainer.packing.segments import Segment
from unimrg_trainer.rng import generator

openuni = family(steps=3, guidance="2.0")


@pytest.fixture(scope="module")
def module() -> OpenUni:
    return perturbed(openuni).eval()


def features(image: np.ndarray) -> torch.Tensor:
    return openuni._features(torch.from_numpy(squash(image, 32).copy())[None]).double()


def greedy_without_cache(module: OpenUni, request: AnswerRequest, new: int) -> str:
    template, tokenizer = openuni.template, openuni.tokenizer
    ids = template.question(request.prompt, with_image=request.image is not None)
    before = (
        [] if request.image is None else [module.embed(torch.tensor([template.opening()])), features(request.image)]
    )
    answer: list[int] = []
    with torch.no_grad():
        while len(answer) < new:
            row = torch.cat([*before, module.embed(torch.tensor([[*ids, *answer]]))], dim=1)
            token = int(module.logits(module.language(row, torch.arange(row.shape[1])[None])[:, -1]).argmax())
            if token in (tokenizer.turn_end, tokenizer.text_end):
                break
            answer.append(token)
    return tokenizer.decode(answer)


def test_openunis_answers_with_a_cache_equal_those_without(module: OpenUni) -> None:
    """Questions of different length in one batch, about different images and about none."""
    requests = [
        AnswerRequest("Where is the nearest object?", picture("x")),
        AnswerRequest("Is there a red circle?", picture("y")),
        AnswerRequest("What colour is the cross, and why is that so?", picture("z")),
        AnswerRequest("What is a cross?"),
    ]
    answers = openuni.answer(module, requests, max_new_tokens=6)
    assert answers == [greedy_without_cache(module, request, 6) for request in requests]
    assert len(set(answers)) > 1


def test_guidance_goes_away_from_the_published_prompt(module: OpenUni) -> None:
    """The family's image is the one of the comparison API with the same draws, guided away from text without image."""
    request = GenerateRequest("Make it.", seed=4, row=7, image=picture("x"))
    with openuni._inference(module) as inference:
        found = inference.generate([request], openuni.sampling, lambda done, total: None)
    template = openuni.template
    prompt = comparison.prompt(
        module, template.opening(), template.prompt("Make it.", with_image=True), features(picture("x"))[0]
    )
    nothing = comparison.prompt(module, [], template.unconditional())
    noise = _noise(request)
    settings = SamplingSettings(steps=3, guidance=2.0)
    torch.testing.assert_close(comparison.sample(module, [prompt], nothing, noise, settings), found)
    plain = comparison.sample(module, [prompt], nothing, noise, replace(settings, guidance=1.0))
    as_prompt = comparison.sample(module, [prompt], prompt, noise, settings)
    torch.testing.assert_close(plain, as_prompt)
    assert not torch.allclose(plain, found)


def _noise(request: GenerateRequest) -> torch.Tensor:
    drawn = generator("generate", request.seed, request.row, "noise").standard_normal((48, 8, 8), dtype=np.float32)
    return torch.from_numpy(drawn)[None].double()


def test_losses_with_every_input_passed_in_are_those_of_training(module: OpenUni) -> None:
    rows = rows_of(openuni, ALL, [1])
    batch = batch_of(openuni, rows)
    assert batch.features is not None and batch.latents is not None
    compared = [_as_ids(one) for one in rows]
    found = comparison.losses(
        module,
        compared,
        features=batch.features[list(batch.image_of_row)],
        latents=batch.latents[batch.targets],
        noise=batch.noise,
        timesteps=batch.timesteps,
        sigmas=batch.sigmas,
    )
    torch.testing.assert_close(found, module(batch), rtol=1e-12, atol=0)


def _as_ids(row: OpenUniRow) -> tuple[Segment, ...]:
    texts = [list(s.token_ids) for s in row.segments if isinstance(s, TextSegment)]
    assert isinstance(row.segments[1], ImageSegment)
    if row.objective != "Understanding":
        return comparison.generating(openuni.config, *texts)
    question = texts[1][: -row.loss_terms]
    return comparison.answering(openuni.config, texts[0], question, texts[1][-row.loss_terms :])


def test_a_model_of_any_numbers_can_be_compared() -> None:
    config = OpenUniConfig(
        variant="any",
        language=Qwen2Config(24, 1, 3, 1, 20, vocabulary=30, tied=False),
        vision=VisionConfig(size=8, patch=2, width=4, layers=1, heads=2, feed_forward=6),
        connector=ConnectorConfig(layers=1, heads=2, feed_forward=10),
        sana=SanaConfig(layers=1, heads=2, head_width=6, cross_heads=1, cross_head_width=8, caption_width=9),
        codec=4,
        tokenizer="none",
        image_size=12,
        queries=5,
    )
    torch.manual_seed(0)
    module = comparison.build(config)
    before, after = [1, 2], [3, 4, 5]
    h = torch.randn(1, 4, 24, dtype=torch.float64, requires_grad=True)
    x, noise = torch.randn(2, 1, 48, 3, 3, dtype=torch.float64)
    sums = comparison.losses(
        module,
        [comparison.answering(config, [], after, [7, 8]), comparison.generating(config, before, after)],
        features=h,
        latents=x,
        noise=noise,
        timesteps=torch.tensor([250.0]),
        sigmas=torch.tensor([0.25], dtype=torch.float64),
    )
    torch.autograd.backward(sums.sum())
    assert sums.dtype == torch.float64 and h.grad is not None and h.grad.any()
    prompts = [comparison.prompt(module, before, after, h[0].detach()), comparison.prompt(module, [], after)]
    made = comparison.sample(module, prompts, prompts[1], noise.expand(2, -1, -1, -1), SamplingSettings(steps=2))
    assert made.shape == (2, 48, 3, 3)
    assert len(comparison.answer(module, prompts, ends=[29], max_new_tokens=2)) == 2
