"""The KL-16 autoencoder: 512×512 pixels ↔ 16 channels at a sixteenth of the side (docs/method/harmon.md).

Written from the latent-diffusion paper's description (Rombach et al. 2022); module names are those of its published
checkpoints, so that `kl16.ckpt` loads with an exact key match. It is frozen and always runs in evaluation mode.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimrg_api.sizes.harmon import Kl16Config
from unimrg_trainer.models.common.vqgan import Decoder, Encoder


class Kl16(nn.Module):
    """The codec: `encode` gives the posterior's mean, scaled; nothing is drawn."""

    def __init__(self, config: Kl16Config | None = None) -> None:
        super().__init__()
        config = config or Kl16Config()
        self.config = config
        self.stride = config.stride
        self.channels = config.latent_channels
        levels, groups = len(config.multipliers), config.norm_groups
        self.encoder = Encoder(
            config.width,
            config.multipliers,
            [config.encoder_blocks] * levels,
            2 * self.channels,
            groups,
            attention=True,
        )
        self.decoder = Decoder(
            config.width, config.multipliers, [config.decoder_blocks] * levels, self.channels, groups
        )
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
