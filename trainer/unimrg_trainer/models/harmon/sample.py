"""Harmon at inference: an image and a prompt to an image, token by token; an image and a question to an answer.

Random numbers are addressed by (seed, row), so an image does not depend on how many are made together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unimrg_trainer.models.harmon.diffusion import Schedule, ancestral_sample, respaced_schedule
from unimrg_trainer.models.harmon.language import Cache, causal_beyond
from unimrg_trainer.models.harmon.module import Harmon
from unimrg_trainer.models.harmon.template import Template
from unimrg_trainer.models.harmon.tokenizer import TextTokenizer
from unimrg_trainer.rng import generator


@dataclass(frozen=True)
class SamplingSettings:
    """How an image is made (method.md §2.1.9)."""

    steps: int = 32
    """In how many rounds the tokens are filled in."""
    diffusion_steps: int = 100
    guidance: float = 3.0
    """1 is none."""
    temperature: float = 1.0


def hidden_after(tokens: int, steps: int) -> list[int]:
    """How many tokens are still hidden after each of `steps` rounds: a cosine that ends at 0."""
    left, counts = tokens, []
    for step in range(steps - 1):
        left = max(1, min(left - 1, math.floor(tokens * math.cos(math.pi / 2 * (step + 1) / steps))))
        counts.append(left)
    return [*counts, 0]


class _Half:
    """One side of guidance: a prompt in the cache, behind which ever more visible tokens of the target are read."""

    def __init__(self, model: Harmon, prompt: Tensor) -> None:
        self._model = model
        self._cache = Cache()
        positions = torch.arange(prompt.shape[1], device=prompt.device).expand(prompt.shape[0], -1)
        model.language(prompt, positions, cache=self._cache)
        self._cache.frozen = True

    def conditions(self, encoded: Tensor, grid: Tensor, grid_hidden: Tensor) -> Tensor:
        """Conditions of every token [B, S, d], given buffers and visible tokens encoded [B, b + V, d]."""
        model, buffers, prompt = self._model, self._model.config.mar.buffers, self._cache.length
        projected = model.proj_in(encoded).roll(-buffers, dims=1)
        batch, length = projected.shape[:2]
        positions = torch.arange(prompt, prompt + length, device=encoded.device).expand(batch, -1)
        sees = causal_beyond(prompt, length, encoded.device)
        states = model.language(projected, positions, sees, self._cache).roll(buffers, dims=1)
        return model.conditions(encoded, states, grid, grid_hidden)


@torch.inference_mode()
def sample_tokens(
    model: Harmon,
    template: Template,
    images: Tensor,
    prompt: str,
    *,
    seed: int,
    settings: SamplingSettings,
    rows: Sequence[int],
    limit: Tensor | None = None,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Make one image's tokens for each input image: [B, S, C] → [B, S, C].

    Image i draws from the address (seed, rows[i]). `limit` [C] is the codec's, if it has one.
    `on_round(done, total)` is called before every round of filling in.
    """
    config, batch = model.config, images.shape[0]
    device, dtype = images.device, images.dtype
    limit = None if limit is None else limit.to(device, dtype)
    halves = [_Half(model, _prompt_with_image(model, template, images, prompt))]
    if settings.guidance != 1:
        ids = torch.tensor(template.unconditional(), device=device).expand(batch, -1)
        halves.append(_Half(model, model.embed(ids)))
    order = np.stack([generator("generate", seed, row, "order").permutation(config.tokens) for row in rows])
    schedule = respaced_schedule(config.train_timesteps, settings.diffusion_steps)
    tokens = torch.zeros_like(images)
    left = config.tokens
    for step, after in enumerate(hidden_after(config.tokens, settings.steps)):
        on_round(step, settings.steps)
        chosen = torch.from_numpy(order[:, after:left]).to(device)
        if chosen.shape[1] == 0:  # more rounds than tokens
            continue
        visible, grid, grid_hidden = (
            torch.from_numpy(part).to(device) for part in _grid(order[:, left:], config.mar.buffers, config.tokens)
        )
        encoded = model.mar.encode(tokens.take_along_dim(visible[..., None], dim=1), visible)
        conditions = [half.conditions(encoded, grid, grid_hidden) for half in halves]
        picked = [c.take_along_dim(chosen[..., None], dim=1).flatten(0, 1) for c in conditions]
        noise = _noise(seed, rows, step, settings.diffusion_steps, chosen.shape[1], config.codec_channels)
        drawn = _draw(model, picked, noise.to(device, dtype), schedule, settings, limit)
        drawn = drawn.reshape(*chosen.shape, config.codec_channels)
        tokens.scatter_(1, chosen[..., None].expand_as(drawn), drawn)
        left = after
    return tokens


