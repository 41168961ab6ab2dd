"""Inference: rounds of MaskGIT against a naive sampler, caches and batches change nothing, images and answers come."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.rows import perturbed, picture
from tests.models.showo_rows import BOTH, family
from unimrg_api.sizes.showo import ShowOConfig
from unimrg_trainer.maps.pixel import PIXEL
from unimrg_trainer.models.common.text import text_segment
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest
from unimrg_trainer.models.showo.family import ShowOFamily
from unimrg_trainer.models.showo.inference import draw
from unimrg_trainer.models.showo.maskgit import Draws, choose, sample_codes
from unimrg_trainer.models.showo.module import ShowO
from unimrg_trainer.models.showo.rows import ShowORow, answering, generated, generation_prompt
from unimrg_trainer.rng import generator
from unimrg_trainer.sample import Sample

CPU = torch.device("cpu")
REQUESTS = [
    GenerateRequest("Make it.", seed=9, row=0, image=picture("x")),
    GenerateRequest("Make it again, but in another colour.", seed=9, row=1, image=picture("y")),
    GenerateRequest("A red circle.", seed=9, row=2),
]


def naive_rounds(
    scores: Callable[[list[int]], np.ndarray], choices: np.ndarray, confidences: np.ndarray, temperature: float
) -> list[int]:
    """One image, code by code; −1 is masked."""
    rounds, tokens = choices.shape
    codes = [-1] * tokens
    for index in range(rounds):
        logits = scores(codes)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        drawn = [
            code if code >= 0 else int(np.searchsorted(np.cumsum(p[i]), choices[index, i], side="right"))
            for i, code in enumerate(codes)
        ]
        if index == rounds - 1:
            return drawn
        temperature *= 1 - (index + 1) / rounds
        unknown = [i for i in range(tokens) if codes[i] < 0]
        sure = {i: math.log(p[i, drawn[i]]) - temperature * math.log(-math.log(confidences[index, i])) for i in unknown}
        count = max(1, min(len(unknown) - 1, math.floor(tokens * math.cos(math.pi / 2 * (index + 1) / rounds))))
        codes = drawn
        for i in sorted(unknown, key=lambda i: sure[i])[: count if len(unknown) > 1 else 1]:
            codes[i] = -1
    raise AssertionError


@pytest.mark.parametrize("rounds", [1, 2, 5, 7])
def test_rounds_are_those_of_a_naive_sampler(rounds: int) -> None:
    random = generator("maskgit", rounds)
    tokens, book = 12, 7
    base, pull = random.standard_normal((tokens, book)), random.standard_normal((book + 1, book))

    def one(codes: list[int]) -> np.ndarray:
        return base + pull[codes].mean(0)

    def many(codes: Tensor) -> Tensor:
        return torch.stack([torch.from_numpy(one(row)) for row in codes.tolist()])

    uniform = random.random((2, rounds, 3, tokens))
    found = sample_codes(many, Draws(*torch.from_numpy(uniform)), 1.5)
    expected = [naive_rounds(one, uniform[0, :, row], uniform[1, :, row], 1.5) for row in range(3)]
    assert found.tolist() == expected
    assert len({tuple(row) for row in expected}) == 3


def test_a_code_is_drawn_by_the_inverse_of_its_distribution() -> None:
    probabilities = torch.tensor([0.0, 0.25, 0.5, 0.0, 0.25]).expand(6, -1)
    uniform = torch.tensor([0.0, 0.24, 0.26, 0.74, 0.76, 0.9999999])
    assert choose(probabilities, uniform).tolist() == [1, 1, 2, 2, 4, 4]


def test_the_last_round_changes_no_known_code_and_counts_are_float32s() -> None:
    """Of 16 codes 4 rounds leave ⌊16·cos(π/2·s/4)⌋; of 64 three leave 31, because float32's cos(π/3) is below ½."""
    seen: list[Tensor] = []

    def scores(codes: Tensor) -> Tensor:
        seen.append(codes)
        return torch.zeros(*codes.shape, 5)

    draws = Draws(*torch.rand(2, 4, 2, 16, generator=torch.Generator().manual_seed(1)))
    final = sample_codes(scores, draws, 1.0)
    left = [int((codes == -1).sum(1)[0]) for codes in seen]
    assert left == [16, 14, 11, 6]
    assert (final >= 0).all()
    assert torch.equal(final[seen[-1] >= 0], seen[-1][seen[-1] >= 0])
    seen.clear()
    sample_codes(scores, Draws(*torch.rand(2, 3, 1, 64)), 1.0)
    assert [int((codes == -1).sum()) for codes in seen] == [64, 55, 31]


