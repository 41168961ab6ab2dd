"""Encoder and decoder of VQGAN-like autoencoders, with the names of their published checkpoints.

Several families' frozen image codecs are built from them (Esser et al. 2021; Rombach et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """Group norm with the ε of these autoencoders."""
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Norm, swish, 3×3 convolution, twice, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs, groups)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = group_norm(outputs, groups)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)
        self.widens = inputs != outputs

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        shortcut: Tensor = self.nin_shortcut(x) if self.widens else x
        return shortcut + h


class AttentionBlock(nn.Module):
    """Single-head attention over all places, its projections as 1×1 convolutions."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        query, key, value = (part(normed).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        scores = query @ key.transpose(1, 2) / math.sqrt(x.shape[1])
        mixed = scores.softmax(dim=-1) @ value
        projected: Tensor = self.proj_out(mixed.transpose(1, 2).reshape(x.shape))
        return x + projected


class Downsample(nn.Module):
    """Halve the side; the zero border lies at the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(functional.pad(x, (0, 1, 0, 1)))
        return halved


class Upsample(nn.Module):
    """Double the side by repetition, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled


class Level(nn.Module):
    """The blocks of one resolution, then a change of resolution; `attn` is empty where no attention runs."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, groups: int, *, attention: bool = False, change: str = ""
    ) -> None:
        """`change` is `downsample`, `upsample` or nothing: the name under which the convolution is stored."""
        super().__init__()
        self.block = nn.ModuleList(
            [ResnetBlock(inputs if index == 0 else outputs, outputs, groups) for index in range(blocks)]
        )
        self.attn = nn.ModuleList([AttentionBlock(outputs, groups) for _ in range(blocks if attention else 0)])
        self.change = change
        if change:
            self.add_module(change, {"downsample": Downsample, "upsample": Upsample}[change](outputs))

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.block):
            x = block(x)
            if index < len(self.attn):
                x = self.attn[index](x)
        return self.get_submodule(self.change)(x) if self.change else x


class Middle(nn.Module):
    """The bottleneck between both halves' levels."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups)
        self.attn_1 = AttentionBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Encoder(nn.Module):
    """Pixels → `outputs` channels; each level but the last halves the side."""

    def __init__(
        self,
        width: int,
        multipliers: Sequence[int],
        blocks: Sequence[int],
        outputs: int,
        groups: int,
        *,
        attention: bool = False,
    ) -> None:
        """A level has `width` times its multiplier channels; `attention` is that behind the last level's blocks."""
        super().__init__()
        last = len(multipliers) - 1
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList()
        channels = width
        for index, (multiplier, count) in enumerate(zip(multipliers, blocks, strict=True)):
            change = "downsample" if index < last else ""
            attends = attention and index == last
            self.down.append(Level(channels, width * multiplier, count, groups, attention=attends, change=change))
            channels = width * multiplier
        self.mid = Middle(channels, groups)
        self.norm_out = group_norm(channels, groups)
        self.conv_out = nn.Conv2d(channels, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        out: Tensor = self.conv_out(functional.silu(self.norm_out(self.mid(x))))
        return out


class Decoder(nn.Module):
    """`inputs` channels → pixels. Levels are numbered as in the encoder and run from the last to the first."""

    def __init__(self, width: int, multipliers: Sequence[int], blocks: Sequence[int], inputs: int, groups: int) -> None:
        super().__init__()
        channels = width * multipliers[-1]
        self.conv_in = nn.Conv2d(inputs, channels, 3, padding=1)
        self.mid = Middle(channels, groups)
        levels: list[Level] = []
        for index, (multiplier, count) in reversed(list(enumerate(zip(multipliers, blocks, strict=True)))):
            change = "upsample" if index > 0 else ""
            levels.append(Level(channels, width * multiplier, count, groups, change=change))
            channels = width * multiplier
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = group_norm(channels, groups)
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        pixels: Tensor = self.conv_out(functional.silu(self.norm_out(x)))
        return pixels
