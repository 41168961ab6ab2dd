"""Harmon at inference: a prompt, with or without an image, to an image or to an answer (docs/method/harmon.md).

Random numbers have the key (seed, row) of their request, so an image does not depend on the others of its batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from unimrg_trainer.maps.geometry import pad_square, squash
from unimrg_trainer.models.base import OnRound
from unimrg_trainer.models.common.tokenizer import ChatTokenizer
from unimrg_trainer.models.harmon.module import Harmon
from unimrg_trainer.models.harmon.sampling import (
    CachedPrompts,
    Prompt,
    SamplingSettings,
    embed_prompts,
    greedy_answers,
    sample_tokens,
)
from unimrg_trainer.models.harmon.template import UNCONDITIONAL_PROMPT, Template
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest
from unimrg_trainer.rng import generator


class Inference:
    """Generates and answers with one model in evaluation mode."""

    def __init__(
        self,
        model: Harmon,
        template: Template,
        tokenizer: ChatTokenizer,
        limit: Tensor | None,
        encode: Callable[[Tensor], Tensor],
    ) -> None:
        """`limit` [C] is the codec's, if it has one; `encode` turns uint8 [B, H, H, 3] into tokens [B, S, C]."""
        self._model = model
        self._template = template
        self._tokenizer = tokenizer
        self._encode = encode
        weight = next(model.parameters())
        self._device, self._dtype = weight.device, torch.promote_types(weight.dtype, torch.float32)
        self._limit = None if limit is None else limit.to(self._device, self._dtype)

    @torch.inference_mode()
    def generate(self, requests: Sequence[GenerateRequest], settings: SamplingSettings, on_round: OnRound) -> Tensor:
        """Generate the tokens of one image for each request: [B, S, C].

        Requests with an image take `settings.steps` rounds together, then those without `settings.text_steps`.
        """
        config = self._model.config
        tokens = torch.zeros(
            len(requests), config.tokens, config.codec_channels, device=self._device, dtype=self._dtype
        )
        groups = (
            ([index for index, request in enumerate(requests) if request.image is not None], settings.steps),
            ([index for index, request in enumerate(requests) if request.image is None], settings.text_steps),
        )
        total = sum(rounds for indices, rounds in groups if indices)
        done = itertools.count()
        for indices, rounds in groups:
            if indices:
                chosen = [requests[index] for index in indices]
                tokens[indices] = self._generate(chosen, settings, rounds, lambda: on_round(next(done), total))
        return tokens

    def _generate(
        self, requests: Sequence[GenerateRequest], settings: SamplingSettings, rounds: int, on_round: Callable[[], None]
    ) -> Tensor:
        """Tokens of requests that all have an image, or none."""
        model, template, config = self._model, self._template, self._model.config
        images = [None if r.image is None else squash(r.image, config.image_size) for r in requests]
        texts = [template.prompt(r.prompt) if r.image is not None else template.caption(r.prompt) for r in requests]
        prompted = [CachedPrompts(model, self._prompts(images, texts))]
        if settings.guidance != 1:
            unconditional = self._prompts([None], [template.prompt(UNCONDITIONAL_PROMPT)])
            prompted.append(CachedPrompts(model, unconditional * len(requests)))
        orders = np.stack([generator("generate", r.seed, r.row, "order").permutation(config.tokens) for r in requests])

        def noise(index: int, chosen: Tensor) -> Tensor:
            shape = (settings.diffusion_steps + 1, chosen.shape[1], config.codec_channels)
            keyed = (generator("generate", r.seed, r.row, "noise", index) for r in requests)
            parts = [one.standard_normal(shape, dtype=np.float32) for one in keyed]
            return torch.from_numpy(np.concatenate(parts, axis=1))

        return sample_tokens(model, prompted, orders, noise, rounds, settings, limit=self._limit, on_round=on_round)

    @torch.inference_mode()
    def answer(
        self, requests: Sequence[AnswerRequest], *, max_new_tokens: int, on_token: Callable[[], None] = lambda: None
    ) -> list[str]:
        """Answer each request greedily, with keys and values of the past cached."""
        tokenizer, size = self._tokenizer, self._model.config.image_size
        images = [None if r.image is None else pad_square(r.image, size) for r in requests]
        texts = [self._template.question(r.prompt, with_image=r.image is not None) for r in requests]
        prompts = CachedPrompts(self._model, self._prompts(images, texts))
        answers = greedy_answers(
            self._model, prompts, (tokenizer.turn_end, tokenizer.text_end), max_new_tokens, on_token
        )
        return [tokenizer.decode(answer) for answer in answers]

    def _prompts(self, images: Sequence[np.ndarray | None], texts: Sequence[list[int]]) -> list[Tensor]:
        """Embeddings of each prompt [P_i, D]: the opening, the square image if there is one, the text's ids."""
        squares = [image for image in images if image is not None]
        if squares:
            latents = self._encode(torch.from_numpy(np.stack(squares)).to(self._device)).to(self._dtype)
        else:
            latents = torch.zeros(0, device=self._device)
        indices = iter(range(len(squares)))
        opening = self._template.opening()
        prompts = [
            Prompt(opening, ids, None if image is None else next(indices))
            for image, ids in zip(images, texts, strict=True)
        ]
        return embed_prompts(self._model, prompts, latents)
