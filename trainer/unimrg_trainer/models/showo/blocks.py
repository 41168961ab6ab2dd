"""An image tokenizer without weights: a code is the mean colour of a block, in a few bits for each channel.

It stands behind the same interface as MAGVIT-v2, so that Show-o can be trained on a laptop where no pretrained
tokenizer is at hand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unimrg_api.sizes.showo import BlocksConfig


class BlockColours(nn.Module):
    """Blocks of stride × stride pixels ↔ red, green, blue, each rounded to 2^channel_bits levels; red is highest."""

    def __init__(self, config: BlocksConfig) -> None:
        super().__init__()
        self.stride, self.bits, self._channel_bits = config.stride, config.bits, config.channel_bits
        self._top = 2**config.channel_bits - 1

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] in [−1, 1] → codes int64 [B, (H/stride)·(W/stride)] in raster order."""
        means = functional.avg_pool2d(pixels, self.stride)
        red, green, blue = ((means + 1) / 2 * self._top).round().clamp(0, self._top).long().flatten(2).unbind(1)
        codes: Tensor = ((red << self._channel_bits) + green << self._channel_bits) + blue
        return codes

    @torch.no_grad()
    def decode(self, codes: Tensor, side: int) -> Tensor:
        """Codes int [B, side²] → pixels [B, 3, side·stride, side·stride]: each block in its colour."""
        wide = codes.long()
        levels = [wide >> (channel * self._channel_bits) & self._top for channel in (2, 1, 0)]
        colours = torch.stack(levels, dim=1).float() / self._top * 2 - 1
        pixels: Tensor = colours.reshape(len(codes), 3, side, side).repeat_interleave(self.stride, 2)
        return pixels.repeat_interleave(self.stride, 3)
