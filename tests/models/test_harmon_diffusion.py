"""The diffusion loss against textbook formulas, written here with other means (products, torch.distributions)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from tests.models.harmon_rows import family
from unimrg_trainer.models.harmon.diffusion import (
    ancestral_sample,
    respaced_schedule,
    row_coefficients,
    row_loss,
    training_schedule,
)

T = 1000
schedule = training_schedule(T)


def squared_cosine(s: float) -> float:
    return math.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2


def test_the_schedule_keeps_what_the_cosine_says() -> None:
    for t in (0, 1, 250, 500, 900):
        assert schedule.kept[t] == pytest.approx(squared_cosine((t + 1) / T) / squared_cosine(0), rel=1e-9)
    assert schedule.betas.max() == 0.999


def published_cdf(z: torch.Tensor) -> torch.Tensor:
    """The published stand-in for the normal distribution function: logistic in z and z³ (docs/method/harmon.md)."""
    return torch.sigmoid(2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z.pow(3)))


def textbook_loss(prediction: torch.Tensor, x0: torch.Tensor, noise: torch.Tensor, t: int) -> torch.Tensor:
    """Loss of one row [C] at time step t, from q(x_{t−1} | x_t, x_0) and p(x_{t−1} | x_t) as distributions."""
    betas = [1 - squared_cosine((i + 1) / T) / squared_cosine(i / T) for i in range(T)]
    betas = [min(beta, 0.999) for beta in betas]
    kept = float(np.prod([1 - beta for beta in betas[: t + 1]]))
    before = float(np.prod([1 - beta for beta in betas[:t]]))
    epsilon, v = prediction.chunk(2)
    x = math.sqrt(kept) * x0 + math.sqrt(1 - kept) * noise

    def posterior_mean(start: torch.Tensor) -> torch.Tensor:
        return (
            math.sqrt(before) * betas[t] / (1 - kept) * start + math.sqrt(1 - betas[t]) * (1 - before) / (1 - kept) * x
        )

    start = (x - math.sqrt(1 - kept) * epsilon.detach()) / math.sqrt(kept)
    first = max(t, 1)
    kept_first = float(np.prod([1 - beta for beta in betas[: first + 1]]))
    kept_before = float(np.prod([1 - beta for beta in betas[:first]]))
    smallest = betas[first] * (1 - kept_before) / (1 - kept_first)
    share = (v + 1) / 2
    deviation = torch.exp(0.5 * (share * math.log(betas[t]) + (1 - share) * math.log(smallest)))
    model = Normal(posterior_mean(start), deviation)
    if t > 0:
        bound = kl_divergence(Normal(posterior_mean(x0), math.sqrt(smallest)), model)
    else:
        standard = [(x0 + edge - model.mean) / deviation for edge in (1 / 255, -1 / 255)]
        upper, lower = (published_cdf(z) for z in standard)
        upper = torch.where(x0 > 0.999, torch.ones_like(x0), upper)
        lower = torch.where(x0 < -0.999, torch.zeros_like(x0), lower)
        bound = -torch.log((upper - lower).clamp(min=1e-12))
    return ((noise - epsilon) ** 2).mean() + bound.mean() / math.log(2)


def test_each_rows_loss_is_the_textbooks() -> None:
    times = np.array([0, 1, 2, 17, 0, 400, 998, 999])
    generator = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(2, len(times), 6, dtype=torch.float64, generator=generator)
    prediction = 0.7 * torch.randn(len(times), 12, dtype=torch.float64, generator=generator)
    prediction[0, :6] = noise[0] + 0.01  # close enough that the bin's probability is not the floor
    prediction.requires_grad_()
    coefficients = torch.from_numpy(row_coefficients(schedule, times))
    ours = row_loss(prediction, x0, noise, coefficients, torch.from_numpy(np.flatnonzero(times == 0)))
    theirs = torch.stack([textbook_loss(prediction[i], x0[i], noise[i], int(t)) for i, t in enumerate(times)])
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)
    for one, other in zip(
        torch.autograd.grad(ours.sum(), prediction), torch.autograd.grad(theirs.sum(), prediction), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_an_untrained_heads_squared_error_is_one() -> None:
    torch.manual_seed(0)
    net = family().build().mar.diffloss.net
    channels = family().config.codec_channels
    generator = np.random.default_rng(2)
    times = generator.integers(1, T, size=(500, 4))
    noise = torch.from_numpy(generator.standard_normal((500, 4, channels), dtype=np.float32))
    prediction = net(noise, torch.from_numpy(times), torch.randn(500, 96))
    assert not prediction.any()
    coefficients = torch.from_numpy(row_coefficients(schedule, times)).float().flatten(1)
    rows = row_loss(prediction.flatten(0, 1), noise.flatten(0, 1), noise.flatten(0, 1), coefficients, torch.tensor([]))
    half = coefficients[3] / 2  # ε̂ = 0 and v = 0: log σ² lies midway
    bound = 0.5 * (half - 1 + torch.exp(-half) * (1 + coefficients[2] * noise.flatten(0, 1).square().mean(-1)))
    squared = rows - bound / math.log(2)
    assert squared.mean().item() == pytest.approx(1, abs=0.01)


def test_the_network_at_one_time_is_the_network() -> None:
    torch.manual_seed(0)
    net = family().build().double().mar.diffloss.net
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.3)
    x, condition = torch.randn(5, 48).double(), torch.randn(5, 96).double()
    together = net(x[:, None], torch.full((5, 1), 321), condition)[:, 0]
    torch.testing.assert_close(net.at_one_time(x, 321, condition), together, rtol=1e-12, atol=1e-12)


def test_respacing_keeps_the_ends_and_the_levels() -> None:
    short = respaced_schedule(T, 100)
    assert short.timesteps[:4].tolist() == [0, 10, 20, 30] and short.timesteps[-1] == 999
    assert len(set(short.timesteps.tolist())) == 100
    np.testing.assert_allclose(short.kept, schedule.kept[short.timesteps], rtol=1e-10)


def published_steps(count: int, train: int = T) -> list[int]:
    """A running sum of the stride, rounded: how published samplers choose their steps (docs/method/harmon.md)."""
    stride = 1.0 if count == 1 else (train - 1) / (count - 1)
    place, steps = 0.0, []
    while len(steps) < count:
        steps.append(round(place))
        place += stride
    return steps


def test_every_step_count_has_the_published_steps() -> None:
    """The sum matters: of rounded products, and one step that starts at the end, 279 counts differ."""
    published = {count: published_steps(count) for count in range(1, T + 1)}
    assert all(respaced_schedule(T, count).timesteps.tolist() == steps for count, steps in published.items())
    products = {n: [round(i * ((T - 1) / (n - 1))) for i in range(n)] if n > 1 else [T - 1] for n in published}
    assert sum(products[count] != steps for count, steps in published.items()) == 279
    assert published[1] == [0] and published[21] != products[21]


def test_far_from_the_mean_the_first_step_takes_the_published_approximation() -> None:
    """Six deviations out the bin's probability is another one than the exact normal's, by more than two nats."""
    coefficients = torch.from_numpy(row_coefficients(schedule, np.array([0])))
    x0, noise = torch.full((1, 1), 0.3, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    kept, deviation = float(schedule.kept[0]), math.exp(0.5 * float(schedule.log_posterior[0]))  # v = −1
    off = 6 * deviation * math.sqrt(kept) / math.sqrt(1 - kept)
    prediction = torch.tensor([[off, -1.0]], dtype=torch.float64)
    bits = row_loss(prediction, x0, noise, coefficients, torch.tensor([0])).item() - off**2
    edges = torch.tensor([6 + 1 / 255 / deviation, 6 - 1 / 255 / deviation], dtype=torch.float64)
    upper, lower = published_cdf(edges)
    assert bits == pytest.approx(-math.log2(max((upper - lower).item(), 1e-12)), rel=1e-6)
    exact_upper, exact_lower = Normal(0.0, 1.0).cdf(edges)
    assert abs(bits * math.log(2) + math.log(exact_upper - exact_lower)) > 2


@pytest.mark.parametrize("steps", [1, 2, 25])
def test_sampling_with_a_perfect_predictor_finds_the_start(steps: int) -> None:
    short = respaced_schedule(T, steps)
    x0 = torch.linspace(-2, 2, 6, dtype=torch.float64).reshape(2, 3)
    asked: list[int] = []

    def predict(x: torch.Tensor, timestep: int) -> torch.Tensor:
        asked.append(timestep)
        kept = schedule.kept[timestep]
        epsilon = (x - math.sqrt(kept) * x0) / math.sqrt(1 - kept)
        return torch.cat([epsilon, torch.full_like(x0, 0.3)], dim=-1)

    noise = torch.randn(steps + 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(ancestral_sample(predict, noise, short), x0, rtol=1e-6, atol=1e-6)
    assert asked == short.timesteps[::-1].tolist()


def test_sampling_keeps_within_known_limits() -> None:
    short = respaced_schedule(T, 10)
    limit = torch.tensor([0.5, 2.0])

    def predict(x: torch.Tensor, timestep: int) -> torch.Tensor:
        return torch.zeros(3, 4)  # ε̂ = 0 takes all noise for signal

    noise = torch.randn(11, 3, 2, generator=torch.Generator().manual_seed(6))
    assert (ancestral_sample(predict, noise, short).abs() > limit).any()
    assert (ancestral_sample(predict, noise, short, limit=limit).abs() <= limit).all()


def test_sampling_with_a_gaussian_predictor_gives_that_gaussian() -> None:
    """Data N(0, 0.5²), whose best ε̂ is known: samples have its deviation, a little more with the greater variance."""
    short = respaced_schedule(T, 100)
    noise = torch.randn(101, 4000, 1, generator=torch.Generator().manual_seed(5))
    found = []
    for v in (-1.0, 1.0):

        def predict(x: torch.Tensor, timestep: int, v: float = v) -> torch.Tensor:
            kept = schedule.kept[timestep]
            epsilon = x * math.sqrt(1 - kept) / (kept * 0.25 + 1 - kept)
            return torch.cat([epsilon, torch.full_like(x, v)], dim=-1)

        found.append(ancestral_sample(predict, noise, short).std().item())
    assert 0.46 < found[0] < found[1] < 0.52
