"""Inference: caches change nothing, batches change nothing, and images come out, from an image or from text alone."""

from __future__ import annotations

import numpy as np
import torch

from tests.models.harmon_rows import family
from tests.models.rows import CPU, perturbed, picture
from unimrg_trainer.maps.geometry import pad_square, squash
from unimrg_trainer.models.harmon.family import HarmonFamily
from unimrg_trainer.models.harmon.module import Harmon
from unimrg_trainer.models.harmon.sampling import SamplingSettings, masked_after
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest

FEW = {"steps": 3, "textSteps": 5, "diffusionSteps": 4, "guidance": "2.0"}


def encoded(harmon: HarmonFamily, image: np.ndarray) -> torch.Tensor:
    """Tokens [1, S, C] of a square image."""
    return harmon.encode(torch.tensor(image)[None].to(CPU)).double()


def greedy_without_cache(harmon: HarmonFamily, module: Harmon, request: AnswerRequest, new: int) -> str:
    template, tokenizer, buffers = harmon.template, harmon.tokenizer, harmon.config.mar.buffers
    ids = template.question(request.prompt, with_image=request.image is not None)
    parts = [module.embed(torch.tensor([template.opening()]))]
    answer: list[int] = []
    with torch.no_grad():
        if request.image is not None:
            features = module.features(encoded(harmon, pad_square(request.image, harmon.config.image_size)))
            parts += [features[:, buffers:], features[:, :buffers]]
        while len(answer) < new:
            row = torch.cat([*parts, module.embed(torch.tensor([[*ids, *answer]]))], dim=1)
            states = module.language(row, torch.arange(row.shape[1])[None])
            token = int(module.logits(states[:, -1]).argmax())
            if token in (tokenizer.turn_end, tokenizer.text_end):
                break
            answer.append(token)
    return tokenizer.decode(answer)


def test_greedy_answers_with_a_cache_equal_those_without() -> None:
    """Questions of different length in one batch, about different images and about none."""
    harmon = family()
    module = perturbed(harmon)
    requests = [
        AnswerRequest("Where is the nearest object?", picture("x")),
        AnswerRequest("Is there a red circle?", picture("y")),
        AnswerRequest("What colour is the cross, and why is that so?", picture("z")),
        AnswerRequest("What is a cross?"),
    ]
    answers = harmon.answer(module, requests, max_new_tokens=6)
    assert answers == [greedy_without_cache(harmon, module, request, 6) for request in requests]
    assert len(set(answers)) > 1


def test_tokens_are_masked_along_a_cosine_that_ends_at_none() -> None:
    assert masked_after(144, 1) == [0]
    assert masked_after(1024, 4) == [946, 724, 391, 0]
    many = masked_after(10, 32)
    assert len(many) == 32 and many[-1] == 0
    assert all(later <= earlier for earlier, later in zip([10, *many], many, strict=False))


def test_linear_guidance_rises_with_the_share_that_is_filled_in() -> None:
    linear = SamplingSettings(guidance=3.0, guidance_schedule="Linear")
    assert [linear.guidance_at(masked, 64) for masked in (64, 48, 32)] == [1.0, 1.5, 2.0]
    assert linear.guidance_at(0, 64) == 1 + 2 * 63 / 64  # the last round counts one, as published
    assert SamplingSettings(guidance=3.0).guidance_at(48, 64) == 3.0


def test_without_an_image_the_published_wording_and_rounds_apply() -> None:
    """The prompt is a description; with an image it stands as it is. Both take their own rounds in one call."""
    harmon = family(**FEW)
    encode = harmon.tokenizer.encode
    assert harmon.template.caption("a cat") == harmon.template.prompt("Generate an image: a cat")
    assert harmon.template.caption("a cat")[: len(encode("Generate"))] == encode("Generate")
    assert harmon.template.caption("cat " * 300)[-3:] == harmon.template.caption("a cat")[-3:]
    module, rounds = perturbed(harmon, torch.float32), []
    both = [GenerateRequest("a cat", 1, 0), GenerateRequest("a cat", 1, 1, image=picture("x"))]
    harmon.generate(module, both, on_round=lambda done, total: rounds.append((done, total)))
    assert rounds == [(done, 8) for done in range(8)]
    assert (SamplingSettings().steps, SamplingSettings().text_steps) == (32, 64)
    assert HarmonFamily({"variant": "Tiny"}).sampling == SamplingSettings()


def test_the_first_round_is_what_training_would_compute() -> None:
    """With all tokens masked the sampler's conditions equal those of one uncached pass over the whole row."""
    harmon = family(steps=1, diffusionSteps=1, guidance="1")
    module = perturbed(harmon).eval()
    images = [picture("x"), picture("y")]
    buffers, tokens = harmon.config.mar.buffers, harmon.config.tokens
    caught: list[torch.Tensor] = []
    module.mar.decoder_norm.register_forward_hook(lambda _m, _i, output: caught.append(output))
    harmon.generate(module, [GenerateRequest("Make it.", seed=1, row=i, image=images[i]) for i in (0, 1)])
    with torch.no_grad():
        latents = torch.cat([encoded(harmon, squash(image, harmon.config.image_size)) for image in images])
        empty = module.mar.encode(latents[:, :0], torch.zeros(2, 0, dtype=torch.int64))
        features = module.features(latents).roll(-buffers, dims=1)
        texts = [
            module.embed(torch.tensor([ids] * 2))
            for ids in (harmon.template.opening(), harmon.template.prompt("Make it."))
        ]
        row = torch.cat([texts[0], features, texts[1], module.proj_in(empty)], dim=1)
        states = module.language(row, torch.arange(row.shape[1]).expand(2, -1))[:, -buffers:]
        grid = torch.zeros(2, buffers + tokens, dtype=torch.int64)
        grid[:, :buffers] = torch.arange(2 * buffers).reshape(2, buffers)
        masked = (torch.arange(buffers + tokens) >= buffers).expand(2, -1)
        module.conditions(empty, states, grid, masked)
    torch.testing.assert_close(caught[0], caught[1], rtol=1e-9, atol=1e-9)
