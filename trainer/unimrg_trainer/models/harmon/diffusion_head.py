"""The small network that denoises one token given its condition (`mar.diffloss.net.*`, docs/method/harmon.md).

Its condition and time embedding enter through adaptive norms. Modulations and the last layer start at zero, so that
an untrained head predicts ε̂ = 0 and its squared error is 1 in expectation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from unimrg_api.sizes.harmon import HarmonConfig

NORM_EPSILON = 1e-6
MAX_PERIOD = 10000


def sinusoid(timesteps: Tensor, features: int) -> Tensor:
    """[cos, sin] features of time steps: int [T] → float64 [T, features]."""
    half = features // 2
    rates = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float64, device=timesteps.device) / half)
    angles = timesteps.double()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Time step → vector."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.features = features
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timesteps: Tensor) -> Tensor:
        first: nn.Module = self.mlp[0]
        assert isinstance(first, nn.Linear)
        embedded: Tensor = self.mlp(sinusoid(timesteps, self.features).to(first.weight.dtype))
        return embedded


class ResidualBlock(nn.Module):
    """A gated residual MLP with adaptive norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        """x [..., W]; activated = SiLU(y) [..., W], computed once for all blocks."""
        modulation: Tensor = self.adaLN_modulation[1](activated)
        shift, scale, gate = modulation.chunk(3, dim=-1)
        changed: Tensor = self.mlp(torch.addcmul(shift, self.in_ln(x), 1 + scale))
        return x + gate * changed


class FinalLayer(nn.Module):
    """Adaptive norm without weights, then the projection to (ε̂, v)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation[1](activated).chunk(2, dim=-1)
        normed = functional.layer_norm(x, x.shape[-1:], eps=NORM_EPSILON)
        projected: Tensor = self.linear(torch.addcmul(shift, normed, 1 + scale))
        return projected


class DenoisingNetwork(nn.Module):
    """Net(x_t, t, c) → (ε̂, v)."""

    def __init__(self, config: HarmonConfig) -> None:
        super().__init__()
        width = config.mar.head_width
        self.steps = config.train_timesteps
        self.time_embed = TimeEmbedding(config.mar.time_features, width)
        self.cond_embed = nn.Linear(config.mar.width, width)
        self.input_proj = nn.Linear(config.codec_channels, width)
        self.res_blocks = nn.ModuleList([ResidualBlock(width) for _ in range(config.mar.head_blocks)])
        self.final_layer = FinalLayer(width, config.codec_channels)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for index in (0, 2):
            nn.init.normal_(self.time_embed.mlp[index].weight, std=0.02)  # type: ignore[arg-type]
        zeroed = [self.final_layer.linear, self.final_layer.adaLN_modulation[1]]
        for block in self.res_blocks:
            assert isinstance(block, ResidualBlock)
            zeroed.append(block.adaLN_modulation[1])
        for linear in zeroed:
            assert isinstance(linear, nn.Linear)
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """noisy [H, R, C], timesteps int [H, R], condition [H, d] (once per token) → [H, R, 2C].

        The time embedding is computed for every time step of the schedule once and looked up, because a batch has
        far more rows than there are time steps.
        """
        table = self.time_embed(torch.arange(self.steps, device=noisy.device))
        y = functional.embedding(timesteps, table) + self.cond_embed(condition)[:, None]
        return self._denoise(noisy, y)

    def at_one_time(self, noisy: Tensor, timestep: int, condition: Tensor) -> Tensor:
        """noisy [N, C] at one time step for all, condition [N, d] → [N, 2C]: what sampling asks for."""
        when = self.time_embed(torch.full((1,), timestep, device=noisy.device))
        return self._denoise(noisy, when + self.cond_embed(condition))

    def _denoise(self, noisy: Tensor, y: Tensor) -> Tensor:
        x = self.input_proj(noisy.to(self.input_proj.weight.dtype))
        activated = functional.silu(y)
        for block in self.res_blocks:
            x = block(x, activated)
        predicted: Tensor = self.final_layer(x, activated)
        return predicted


class DiffusionLoss(nn.Module):
    """Holder of the network under its published name."""

    def __init__(self, config: HarmonConfig) -> None:
        super().__init__()
        self.net = DenoisingNetwork(config)