def _prompt_with_image(model: Harmon, template: Template, images: Tensor, prompt: str) -> Tensor:
    """Embeddings of opening, image and prompt [B, P, D]."""
    return _around_image(model, images, template.opening(), template.prompt(prompt))


def _around_image(model: Harmon, images: Tensor, before: list[int], after: list[int]) -> Tensor:
    features = model.features(images).roll(-model.config.mar.buffers, dims=1)
    texts = [
        model.embed(torch.tensor(ids, dtype=torch.int64, device=images.device)).expand(images.shape[0], -1, -1)
        for ids in (before, after)
    ]
    return torch.cat([texts[0], features, texts[1]], dim=1)


def _grid(visible: np.ndarray, buffers: int, tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raster-ordered visible tokens [B, V], and the decoder's grid and hidden places [B, b + S] for them."""
    batch, count = visible.shape
    visible = np.sort(visible, axis=1)
    grid = np.zeros((batch, buffers + tokens), dtype=np.int64)
    hidden = np.ones((batch, buffers + tokens), dtype=bool)
    places = np.concatenate([np.tile(np.arange(buffers), (batch, 1)), buffers + visible], axis=1)
    sources = np.arange(batch)[:, None] * (buffers + count) + np.arange(buffers + count)
    np.put_along_axis(grid, places, sources, axis=1)
    np.put_along_axis(hidden, places, False, axis=1)
    return visible, grid, hidden


def _noise(seed: int, rows: Sequence[int], step: int, diffusion_steps: int, tokens: int, channels: int) -> Tensor:
    """Start and steps of the diffusion of this round's tokens, [diffusion_steps + 1, B · tokens, C]."""
    shape = (diffusion_steps + 1, tokens, channels)
    parts = [generator("generate", seed, row, "noise", step).standard_normal(shape, dtype=np.float32) for row in rows]
    return torch.from_numpy(np.concatenate(parts, axis=1))


def _draw(
    model: Harmon,
    conditions: Sequence[Tensor],
    noise: Tensor,
    schedule: Schedule,
    settings: SamplingSettings,
    limit: Tensor | None,
) -> Tensor:
    """Sample tokens from their conditions, guided in ε only: the variance is the conditional half's."""
    net = model.mar.diffloss.net

    def predict(x: Tensor, timestep: int) -> Tensor:
        conditional = net.at_one_time(x, timestep, conditions[0])
        if len(conditions) == 1:
            return conditional
        noise_with, variance = conditional.chunk(2, dim=-1)
        noise_without, _ = net.at_one_time(x, timestep, conditions[1]).chunk(2, dim=-1)
        guided = noise_without + settings.guidance * (noise_with - noise_without)
        return torch.cat([guided, variance], dim=-1)

    return ancestral_sample(predict, noise, schedule, settings.temperature, limit)


@torch.inference_mode()
def answer_questions(
    model: Harmon,
    template: Template,
    tokenizer: TextTokenizer,
    images: Tensor,
    questions: Sequence[str],
    *,
    max_new_tokens: int,
) -> list[str]:
    """Answer one question about each image [B, S, C], greedily, with keys and values of the past cached.

    Questions are filled up to the longest; what is filled up is masked and takes no position.
    """
    texts = [template.question(question) for question in questions]
    longest = max(len(text) for text in texts)
    device, batch = images.device, len(texts)
    filled = [text + [tokenizer.text_end] * (longest - len(text)) for text in texts]
    opening = model.embed(torch.tensor(template.opening(), device=device)).expand(batch, -1, -1)
    features = model.features(images).roll(-model.config.mar.buffers, dims=1)
    prompt = torch.cat([opening, features, model.embed(torch.tensor(filled, device=device))], dim=1)
    length = prompt.shape[1]
    ends = torch.tensor([length - longest + len(text) for text in texts], device=device)
    cache = Cache()
    places = torch.arange(length + max_new_tokens, device=device)
    states = model.language(prompt, places[:length].expand(batch, -1), cache=cache)
    last = states.take_along_dim((ends - 1)[:, None, None], dim=1)
    real = (places < ends[:, None]) | (places >= length)
    answers: list[list[int]] = [[] for _ in texts]
    running = set(range(batch))
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
        sees = real[:, None, None, : length + step + 1]
        last = model.language(model.embed(chosen[:, None]), (ends + step)[:, None], sees, cache)
    return [tokenizer.decode(answer) for answer in answers]
