"""The MAGVIT-v2 image tokenizer of Show-o: 16×16 pixels ↔ one of 8192 codes (docs/method/showo.md).

Written from the papers (Yu et al. 2023 for the quantiser without a codebook, Esser et al. 2021 for the network); module
names are those of the published checkpoint. It is frozen and always runs in evaluation mode.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unimrg_api.sizes.showo import MagvitConfig
from unimrg_trainer.models.common.vqgan import Decoder, Encoder


class MagvitEncoder(Encoder):
    """Pixels → one channel for each bit of the code."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__(
            config.width, config.encoder_multipliers, config.encoder_blocks, config.bits, config.norm_groups
        )
        self.quant_conv = nn.Conv2d(config.bits, config.bits, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.quant_conv(super().forward(x))
        return out


class MagvitDecoder(Decoder):
    """One channel of ±1 for each bit → pixels."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__(
            config.width, config.decoder_multipliers, config.decoder_blocks, config.bits, config.norm_groups
        )
        self.post_quant_conv = nn.Conv2d(config.bits, config.bits, 1)

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(self.post_quant_conv(z))


class SignQuantizer(nn.Module):
    """A bit is the sign of its channel, the first channel the highest bit. Both tables are part of the checkpoint."""

    embedding: Tensor
    """The channels of every code, ±1 [codes, bits]."""
    power_vals: Tensor
    """What a bit counts, int [bits]."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        powers = 2 ** torch.arange(bits - 1, -1, -1)
        signs = (torch.arange(2**bits)[:, None] & powers) > 0
        self.register_buffer("embedding", signs.float() * 2 - 1)
        self.register_buffer("power_vals", powers)


class Magvit(nn.Module):
    """The tokenizer: `encode` to codes, `decode` back."""

    def __init__(self, config: MagvitConfig | None = None) -> None:
        super().__init__()
        config = config or MagvitConfig()
        self.stride, self.bits = config.stride, config.bits
        self.encoder = MagvitEncoder(config)
        self.decoder = MagvitDecoder(config)
        self.quantize = SignQuantizer(config.bits)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] in [−1, 1] → codes int64 [B, (H/stride)·(W/stride)] in raster order."""
        signs = self.encoder(pixels) > 0
        codes: Tensor = (signs * self.quantize.power_vals[:, None, None]).sum(1)
        return codes.flatten(1)

    @torch.no_grad()
    def decode(self, codes: Tensor, side: int) -> Tensor:
        """Codes int [B, side²] → pixels [B, 3, side·stride, side·stride], not clipped."""
        latents = functional.embedding(codes.long(), self.quantize.embedding)
        pixels: Tensor = self.decoder(latents.transpose(1, 2).reshape(len(codes), -1, side, side))
        return pixels
