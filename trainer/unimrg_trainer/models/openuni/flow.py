"""Sampling along a flow with DPM-Solver++ (Lu et al. 2022): second order, two steps kept (docs/method/openuni.md)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from unimrg_trainer.models.base import OnRound


def flow_sigmas(steps: int, shift: float, train_timesteps: int) -> list[float]:
    """σ before each of `steps` steps and after the last, decreasing to 0; `shift` > 1 moves them towards noise."""
    even = 1 - np.linspace(1, 1 / train_timesteps, steps + 1)
    shifted = shift * even / (1 + (shift - 1) * even)
    return [float(sigma) for sigma in shifted[::-1]]


def sample(
    predict: Callable[[Tensor, int], Tensor],
    noise: Tensor,
    sigmas: list[float],
    train_timesteps: int,
    on_round: OnRound,
) -> Tensor:
    """Integrate from noise to latents, both [B, C, h, w].

    `predict(x, t)` is the velocity ε − x̂ at the whole time t = ⌊σ·train_timesteps⌋. The first and the last step are of
    first order.
    """
    x, before = noise, torch.zeros_like(noise)
    log_ratio_before = math.nan
    for step, (sigma, after) in enumerate(pairwise(sigmas)):
        on_round(step, len(sigmas) - 1)
        clean = x - sigma * predict(x, int(sigma * train_timesteps))
        if after == 0:
            return clean
        log_ratio = _log_ratio(sigma)
        slope = torch.zeros_like(clean)
        if step:
            slope = (clean - before) * ((_log_ratio(after) - log_ratio) / (log_ratio - log_ratio_before) / 2)
        kept = after / sigma
        x = kept * x + ((1 - after) - kept * (1 - sigma)) * (clean + slope)
        before, log_ratio_before = clean, log_ratio
    raise ValueError("σ does not end at 0")


def _log_ratio(sigma: float) -> float:
    """Half the logarithm of the signal-to-noise ratio (λ in the paper)."""
    return math.log((1 - sigma) / sigma)
