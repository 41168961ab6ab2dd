"""Sampling codes in rounds, the surest first (MaskGIT, Chang et al. 2022; docs/method/showo.md)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unimrg_trainer.models.base import OnRound

UNKNOWN = -1
"""In place of a code that is still masked."""


@dataclass(frozen=True)
class Draws:
    """Everything random, uniform in (0, 1): K rounds of B images of N codes."""

    choices: Tensor
    """[K, B, N]: which code is chosen, by the inverse of the cumulative distribution."""
    confidences: Tensor
    """[K, B, N]: what Gumbel noise is made of."""


def sample_codes(
    scores: Callable[[Tensor], Tensor], draws: Draws, temperature: float, on_round: OnRound = lambda done, total: None
) -> Tensor:
    """Draw the codes of images, int [B, N].

    `scores` takes codes int [B, N], UNKNOWN where masked, and returns [B, N, codebook]. After a round s (0-based) of K,
    ⌊N·cos(π/2·(s+1)/K)⌋ codes are masked again, at least one and fewer than before: those with the lowest
    log p + τ·noise; τ starts at `temperature` and is multiplied by 1 − (s+1)/K in every round.
    """
    rounds, _, tokens = draws.choices.shape
    codes = torch.full_like(draws.choices[0], UNKNOWN, dtype=torch.int64)
    for index in range(rounds):
        on_round(index, rounds)
        probabilities = scores(codes).softmax(-1)
        unknown = codes == UNKNOWN
        codes = torch.where(unknown, choose(probabilities, draws.choices[index]), codes)
        share = (index + 1) / rounds
        temperature *= 1 - share
        if index == rounds - 1:
            break
        picked = probabilities.gather(-1, codes[..., None])[..., 0]
        noise = -_log(-_log(draws.confidences[index]))
        confidence = torch.where(unknown, _log(picked) + temperature * noise, math.inf)
        # in float32, as the published sampler: the floor depends on it
        scheduled = int((tokens * torch.cos(torch.tensor(share) * math.pi * 0.5)).floor())
        masked = (unknown.sum(-1, keepdim=True) - 1).clamp(max=scheduled).clamp(min=1)
        limit = confidence.sort(-1).values.gather(-1, masked)
        codes = torch.where(confidence < limit, UNKNOWN, codes)
    return codes


def choose(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The first code whose cumulative probability exceeds `uniform`: [..., codebook], [...] → int [...]."""
    cumulative = probabilities.cumsum(-1)
    threshold = uniform[..., None] * cumulative[..., -1:]
    return (cumulative <= threshold).sum(-1).clamp(max=probabilities.shape[-1] - 1)


def _log(x: Tensor) -> Tensor:
    return x.clamp(min=1e-20).log()
