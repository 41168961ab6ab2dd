"""Between images of 8 bits and the pixels that codecs take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from unimrg_api.arithmetic.families.base import TOWER_AT_ONCE

AT_ONCE = TOWER_AT_ONCE
"""Images per call of a decoder or a tower: activations at 512 × 512 pixels take about half a gigabyte for each."""


def encode_each(encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Encode uint8 [B, H, W, 3], at least one, with `encode`: pixels [1, 3, H, W] → [1, …]. Returns [B, …].

    Each image alone: of several together the last bits depend on how many they are, and what was stored would not be
    what a step computes.
    """
    return torch.cat([encode(to_pixels(image)) for image in torch.split(images, 1)])


def to_pixels(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] → float32 [B, 3, H, W] in [−1, 1], on the same device."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels: Tensor) -> np.ndarray:
    """float [B, 3, H, W] → uint8 [B, H, W, 3]."""
    scaled = (pixels.float() * 127.5 + 128).clamp(0, 255)
    images: np.ndarray = scaled.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
    return images
