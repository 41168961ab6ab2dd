"""The KL-16 autoencoder: 512×512 pixels ↔ 16 channels at a sixteenth of the side (docs/method/harmon.md).

Written from the latent-diffusion paper's description (Rombach et al. 2022); module names are those of its published
checkpoints, so that `kl16.ckpt` loads with an exact key match. It is frozen and always runs in evaluation mode.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unimrg_trainer.models.common.vqgan import Level, Middle, group_norm


@dataclass(frozen=True)
class Kl16Config:
    """Published sizes; tests use narrower ones."""

    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    latent_channels: int = 16
    norm_groups: int = 32
    scale: float = 0.2325
    """Latents are the posterior's mean times this."""

    @property
    def stride(self) -> int:
        return int(2 ** (len(self.multipliers) - 1))


class Encoder(nn.Module):
    """Pixels → moments (mean and log variance) of the latent."""

    def __init__(self, config: Kl16Config) -> None:
        super().__init__()
        groups, last = config.norm_groups, len(config.multipliers) - 1
        self.conv_in = nn.Conv2d(3, config.width, 3, padding=1)
        self.down = nn.ModuleList()
        channels = config.width
        for index, multiplier in enumerate(config.multipliers):
            outputs = config.width * multiplier
            change = "downsample" if index < last else ""
            self.down.append(
                Level(channels, outputs, config.encoder_blocks, groups, attention=index == last, change=change)
            )
            channels = outputs
        self.mid = Middle(channels, groups)
        self.norm_out = group_norm(channels, groups)
        self.conv_out = nn.Conv2d(channels, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        x = self.mid(x)
        moments: Tensor = self.conv_out(functional.silu(self.norm_out(x)))
        return moments


class Decoder(nn.Module):
    """Latent → pixels. Levels are numbered as in the encoder and run from the last to the first."""

    def __init__(self, config: Kl16Config) -> None:
        super().__init__()
        groups = config.norm_groups
        channels = config.width * config.multipliers[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, channels, 3, padding=1)
        self.mid = Middle(channels, groups)
        levels: list[Level] = []
        for index in reversed(range(len(config.multipliers))):
            outputs = config.width * config.multipliers[index]
            change = "upsample" if index > 0 else ""
            levels.append(Level(channels, outputs, config.decoder_blocks, groups, change=change))
            channels = outputs
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = group_norm(channels, groups)
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        pixels: Tensor = self.conv_out(functional.silu(self.norm_out(x)))
        return pixels


class Kl16(nn.Module):
    """The codec: `encode` gives the posterior's mean, scaled; nothing is drawn."""

    def __init__(self, config: Kl16Config | None = None) -> None:
        super().__init__()
        config = config or Kl16Config()
        self.config = config
        self.stride = config.stride
        self.channels = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * self.channels, 2 * self.channels, 1)
        self.post_quant_conv = nn.Conv2d(self.channels, self.channels, 1)
        self.eval().requires_grad_(False)

    @property
    def limit(self) -> None:
        """No bound of the latents is known."""
        return None

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] in [−1, 1] → latents [B, channels, H/stride, W/stride]."""
        moments: Tensor = self.quant_conv(self.encoder(pixels))
        return moments.chunk(2, dim=1)[0] * self.config.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """latents [B, channels, h, w] → pixels [B, 3, h·stride, w·stride], not clipped."""
        pixels: Tensor = self.decoder(self.post_quant_conv(latents / self.config.scale))
        return pixels
