"""The MAGVIT-v2 image tokenizer of Show-o: 16×16 pixels ↔ one of 8192 codes (docs/method/showo.md).

Written from the papers (Yu et al. 2023 for the quantiser without a codebook, Esser et al. 2021 for the network); module
names are those of the published checkpoint. It is frozen and always runs in evaluation mode.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unimrg_trainer.models.common.vqgan import Level, Middle, group_norm
from unimrg_trainer.models.showo.config import MagvitConfig


class Encoder(nn.Module):
    """Pixels → one channel for each bit of the code."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        groups, last = config.norm_groups, len(config.encoder_multipliers) - 1
        self.conv_in = nn.Conv2d(3, config.width, 3, padding=1)
        self.down = nn.ModuleList()
        channels = config.width
        for index, (multiplier, blocks) in enumerate(
            zip(config.encoder_multipliers, config.encoder_blocks, strict=True)
        ):
            outputs = config.width * multiplier
            change = "downsample" if index < last else ""
            self.down.append(Level(channels, outputs, blocks, groups, change=change))
            channels = outputs
        self.mid = Middle(channels, groups)
        self.norm_out = group_norm(channels, groups)
        self.conv_out = nn.Conv2d(channels, config.bits, 3, padding=1)
        self.quant_conv = nn.Conv2d(config.bits, config.bits, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        x = self.conv_out(functional.silu(self.norm_out(self.mid(x))))
        out: Tensor = self.quant_conv(x)
        return out


class Decoder(nn.Module):
    """One channel of ±1 for each bit → pixels. Levels run from the last to the first."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        groups = config.norm_groups
        channels = config.width * config.decoder_multipliers[-1]
        self.conv_in = nn.Conv2d(config.bits, channels, 3, padding=1)
        self.mid = Middle(channels, groups)
        levels: list[Level] = []
        for index in reversed(range(len(config.decoder_multipliers))):
            outputs = config.width * config.decoder_multipliers[index]
            change = "upsample" if index > 0 else ""
            levels.append(Level(channels, outputs, config.decoder_blocks[index], groups, change=change))
            channels = outputs
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = group_norm(channels, groups)
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(config.bits, config.bits, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(self.post_quant_conv(z)))
        for level in reversed(self.up):
            x = level(x)
        pixels: Tensor = self.conv_out(functional.silu(self.norm_out(x)))
        return pixels


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
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
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
