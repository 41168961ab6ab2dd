"""Harmon at inference: a prompt, with or without an image, to an image or to an answer (docs/method/harmon.md).

Random numbers have the key (seed, row) of their request, so an image does not depend on the others of its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from unimrg_trainer.maps.geometry import pad_square, squash
from unimrg_trainer.models.base import OnRound
from unimrg_trainer.models.common.tokenizer import ChatTokenizer
from unimrg_trainer.models.harmon.collate import decoder_grid
from unimrg_trainer.models.harmon.diffusion import Schedule, ancestral_sample, respaced_schedule
from unimrg_trainer.models.harmon.module import Harmon
from unimrg_trainer.models.harmon.template import UNCONDITIONAL_PROMPT, Template
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest
from unimrg_trainer.rng import generator


@dataclass(frozen=True)
class SamplingSettings:
    """How an image is generated."""

    steps: int = 32
    """In how many rounds the masked tokens are filled in."""
    diffusion_steps: int = 100
    guidance: float = 3.0
    """1 is none."""


def masked_after(tokens: int, steps: int) -> list[int]:
    """How many tokens are still masked after each of `steps` rounds: a cosine that ends at 0."""
    left, counts = tokens, []
    for step in range(steps - 1):
        left = max(1, min(left - 1, math.floor(tokens * math.cos(math.pi / 2 * (step + 1) / steps))))
        counts.append(left)
    return [*counts, 0]


class _CachedPrompts:
    """Prompts of any lengths, read once: keys and values for the tokens that follow. Padding takes no position."""

    def __init__(self, model: Harmon, prompts: Sequence[Tensor]) -> None:
        """`prompts` are embeddings [P_i, D]."""
        padded = pad_sequence(list(prompts), batch_first=True)
        places = torch.arange(padded.shape[1], device=padded.device)
        self.cache = DynamicCache()
        self.states = model.language(padded, places.expand(len(prompts), -1), cache=self.cache)
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=padded.device)
        self._model = model
        self._real = places < self.lengths[:, None]

    def visibility(self, known: int, new: int) -> Tensor:
        """[B, 1, new, P + known + new]: each new token sees its prompt, what is known, the new ones up to itself."""
        behind = torch.ones(new, known + new, dtype=torch.bool, device=self._real.device).tril(known)
        batch = len(self._real)
        return torch.cat([self._real[:, None].expand(-1, new, -1), behind.expand(batch, -1, -1)], dim=-1)[:, None]

    def conditions(self, encoded: Tensor, grid: Tensor, grid_masked: Tensor) -> Tensor:
        """Conditions of every token [B, S, d], given buffers and visible tokens encoded [B, b + V, d]."""
        model, buffers = self._model, self._model.config.mar.buffers
        projected = model.proj_in(encoded).roll(-buffers, dims=1)
        new = projected.shape[1]
        positions = self.lengths[:, None] + torch.arange(new, device=encoded.device)
        states = model.language(projected, positions, self.visibility(0, new), self.cache).roll(buffers, dims=1)
        self.cache.crop(-new)
        return model.conditions(encoded, states, grid, grid_masked)


class Inference:
    """Generates and answers with one model in evaluation mode."""

    def __init__(
        self,
        model: Harmon,
        template: Template,
        tokenizer: ChatTokenizer,
        limit: Tensor | None,
        encode: Callable[[Tensor, torch.dtype], Tensor],
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
        """Generate the tokens of one image for each request: [B, S, C]."""
        model, template, config = self._model, self._template, self._model.config
        images = [None if r.image is None else squash(r.image, config.image_size) for r in requests]
        prompted = [_CachedPrompts(model, self._prompts(images, [template.prompt(r.prompt) for r in requests]))]
        if settings.guidance != 1:
            unconditional = self._prompts([None], [template.prompt(UNCONDITIONAL_PROMPT)])
            prompted.append(_CachedPrompts(model, unconditional * len(requests)))
        order = np.stack([generator("generate", r.seed, r.row, "order").permutation(config.tokens) for r in requests])
        schedule = respaced_schedule(config.train_timesteps, settings.diffusion_steps)
        shape = (len(requests), config.tokens, config.codec_channels)
        tokens = torch.zeros(shape, device=self._device, dtype=self._dtype)
        left = config.tokens
        for step, after in enumerate(masked_after(config.tokens, settings.steps)):
            on_round(step, settings.steps)
            chosen = torch.from_numpy(order[:, after:left]).to(self._device)
            if chosen.shape[1] == 0:  # more rounds than tokens
                continue
            shown = np.sort(order[:, left:], axis=1)
            grids = decoder_grid(config.mar.buffers, config.tokens, shown, np.ones_like(shown, dtype=bool))
            visible, grid, grid_masked = (torch.from_numpy(part).to(self._device) for part in (shown, *grids))
            encoded = model.mar.encode(tokens.take_along_dim(visible[..., None], dim=1), visible)
            conditions = [prompts.conditions(encoded, grid, grid_masked) for prompts in prompted]
            picked = [c.take_along_dim(chosen[..., None], dim=1).flatten(0, 1) for c in conditions]
            noise = _noise(requests, step, settings.diffusion_steps, chosen.shape[1], config.codec_channels)
            drawn = self._draw(picked, noise.to(self._device, self._dtype), schedule, settings.guidance)
            drawn = drawn.reshape(*chosen.shape, config.codec_channels)
            tokens.scatter_(1, chosen[..., None].expand_as(drawn), drawn)
            left = after
        return tokens

    @torch.inference_mode()
    def answer(self, requests: Sequence[AnswerRequest], *, max_new_tokens: int) -> list[str]:
        """Answer each request greedily, with keys and values of the past cached."""
        model, tokenizer, size = self._model, self._tokenizer, self._model.config.image_size
        images = [None if r.image is None else pad_square(r.image, size) for r in requests]
        texts = [self._template.question(r.prompt, with_image=r.image is not None) for r in requests]
        prompts = _CachedPrompts(model, self._prompts(images, texts))
        last = prompts.states.take_along_dim((prompts.lengths - 1)[:, None, None], dim=1)
        answers: list[list[int]] = [[] for _ in requests]
        running = set(range(len(requests)))
        for step in range(max_new_tokens):
            chosen = model.logits(last[:, 0]).argmax(-1)
            for row, token in enumerate(chosen.tolist()):
                if row in running:
                    if token in (tokenizer.turn_end, tokenizer.text_end):
                        running.discard(row)
                    else:
                        answers[row].append(token)
            if not running or step == max_new_tokens - 1:
                break
            positions = (prompts.lengths + step)[:, None]
            last = model.language(model.embed(chosen[:, None]), positions, prompts.visibility(step, 1), prompts.cache)
        return [tokenizer.decode(answer) for answer in answers]

    def _prompts(self, images: Sequence[np.ndarray | None], texts: Sequence[list[int]]) -> list[Tensor]:
        """Embeddings of each prompt [P_i, D]: the opening, the square image if there is one, the text's ids."""
        model = self._model
        squares = [image for image in images if image is not None]
        features: list[Tensor] = []
        if squares:
            pixels = torch.from_numpy(np.stack(squares)).to(self._device)
            tokens = self._encode(pixels, self._dtype)
            features = list(model.features(tokens).roll(-model.config.mar.buffers, dims=1))
        remaining = iter(features)
        opening = self._embed(self._template.opening())
        return [
            torch.cat([opening, *([] if image is None else [next(remaining)]), self._embed(ids)])
            for image, ids in zip(images, texts, strict=True)
        ]

    def _embed(self, ids: list[int]) -> Tensor:
        return self._model.embed(torch.tensor(ids, dtype=torch.int64, device=self._device))

    def _draw(self, conditions: Sequence[Tensor], noise: Tensor, schedule: Schedule, guidance: float) -> Tensor:
        """Sample tokens [N, C] from their conditions, guided in ε only: the variance is the prompt's own."""
        net = self._model.mar.diffloss.net

        def predict(x: Tensor, timestep: int) -> Tensor:
            conditional = net.at_one_time(x, timestep, conditions[0])
            if len(conditions) == 1:
                return conditional
            noise_with, variance = conditional.chunk(2, dim=-1)
            noise_without, _ = net.at_one_time(x, timestep, conditions[1]).chunk(2, dim=-1)
            return torch.cat([noise_without + guidance * (noise_with - noise_without), variance], dim=-1)

        return ancestral_sample(predict, noise, schedule, self._limit)


def _noise(requests: Sequence[GenerateRequest], step: int, diffusion_steps: int, tokens: int, channels: int) -> Tensor:
    """Start and steps of the diffusion of this round's tokens, [diffusion_steps + 1, B · tokens, C]."""
    shape = (diffusion_steps + 1, tokens, channels)
    parts = [
        generator("generate", r.seed, r.row, "noise", step).standard_normal(shape, dtype=np.float32) for r in requests
    ]
    return torch.from_numpy(np.concatenate(parts, axis=1))
