"""The mathematics of the per-token diffusion loss: schedule, noising, learned-range variance, ancestral sampling.

Formulas from Ho et al. 2020 (DDPM) and Nichol & Dhariwal 2021 (cosine schedule, learned variance), as
docs/method/harmon.md fixes them. Tables are float64 and stay on the host: whoever draws time steps looks their
coefficients up there, so that no table is copied to a device during training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, repeat

import numpy as np
import torch
from torch import Tensor

BIN = 1 / 255
"""Half the width of the bin whose probability is the likelihood at t = 0."""

SMALLEST_PROBABILITY = 1e-12


def cosine_betas(steps: int) -> np.ndarray:
    """β_t of the cosine schedule, float64 [steps]."""

    def level(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    return np.array([min(1 - level((t + 1) / steps) / level(t / steps), 0.999) for t in range(steps)])


@dataclass(frozen=True, eq=False)
class Schedule:
    """What follows from β: float64 [T] each, and the time steps that the network is given, int [T]."""

    betas: np.ndarray
    timesteps: np.ndarray
    kept: np.ndarray
    """ᾱ_t = Π (1 − β): the share of the signal's variance that is left."""
    log_posterior: np.ndarray
    """log β̃_t of q(x_{t−1} | x_t, x_0); at t = 0, where it is −∞, the value at t = 1 (of a single step: log β)."""
    log_range: np.ndarray
    """log β_t − log β̃_t: how far the learned variance can go beyond the posterior's."""
    mean_weight: np.ndarray
    """Factor w_t with (μ̃ − μ_θ)² / β̃_t = w_t (ε − ε̂)²: β_t / (α_t (1 − ᾱ_{t−1})); 0 at t = 0."""
    posterior_from_start: np.ndarray
    """Coefficient of x_0 in the mean of q(x_{t−1} | x_t, x_0)."""
    posterior_from_now: np.ndarray
    """Coefficient of x_t in that mean."""


def schedule_of(betas: np.ndarray, timesteps: np.ndarray) -> Schedule:
    """Derive a schedule from its β."""
    kept = np.cumprod(1 - betas)
    before = np.append(1.0, kept[:-1])
    variance = betas * (1 - before) / (1 - kept)
    log_posterior = np.log(np.append(variance[1], variance[1:]) if len(betas) > 1 else betas)
    return Schedule(
        betas=betas,
        timesteps=timesteps,
        kept=kept,
        log_posterior=log_posterior,
        log_range=np.log(betas) - log_posterior,
        mean_weight=np.append(0.0, betas[1:] / ((1 - betas[1:]) * (1 - before[1:]))),
        posterior_from_start=betas * np.sqrt(before) / (1 - kept),
        posterior_from_now=(1 - before) * np.sqrt(1 - betas) / (1 - kept),
    )


@lru_cache
def training_schedule(steps: int) -> Schedule:
    """The schedule that models are trained with."""
    return schedule_of(cosine_betas(steps), np.arange(steps))


@lru_cache
def respaced_schedule(train_steps: int, steps: int) -> Schedule:
    """A schedule of `steps` of the training time steps, evenly strided, first and last included.

    The place is added up in floating point and then rounded, as published samplers do: where it comes to lie on a half,
    the sum decides which way it is rounded, and a product would decide otherwise for 278 of the 1000 step counts. Of
    one step it is the last that denoises, t = 0.
    """
    full = training_schedule(train_steps)
    stride = (train_steps - 1) / (steps - 1) if steps > 1 else 1.0
    places = accumulate(repeat(stride, steps - 1), initial=0.0)
    used = np.array([round(place) for place in places])
    kept = full.kept[used]
    return schedule_of(1 - kept / np.append(1.0, kept[:-1]), used)


ROW_COEFFICIENTS = 5


def row_coefficients(schedule: Schedule, timesteps: np.ndarray) -> np.ndarray:
    """Look up what the loss needs: float64 [ROW_COEFFICIENTS, *timesteps.shape].

    In order: √ᾱ, √(1−ᾱ), mean_weight, log_range, log_posterior.
    """
    kept = schedule.kept[timesteps]
    return np.stack(
        [
            np.sqrt(kept),
            np.sqrt(1 - kept),
            schedule.mean_weight[timesteps],
            schedule.log_range[timesteps],
            schedule.log_posterior[timesteps],
        ]
    )