def codes_of(showo: ShowOFamily, module: ShowO, requests: list[GenerateRequest]) -> Tensor:
    with showo._inference(module) as inference:
        return inference.generate(requests, showo.sampling, lambda done, total: None)


def whole_scores(showo: ShowOFamily, module: ShowO, parts: tuple, codes: list[int], source: bool) -> Tensor:
    """Scores of all codes by one uncached pass over the whole row, as in training."""
    config = showo.config
    target = generated(config, Sample("", picture("unread")), PIXEL, config.tokens, with_source=source)
    row = ShowORow("", 0, config.tokens, (*parts, *target))
    batch = showo.prepare(showo.collate([row], lambda *_: generator("any")), CPU, torch.float64)
    table = module.table(batch)
    ids = torch.tensor([code + config.first_code if code >= 0 else config.mask for code in codes])
    module_table = torch.cat([table, ids])
    batch.sources[0, batch.predictors] = len(table) + torch.arange(len(ids))
    original, module.table = module.table, lambda _: module_table
    try:
        states = module.states(batch)[0, batch.predictors]
    finally:
        module.table = original
    return module.scores(states)[:, config.first_code : config.mask]


@pytest.mark.parametrize("config", BOTH, ids=["CLIP", "codes"])
@pytest.mark.parametrize("request_", [REQUESTS[1], REQUESTS[2]], ids=["from an image", "from text alone"])
@torch.no_grad()
def test_guided_rounds_with_a_cache_are_whole_rows_without(config: ShowOConfig, request_: GenerateRequest) -> None:
    showo = family(config, steps=4, guidance="2")
    module = perturbed(showo).eval()
    template = showo.template
    if request_.image is None:
        prompt = generation_prompt(config, template.caption(request_.prompt), None)
    else:
        prompt = generation_prompt(config, template.prompt(request_.prompt), Sample("", request_.image))
    nothing = generation_prompt(config, template.caption(""), None)

    def scores(codes: list[int]) -> np.ndarray:
        with_prompt = whole_scores(showo, module, prompt, codes, request_.image is not None)
        return (3 * with_prompt - 2 * whole_scores(showo, module, nothing, codes, False)).numpy()

    draws = draw([request_], 4, config.tokens)
    expected = naive_rounds(scores, draws.choices[:, 0].numpy(), draws.confidences[:, 0].numpy(), 1.0)
    assert codes_of(showo, module, [request_])[0].tolist() == expected


def greedy_without_cache(showo: ShowOFamily, module: ShowO, request: AnswerRequest, new: int) -> str:
    config, template = showo.config, showo.template
    image = None if request.image is None else Sample("", request.image)
    answer: list[int] = []
    with torch.no_grad():
        while len(answer) < new:
            asked = [*template.asked(request.prompt), *answer]
            row = ShowORow("", 0, 0, answering(config, template.system, text_segment(asked), image))
            batch = showo.prepare(showo.collate([row], lambda *_: generator("any")), CPU, torch.float64)
            token = int(module.scores(module.states(batch)[0, -1]).argmax())
            if token == template.text_end:
                break
            answer.append(token)
    return showo.tokenizer.decode([token for token in answer if token < config.text_vocabulary]).strip()


@pytest.mark.parametrize("config", BOTH, ids=["CLIP", "codes"])
def test_greedy_answers_with_a_cache_equal_those_without(config: ShowOConfig) -> None:
    """Questions of different length in one batch, about different images and about none."""
    showo = family(config)
    module = perturbed(showo)
    with torch.no_grad():  # words, not codes
        module.showo.lm_head.bias[config.text_vocabulary :] -= 100
    requests = [
        AnswerRequest("Where is the nearest object?", picture("x")),
        AnswerRequest("What colour is the cross, and why is that so?", picture("y")),
        AnswerRequest("What is a cross?"),
    ]
    answers = showo.answer(module, requests, max_new_tokens=6)
    assert answers == [greedy_without_cache(showo, module, request, 6) for request in requests]
    assert len(set(answers)) > 1 and all(answers)
