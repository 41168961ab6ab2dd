"""Harmon's decoding, a function of its weights and of what is passed in: image tokens from orders and noise, and
greedy texts (docs/method/harmon.md). Nothing is drawn here, and no image is opened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from unimrg_trainer.models.common.decoding import greedy
from unimrg_trainer.models.harmon.collate import decoder_grid
from unimrg_trainer.models.harmon.diffusion import Schedule, ancestral_sample, respaced_schedule
from unimrg_trainer.models.harmon.module import Harmon


@dataclass(frozen=True)
class SamplingSettings:
    """How images are generated. The defaults are the published ones."""

    steps: int = 32
    """In how many rounds the masked tokens are filled in, where an image is given."""
    text_steps: int = 64
    """The same where there is none."""
    diffusion_steps: int = 100
    guidance: float = 3.0
    """1 is none."""
    guidance_schedule: Literal["Constant", "Linear"] = "Constant"

    def guidance_at(self, masked: int, tokens: int) -> float:
        """Guidance of the round after which `masked` of `tokens` are left; a linear one counts at least one."""
        if self.guidance_schedule == "Constant":
            return self.guidance
        return 1 + (self.guidance - 1) * (1 - max(1, masked) / tokens)


@dataclass(frozen=True)
class Prompt:
    """What stands before a target or an answer."""

    before: Sequence[int]
    """Token ids before the image."""
    after: Sequence[int]
    """Token ids behind it, or behind `before` where there is no image."""
    image: int | None = None
    """Index of the image among given latents."""


def embed_prompts(model: Harmon, prompts: Sequence[Prompt], latents: Tensor) -> list[Tensor]:
    """Embeddings of each prompt [P_i, D]; latents [U, S, C] are the tokens of images that they show."""
    features = model.features(latents).roll(-model.config.mar.buffers, dims=1) if len(latents) else latents
    device = next(model.parameters()).device

    def embed(ids: Sequence[int]) -> Tensor:
        return model.embed(torch.tensor(list(ids), dtype=torch.int64, device=device))

    return [
        torch.cat([embed(p.before), *([] if p.image is None else [features[p.image]]), embed(p.after)]) for p in prompts
    ]


class CachedPrompts:
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


def masked_after(tokens: int, steps: int) -> list[int]:
    """How many tokens are still masked after each of `steps` rounds: a cosine that ends at 0."""
    left, counts = tokens, []
    for step in range(steps - 1):
        left = max(1, min(left - 1, math.floor(tokens * math.cos(math.pi / 2 * (step + 1) / steps))))
        counts.append(left)
    return [*counts, 0]


NoiseOf = Callable[[int, Tensor], Tensor]
"""(round, tokens int [B, n] that it fills in) → start and steps of their diffusion, [diffusion_steps + 1, B·n, C]."""


@torch.inference_mode()
def sample_tokens(
    model: Harmon,
    prompted: Sequence[CachedPrompts],
    orders: np.ndarray,
    noise: NoiseOf,
    rounds: int,
    settings: SamplingSettings,
    *,
    limit: Tensor | None = None,
    on_round: Callable[[], None] = lambda: None,
) -> Tensor:
    """Fill in the tokens of one image for each prompt: [B, S, C].

    `prompted` holds the prompts and, where guidance is not 1, as many unconditional ones; orders int [B, S] are
    permutations, whose last tokens are filled in first; `rounds` is how many there are, whatever `settings` say;
    `on_round` is called before each; `limit` [C] bounds the values of a token (`diffusion.ancestral_sample`).
    """
    config = model.config
    weight = next(model.parameters())
    tokens = torch.zeros(
        *orders.shape,
        config.codec_channels,
        device=weight.device,
        dtype=torch.promote_types(weight.dtype, torch.float32),
    )
    schedule = respaced_schedule(config.train_timesteps, settings.diffusion_steps)
    left = config.tokens
    for index, after in enumerate(masked_after(config.tokens, rounds)):
        on_round()
        chosen = torch.from_numpy(orders[:, after:left]).to(tokens.device)
        if chosen.shape[1] == 0:  # more rounds than tokens
            continue
        shown = np.sort(orders[:, left:], axis=1)
        grids = decoder_grid(config.mar.buffers, config.tokens, shown, np.ones_like(shown, dtype=bool))
        visible, grid, grid_masked = (torch.from_numpy(part).to(tokens.device) for part in (shown, *grids))
        encoded = model.mar.encode(tokens.take_along_dim(visible[..., None], dim=1), visible)
        conditions = [prompts.conditions(encoded, grid, grid_masked) for prompts in prompted]
        picked = [c.take_along_dim(chosen[..., None], dim=1).flatten(0, 1) for c in conditions]
        guidance = settings.guidance_at(after, config.tokens)
        drawn = _draw(model, picked, noise(index, chosen).to(tokens), schedule, guidance, limit)
        drawn = drawn.reshape(*chosen.shape, config.codec_channels)
        tokens.scatter_(1, chosen[..., None].expand_as(drawn), drawn)
        left = after
    return tokens


def _draw(
    model: Harmon,
    conditions: Sequence[Tensor],
    noise: Tensor,
    schedule: Schedule,
    guidance: float,
    limit: Tensor | None,
) -> Tensor:
    """Sample tokens [N, C] from their conditions, guided in ε only: the variance is the prompt's own."""
    net = model.mar.diffloss.net

    def predict(x: Tensor, timestep: int) -> Tensor:
        conditional = net.at_one_time(x, timestep, conditions[0])
        if len(conditions) == 1:
            return conditional
        noise_with, variance = conditional.chunk(2, dim=-1)
        noise_without, _ = net.at_one_time(x, timestep, conditions[1]).chunk(2, dim=-1)
        return torch.cat([noise_without + guidance * (noise_with - noise_without), variance], dim=-1)

    return ancestral_sample(predict, noise, schedule, limit)


@torch.inference_mode()
def greedy_answers(
    model: Harmon,
    prompts: CachedPrompts,
    ends: Collection[int],
    max_new_tokens: int,
    on_token: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """Most likely token ids behind each prompt, up to the first of `ends` (left out) or `max_new_tokens`."""
    last = prompts.states.take_along_dim((prompts.lengths - 1)[:, None, None], dim=1)

    def advance(tokens: Tensor, step: int) -> Tensor:
        positions = (prompts.lengths + step)[:, None]
        states = model.language(model.embed(tokens), positions, prompts.visibility(step, 1), prompts.cache)
        return model.logits(states[:, 0])

    return greedy(model.logits(last[:, 0]), advance, ends, max_new_tokens, on_token)
