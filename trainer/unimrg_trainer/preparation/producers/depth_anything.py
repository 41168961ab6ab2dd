"""Depth maps by Depth Anything V2, as the published maps are made: what is nearer is brighter, 0 to 255 per image."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch

from unimrg_api.digests import sha256_of
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_maps import DepthAnythingSpec
from unimrg_trainer.preparation.producers.weights import Weights

VERSION = 1
"""Goes up when this code makes another map of the same image and weights."""
SIDE, MULTIPLE = 518, 14
"""The shorter side of what the model sees, and what both sides are multiples of: the patches of DINOv2."""
LONGEST = 6 * SIDE
"""A longer side is squeezed to this: an image of a few pixels' height would need more memory than there is."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AT_ONCE = 8
"""Images of one shape that the model sees together."""


class DepthAnything:
    """The producer `depthAnything` (docs/method/producers.md)."""

    map = "depth"

    def __init__(self, spec: DepthAnythingSpec, weights: Weights, device: str) -> None:
        self._weights, self._device = weights, device

    def identity(self) -> Any:
        """Return the digests of configuration and weights, and the version of this code."""
        config = sha256_of(self._weights.config())
        return {"model": "depthAnything", "version": VERSION, "config": config, "weights": self._weights.digest()}

    @torch.inference_mode()
    def produce(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return uint8 [H, W] for each image, uint8 [H, W, 3]. Images of one shape go through the model together."""
        shapes: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            shapes[input_shape(*image.shape[:2])].append(index)
        maps: dict[int, np.ndarray] = {}
        for shape, indices in shapes.items():
            for start in range(0, len(indices), AT_ONCE):
                chosen = indices[start : start + AT_ONCE]
                pixels = torch.from_numpy(np.stack([model_input(images[index], shape) for index in chosen]))
                predicted = self._model(pixel_values=pixels.to(self._device)).predicted_depth
                for index, depth in zip(chosen, predicted, strict=True):
                    scaled = torch.nn.functional.interpolate(
                        depth[None, None], images[index].shape[:2], mode="bilinear", align_corners=True
                    )
                    maps[index] = self._grey(scaled[0, 0].cpu().numpy())
        return [maps[index] for index in range(len(images))]

    @cached_property
    def _model(self) -> Any:
        from transformers import DepthAnythingForDepthEstimation  # takes seconds

        model = self._weights.transformer(DepthAnythingForDepthEstimation, self._device)
        if model.config.depth_estimation_type != "relative":
            raise UserError(
                f"{self._weights.field}.weights: {self._weights.uri} estimates metres, which grow with distance",
                remedy="use a model of relative depth, in which what is nearer is larger",
            )
        return model

    def _grey(self, depth: np.ndarray) -> np.ndarray:
        if not np.isfinite(depth).all():
            raise UserError(
                f"{self._weights.field}.weights: the model makes values that are no finite numbers",
                remedy="get the weights again",
                exit_code=ExitCode.DATA_CORRUPT,
            )
        return grey(depth)


def input_shape(height: int, width: int) -> tuple[int, int]:
    """Return height and width of what the model sees of an image: the shorter side is SIDE, the aspect is kept as far
    as sides that are multiples allow."""
    scale = max(SIDE / height, SIDE / width)

    def multiple(side: int) -> int:
        rounded = round(scale * side / MULTIPLE) * MULTIPLE
        return min(rounded if rounded >= SIDE else math.ceil(scale * side / MULTIPLE) * MULTIPLE, LONGEST)

    return multiple(height), multiple(width)


def model_input(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return what the model sees: float32 [3, *shape], cubic without antialiasing, standardised, as upstream does."""
    scaled = cv2.resize(image.astype(np.float32) / 255, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    standard = (scaled - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return np.ascontiguousarray(standard.transpose(2, 0, 1))


def grey(depth: np.ndarray) -> np.ndarray:
    """Return depth stretched to 0–255, fractions cut off as upstream does: uint8 of the same shape; constant: 0."""
    low, high = depth.min(), depth.max()
    if low == high:
        return np.zeros(depth.shape, np.uint8)
    stretched: np.ndarray = ((depth - low) / (high - low) * 255).astype(np.uint8)
    return stretched