def q_sample(start: Tensor, noise: Tensor, coefficients: Tensor) -> Tensor:
    """x_t = √ᾱ x_0 + √(1−ᾱ) ε. start, noise [..., C]; coefficients [5, ...]."""
    return coefficients[0, ..., None] * start + coefficients[1, ..., None] * noise


def row_loss(prediction: Tensor, start: Tensor, noise: Tensor, coefficients: Tensor, first_rows: Tensor) -> Tensor:
    """Loss of each diffusion row: mean over channels of (ε − ε̂)² plus the variational bound in bits.

    prediction [N, 2C] = (ε̂, v); start, noise [N, C]; coefficients [5, N]; first_rows int [K], the rows with t = 0
    (known on the host). The bound trains the variance only: ε̂ enters it without gradient. Returns [N].

    With log σ² = log β̃ + f·R, f = (v+1)/2, R = log β − log β̃, the divergence of the two Gaussians is
    ½ (f·R − 1 + e^{−f·R} (1 + w (ε−ε̂)²)): nothing is subtracted that nearly cancels.
    """
    predicted_noise, variance = prediction.chunk(2, dim=-1)
    squared = (noise - predicted_noise).square()
    widened = (variance + 1) * (coefficients[3, :, None] / 2)
    surprise = 1 + coefficients[2, :, None] * squared.detach()
    bound = (0.5 * (widened - 1 + torch.exp(-widened) * surprise)).mean(-1)
    if len(first_rows):
        first = _first_step_bound(
            start[first_rows],
            noise[first_rows],
            predicted_noise.detach()[first_rows],
            widened[first_rows],
            coefficients[:, first_rows],
        )
        bound = bound.index_copy(0, first_rows, first)
    return squared.mean(-1) + bound / math.log(2)


def _first_step_bound(
    start: Tensor, noise: Tensor, predicted_noise: Tensor, widened: Tensor, coefficients: Tensor
) -> Tensor:
    """−log p(x_0 | x_1), the last term of the bound, of a Gaussian discretised to bins of 2/255, in nats [K]."""
    # at t = 0 the posterior mean is the predicted x_0 itself
    noisy = q_sample(start, noise, coefficients)
    mean = (noisy - coefficients[1, :, None] * predicted_noise) / coefficients[0, :, None]
    scale = torch.exp(-0.5 * (coefficients[4, :, None] + widened))
    upper = _normal_cdf((start - mean + BIN) * scale)
    lower = _normal_cdf((start - mean - BIN) * scale)
    # the outermost bins reach to infinity
    upper = torch.where(start > 0.999, 1.0, upper)
    lower = torch.where(start < -0.999, 0.0, lower)
    return -torch.log((upper - lower).clamp(min=SMALLEST_PROBABILITY)).mean(-1)


def _normal_cdf(z: Tensor) -> Tensor:
    """The approximation of the normal distribution function that the published models were trained with."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def ancestral_sample(
    predict: Callable[[Tensor, int], Tensor], noise: Tensor, schedule: Schedule, limit: Tensor | None = None
) -> Tensor:
    """Draw x_0 by ancestral sampling.

    predict(x [N, C], time step) → [N, 2C]; noise [steps + 1, N, C]: the start, then one for each step. Where the range
    of x_0 is known, `limit` [C], its predictions are kept within ± limit: the first step of a cosine schedule
    multiplies an error in ε̂ by 300, which a young network cannot afford. Without a limit nothing is clipped.
    """
    x = noise[0]
    for index, step in enumerate(reversed(range(len(schedule.betas)))):
        predicted_noise, variance = predict(x, int(schedule.timesteps[step])).to(x.dtype).chunk(2, dim=-1)
        kept = float(schedule.kept[step])
        start = (x - math.sqrt(1 - kept) * predicted_noise) / math.sqrt(kept)
        if limit is not None:
            start = start.clamp(-limit, limit)
        x = float(schedule.posterior_from_start[step]) * start + float(schedule.posterior_from_now[step]) * x
        if step > 0:
            log_variance = float(schedule.log_posterior[step]) + (variance + 1) / 2 * float(schedule.log_range[step])
            x = x + torch.exp(0.5 * log_variance) * noise[index + 1]
    return x
