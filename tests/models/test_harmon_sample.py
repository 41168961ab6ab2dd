"""Sampling: caches change nothing, batches change nothing, and a picture comes out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.models.harmon_rows import family, perturbed, pictures
from unimrg_trainer.models.harmon.codec import encode_tokens
from unimrg_trainer.models.harmon.family import HarmonFamily
from unimrg_trainer.models.harmon.module import Harmon
from unimrg_trainer.models.harmon.sample import SamplingSettings, hidden_after, sample_tokens

SETTINGS = SamplingSettings(steps=3, diffusion_steps=4, guidance=2.0)


def greedy_without_cache(harmon: HarmonFamily, module: Harmon, image: np.ndarray, question: str, new: int) -> str:
    template, tokenizer, buffers = harmon.template, harmon.tokenizer, harmon.config.mar.buffers
    ids = template.question(question)
    answer: list[int] = []
    with torch.no_grad():
        features = module.features(encode_tokens(harmon.codec, image[None]).double())
        features = torch.cat([features[:, buffers:], features[:, :buffers]], dim=1)
        while len(answer) < new:
            text = torch.tensor([[*ids, *answer]])
            row = torch.cat([module.embed(torch.tensor([template.opening()])), features, module.embed(text)], dim=1)
            states = module.language(row, torch.arange(row.shape[1])[None])
            token = int(module.logits(states[:, -1]).argmax())
            if token in (tokenizer.turn_end, tokenizer.text_end):
                break
            answer.append(token)
    return tokenizer.decode(answer)


def test_greedy_answers_with_a_cache_equal_those_without() -> None:
    harmon = family()
    module = perturbed(harmon)
    images = pictures(harmon.image_size, ["x", "y", "z"])
    questions = [
        "Where is the nearest object?",
        "Is there a red circle?",
        "What colour is the cross, and why is that so?",
    ]
    answers = harmon.answer(module, images, questions, max_new_tokens=6)
    expected = [
        greedy_without_cache(harmon, module, image, question, 6)
        for image, question in zip(images, questions, strict=True)
    ]
    assert answers == expected
    assert len(set(answers)) > 1


def test_an_answer_ends_with_its_turn() -> None:
    """A head that says one word and then always ends the turn gives that word, however many tokens are allowed."""
    harmon = family()
    module = perturbed(harmon)
    word = harmon.tokenizer.encode("left")[0]
    said = iter([word, harmon.tokenizer.turn_end])

    def speak(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return functional.one_hot(torch.tensor([next(said)]), output.shape[-1]).double()

    module.llm.lm_head.register_forward_hook(speak)
    assert harmon.answer(module, pictures(harmon.image_size, ["x"]), ["Why?"], max_new_tokens=9) == ["left"]


def test_tokens_are_hidden_along_a_cosine_that_ends_at_none() -> None:
    assert hidden_after(144, 1) == [0]
    assert hidden_after(1024, 4) == [946, 724, 391, 0]
    many = hidden_after(10, 32)
    assert len(many) == 32 and many[-1] == 0
    assert all(later <= earlier for earlier, later in zip([10, *many], many, strict=False))


def test_an_image_does_not_depend_on_its_batch() -> None:
    harmon = family()
    module = perturbed(harmon)
    tokens = encode_tokens(harmon.codec, pictures(harmon.image_size, ["x", "y", "z"])).double()

    def sample(rows: list[int]) -> torch.Tensor:
        return sample_tokens(
            module.eval(), harmon.template, tokens[rows], "Make it.", seed=9, settings=SETTINGS, rows=rows
        )

    together = sample([0, 1, 2])
    apart = torch.cat([sample([1]), sample([2, 0])])[[2, 0, 1]]
    torch.testing.assert_close(together, apart, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(together[0], together[1])


def test_the_first_round_is_what_training_would_compute() -> None:
    """With all tokens hidden the sampler's conditions equal those of one uncached pass over the whole row."""
    harmon = family()
    module = perturbed(harmon).eval()
    images = encode_tokens(harmon.codec, pictures(harmon.image_size, ["x", "y"])).double()
    buffers, tokens = harmon.config.mar.buffers, harmon.config.tokens
    caught: list[torch.Tensor] = []
    handle = module.mar.decoder_norm.register_forward_hook(lambda _m, _i, output: caught.append(output))
    sample_tokens(
        module, harmon.template, images, "Make it.", seed=1, settings=SamplingSettings(1, 1, guidance=1.0), rows=[0, 1]
    )
    handle.remove()
    with torch.no_grad():
        encoded = module.mar.encode(images[:, :0], torch.zeros(2, 0, dtype=torch.int64))
        features = module.features(images).roll(-buffers, dims=1)
        texts = [
            module.embed(torch.tensor([ids] * 2))
            for ids in (harmon.template.opening(), harmon.template.prompt("Make it."))
        ]
        row = torch.cat([texts[0], features, texts[1], module.proj_in(encoded)], dim=1)
        states = module.language(row, torch.arange(row.shape[1]).expand(2, -1))[:, -buffers:]
        grid = torch.zeros(2, buffers + tokens, dtype=torch.int64)
        grid[:, :buffers] = torch.arange(2 * buffers).reshape(2, buffers)
        hidden = (torch.arange(buffers + tokens) >= buffers).expand(2, -1)
        handle = module.mar.decoder_norm.register_forward_hook(lambda _m, _i, output: caught.append(output))
        module.conditions(encoded, states, grid, hidden)
        handle.remove()
    torch.testing.assert_close(caught[0], caught[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("guidance", ["1", "3.0"])
def test_a_picture_comes_out_and_the_module_stays_as_it_was(guidance: str) -> None:
    harmon = family(dropout=0.1)
    module = perturbed(harmon, torch.float32)
    settings = SimpleNamespace(steps=2, diffusion_steps=3, guidance=guidance)
    images = pictures(harmon.image_size, ["x", "y"])
    rounds: list[tuple[int, int]] = []
    made = [
        harmon.generate(
            module, images, "Make it.", seed=seed, settings=settings, rows=[0, 1], on_round=lambda *r: rounds.append(r)
        )
        for seed in (1, 1, 2)
    ]
    assert rounds == [(0, 2), (1, 2)] * 3
    assert made[0].shape == images.shape and made[0].dtype == np.uint8
    assert np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])
    assert module.training
