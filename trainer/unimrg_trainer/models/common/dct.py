"""A codec without weights: the cosine transform of small blocks, each coefficient scaled to unit variance.

It stands behind the same interface as KL-16, so that Harmon can be trained on a laptop where no pretrained
autoencoder is at hand. It loses nothing: decode(encode(x)) = x.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

MEASURED_FILE = Path(__file__).with_name("dct_measured.json")
"""What was measured on scenes (by `tools/tiny_files.py`)."""


@dataclass(frozen=True)
class Measured:
    """Statistics of each of the 3·stride² coefficients over scenes: their pictures, depth maps and contours."""

    scales: tuple[float, ...]
    """Standard deviations."""
    limits: tuple[float, ...]
    """Absolute values that one in a thousand exceeds, in standard deviations."""

    def softened(self, power: float, factor: float) -> Measured:
        """Return `factor` · scale^`power` in place of each scale, and the limits in these units.

        At unit variance (power 1) a detail of colour that nobody sees counts in a loss as much as a shape; below that,
        coefficients keep some of the weight that their size gives them.
        """
        scales = tuple(factor * scale**power for scale in self.scales)
        limits = tuple(limit * old / new for limit, old, new in zip(self.limits, self.scales, scales, strict=True))
        return Measured(scales, limits)


def read_measured() -> Measured:
    """The constants that ship with this room."""
    content = json.loads(MEASURED_FILE.read_text())
    return Measured(tuple(content["scales"]), tuple(content["limits"]))


def cosine_matrix(size: int) -> Tensor:
    """The orthonormal DCT-II, float64 [size (frequency), size (place)]."""
    place = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (place + 0.5)[None] * place[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


class BlockCosine(nn.Module):
    """Blocks of stride × stride pixels in 3 colours ↔ one place with 3·stride² channels: cosines along all axes.

    Channels are ordered by colour frequency (the first is grey, so that maps without colour have zeros in the other
    two thirds), then row and column frequency.
    """

    basis: Tensor
    scales: Tensor
    limit: Tensor
    """Absolute value that one in a thousand exceeds, of each channel [channels]."""

    def __init__(self, stride: int, measured: Measured) -> None:
        super().__init__()
        self.stride = stride
        self.channels = 3 * stride**2
        if len(measured.scales) != self.channels:
            raise ValueError(f"{len(measured.scales)} scales for {self.channels} coefficients")
        line = cosine_matrix(stride)
        block = torch.kron(cosine_matrix(3), torch.kron(line, line))
        self.register_buffer("basis", block.float(), persistent=False)
        self.register_buffer("scales", torch.tensor(measured.scales), persistent=False)
        self.register_buffer("limit", torch.tensor(measured.limits), persistent=False)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] in [−1, 1] → latents [B, channels, H/stride, W/stride]."""
        blocks = functional.pixel_unshuffle(pixels, self.stride)
        coefficients = torch.einsum("fp,bphw->bfhw", self.basis, blocks)
        return coefficients / self.scales[:, None, None]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """latents [B, channels, h, w] → pixels [B, 3, h·stride, w·stride], not clipped."""
        coefficients = latents * self.scales[:, None, None]
        blocks = torch.einsum("fp,bfhw->bphw", self.basis, coefficients)
        return functional.pixel_shuffle(blocks, self.stride)
