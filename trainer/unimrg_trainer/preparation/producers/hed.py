"""Contours by Holistically-Nested Edge Detection (Xie and Tu, ICCV 2015): VGG-16 with outputs at five scales."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, relu

from unimrg_api.spec_maps import HedSpec
from unimrg_trainer.preparation.producers.weights import Weights

VERSION = 1
"""Goes up when this code makes another map of the same image and weights."""
LONGEST = 1024
"""A longer side is reduced to this before the model sees the image; the model learnt from 481 × 321 pixels."""
THRESHOLD = 0.5
"""Probability from which a ridge is a contour."""
MEAN_BGR = (104.00699, 116.66877, 122.67892)
CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Of the convolutions of each block."""
_SMOOTHING = 2.0
"""Standard deviation, in pixels, of the smoothing from which a ridge's direction is taken."""


class Hed:
    """The producer `hed` (docs/method/producers.md)."""

    map = "segmentation"

    def __init__(self, spec: HedSpec, weights: Weights, device: str) -> None:
        self._weights, self._device = weights, device

    def identity(self) -> Any:
        """Return the weights' digest and the version of this code."""
        return {"model": "hed", "version": VERSION, "weights": self._weights.digest()}

    def produce(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return contours one pixel wide, white on black, of each image, uint8 [H, W, 3]: uint8 [H, W]."""
        return [ridges(self.probabilities(image)) for image in images]

    @torch.inference_mode()
    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Return the probability of a contour at each pixel of an image, uint8 [H, W, 3]: float32 [H, W]."""
        height, width = image.shape[:2]
        scale = min(1.0, LONGEST / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        shown = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
        pixels = shown[:, :, ::-1].astype(np.float32) - np.array(MEAN_BGR, np.float32)
        logits = self._model(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].to(self._device))
        found = interpolate(torch.sigmoid(logits), (height, width), mode="bilinear", align_corners=False)
        probabilities: np.ndarray = found[0, 0].cpu().numpy()
        return probabilities

    @cached_property
    def _model(self) -> Any:
        with torch.device("meta"):
            module = HedModel()
        return self._weights.load_into(module, self._device)


class HedModel(nn.Module):
    """The network: pixels (BGR minus the mean) [B, 3, H, W] → logits of a contour [B, 1, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, before = nn.ModuleList(), 3
        for channels in CHANNELS:
            block = nn.ModuleList()
            for after in channels:
                block.append(nn.Conv2d(before, after, 3, padding=1))
                before = after
            self.blocks.append(block)
        self.sides = nn.ModuleList(nn.Conv2d(channels[-1], 1, 1) for channels in CHANNELS)
        self.fuse = nn.Conv2d(len(CHANNELS), 1, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the fused logits at the size of `pixels`."""
        found, hidden = [], pixels
        for number, (block, side) in enumerate(zip(self.blocks, self.sides, strict=True)):
            if number:
                hidden = max_pool2d(hidden, 2, ceil_mode=True)
            for layer in block:  # type: ignore[attr-defined]
                hidden = relu(layer(hidden))
            found.append(interpolate(side(hidden), pixels.shape[2:], mode="bilinear", align_corners=False))
        fused: Tensor = self.fuse(torch.cat(found, dim=1))
        return fused


def ridges(probabilities: np.ndarray) -> np.ndarray:
    """Return where probabilities, float32 [H, W], are at least THRESHOLD and highest across their ridge: uint8, 0 or
    255.

    Across a ridge is where the smoothed probabilities curve downwards the most, to an eighth of a turn; a pixel stays
    if it is higher than the neighbour before it in that direction, and no lower than the one behind it.
    """
    smooth = cv2.GaussianBlur(probabilities, (0, 0), _SMOOTHING, borderType=cv2.BORDER_REFLECT)
    xx, yy, xy = (cv2.Sobel(smooth, cv2.CV_32F, dx, dy, ksize=3, borderType=cv2.BORDER_REFLECT) for dx, dy in _SECOND)
    # the angle across the ridge, at which the curvature xx·cos² + 2·xy·cos·sin + yy·sin² is lowest
    angle = 0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2
    steps = np.round(angle / (np.pi / 4)).astype(np.int64) % 4
    framed = np.pad(probabilities, 1, constant_values=-1)
    height, width = probabilities.shape
    highest = np.zeros(probabilities.shape, bool)
    for step, (down, right) in enumerate(_ACROSS):
        before = framed[1 - down : 1 - down + height, 1 - right : 1 - right + width]
        after = framed[1 + down : 1 + down + height, 1 + right : 1 + right + width]
        highest |= (steps == step) & (probabilities > before) & (probabilities >= after)
    return ((probabilities >= THRESHOLD) & highest).astype(np.uint8) * 255


_SECOND = ((2, 0), (0, 2), (1, 1))
"""Orders of the derivatives in x and y: the second ones."""
_ACROSS = ((0, 1), (1, 1), (1, 0), (1, -1))
"""(down, right) of a step at each eighth of a turn from the x axis, downwards."""
