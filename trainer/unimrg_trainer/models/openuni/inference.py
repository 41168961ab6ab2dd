"""OpenUni at inference: a prompt, with or without an image, to an image or to an answer (docs/method/openuni.md).

Random numbers have the key (seed, row) of their request, so an image does not depend on the others of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from unimrg_trainer.maps.geometry import squash
from unimrg_trainer.models.base import OnRound
from unimrg_trainer.models.common.decoding import greedy
from unimrg_trainer.models.common.tokenizer import ChatTokenizer
from unimrg_trainer.models.openuni.flow import flow_sigmas, sample
from unimrg_trainer.models.openuni.module import OpenUni
from unimrg_trainer.models.openuni.template import Template
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest
from unimrg_trainer.rng import generator


@dataclass(frozen=True)
class SamplingSettings:
    """How an image is generated."""

    steps: int = 20
    guidance: float = 4.5
    """1 is none."""


def query_conditions(model: OpenUni, prompts: Sequence[Tensor]) -> Tensor:
    """Conditions [B, Q, caption width] of the queries behind each prompt, embeddings [P_i, D]."""
    rows = pad_sequence([torch.cat([prompt, model.meta_queries]) for prompt in prompts], batch_first=True)
    # what is padded lies behind the queries, which do not see it
    states = model.language(rows, torch.arange(rows.shape[1], device=rows.device).expand(len(rows), -1))
    starts = torch.tensor([len(prompt) for prompt in prompts], device=rows.device)
    places = starts[:, None] + torch.arange(len(model.meta_queries), device=rows.device)
    return model.conditions(states.take_along_dim(places[..., None], dim=1))


def sample_latents(
    model: OpenUni,
    conditions: Tensor,
    unconditional: Tensor,
    noise: Tensor,
    settings: SamplingSettings,
    on_round: OnRound = lambda done, total: None,
) -> Tensor:
    """Latents [B, C, h, w] from noise of that shape, guided away from `unconditional` (of the conditions' shape)."""

    def predict(x: Tensor, timestep: int) -> Tensor:
        times = torch.full((len(x),), timestep, device=x.device)
        with_prompt = model.velocity(x, times, conditions)
        if settings.guidance == 1:
            return with_prompt
        without = model.velocity(x, times, unconditional)
        return without + settings.guidance * (with_prompt - without)

    config = model.config
    sigmas = flow_sigmas(settings.steps, config.flow_shift, config.train_timesteps)
    return sample(predict, noise, sigmas, config.train_timesteps, on_round)


def greedy_answers(
    model: OpenUni,
    prompts: Sequence[Tensor],
    ends: Sequence[int],
    max_new_tokens: int,
    on_token: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """Token ids of the greedy answer to each prompt, embeddings [P_i, D], up to the first of `ends`.

    Keys and values of the past are cached; padding behind a prompt takes no position.
    """
    padded = pad_sequence(list(prompts), batch_first=True)
    places = torch.arange(padded.shape[1], device=padded.device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=padded.device)
    real = places < lengths[:, None]
    cache = DynamicCache()
    states = model.language(padded, places.expand(len(prompts), -1), cache=cache)
    last = states.take_along_dim((lengths - 1)[:, None, None], dim=1)

    def advance(tokens: Tensor, step: int) -> Tensor:
        sees = torch.cat([real, real.new_ones(len(real), step + 1)], dim=1)[:, None, None]
        states = model.language(model.embed(tokens), (lengths + step)[:, None], sees, cache)
        return model.logits(states[:, 0])

    return greedy(model.logits(last[:, 0]), advance, ends, max_new_tokens, on_token)


class Inference:
    """Generates and answers with one model in evaluation mode."""

    def __init__(
        self, model: OpenUni, template: Template, tokenizer: ChatTokenizer, features: Callable[[Tensor], Tensor]
    ) -> None:
        """`features` turns uint8 [B, S, S, 3] into h [B, K, D]."""
        self._model = model
        self._template = template
        self._tokenizer = tokenizer
        self._features = features
        weight = model.meta_queries
        self._device, self._dtype = weight.device, torch.promote_types(weight.dtype, torch.float32)

    @torch.inference_mode()
    def generate(self, requests: Sequence[GenerateRequest], settings: SamplingSettings, on_round: OnRound) -> Tensor:
        """Generate the latents of one image for each request: [B, C, h, w]."""
        model, template = self._model, self._template
        size, shape = model.config.image_size, model.config.latent_shape
        images = [None if r.image is None else squash(r.image, size) for r in requests]
        texts = [template.prompt(r.prompt, with_image=r.image is not None) for r in requests]
        conditions = query_conditions(model, self._prompts(images, texts))
        unconditional = query_conditions(model, self._prompts([None], [template.unconditional()]))
        noises = [
            generator("generate", r.seed, r.row, "noise").standard_normal(shape, dtype=np.float32) for r in requests
        ]
        noise = torch.from_numpy(np.stack(noises)).to(self._device, self._dtype)
        return sample_latents(model, conditions, unconditional.expand_as(conditions), noise, settings, on_round)

    @torch.inference_mode()
    def answer(
        self, requests: Sequence[AnswerRequest], *, max_new_tokens: int, on_token: Callable[[], None] = lambda: None
    ) -> list[str]:
        """Answer each request greedily."""
        tokenizer, size = self._tokenizer, self._model.config.vision.size
        images = [None if r.image is None else squash(r.image, size) for r in requests]
        texts = [self._template.question(r.prompt, with_image=r.image is not None) for r in requests]
        ends = (tokenizer.turn_end, tokenizer.text_end)
        answers = greedy_answers(self._model, self._prompts(images, texts), ends, max_new_tokens, on_token)
        return [tokenizer.decode(answer) for answer in answers]

    def _prompts(self, images: Sequence[np.ndarray | None], texts: Sequence[list[int]]) -> list[Tensor]:
        """Embeddings of each prompt [P_i, D]: opening and square image if there is one, then the text's ids."""
        squares = [image for image in images if image is not None]
        features: list[Tensor] = []
        if squares:
            features = list(self._features(torch.from_numpy(np.stack(squares)).to(self._device)).to(self._dtype))
        remaining = iter(features)
        opening = self._embed(self._template.opening())
        return [
            torch.cat([*([] if image is None else [opening, next(remaining)]), self._embed(ids)])
            for image, ids in zip(images, texts, strict=True)
        ]

    def _embed(self, ids: list[int]) -> Tensor:
        return self._model.embed(torch.tensor(ids, dtype=torch.int64, device=self._device))
