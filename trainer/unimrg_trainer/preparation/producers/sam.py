"""Segmentation maps by Segment Anything: masks at a grid of points, filtered as the published maps' were, and drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from unimrg_api.digests import sha256_of
from unimrg_api.spec_maps import SamSpec
from unimrg_trainer.preparation.producers.masks import Mask, PackedMask, contours, cut_out, regions, suppressed
from unimrg_trainer.preparation.producers.weights import Weights

VERSION = 1
"""Goes up when this code makes another map of the same image and weights."""
LONGEST = 2048
"""A longer side is reduced to this before the model sees the image."""
LEAST_IOU, LEAST_STABILITY, STABILITY_OFFSET, MOST_OVERLAP = 0.88, 0.95, 1.0, 0.7
"""The automatic mask generator's defaults, by which the published maps were made."""
POINTS_AT_ONCE, MASKS_AT_ONCE = 64, 16
"""Points that the decoder sees together; masks that are scaled up together."""
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Sam:
    """The producer `sam` (docs/method/producers.md)."""

    map = "segmentation"

    def __init__(
        self,
        spec: SamSpec,
        weights: Weights,
        device: str,
        least_iou: float = LEAST_IOU,
        least_stability: float = LEAST_STABILITY,
    ) -> None:
        self._spec, self._weights, self._device = spec, weights, device
        self._least_iou, self._least_stability = least_iou, least_stability

    def identity(self) -> Any:
        """Return the digests of configuration and weights, the settings, and the version of this code."""
        settings = self._spec.model_dump(by_alias=True, exclude={"weights", "sha256"})
        config = sha256_of(self._weights.config())
        weights = self._weights.digest()
        return {"model": "sam", "version": VERSION, "config": config, "weights": weights, "settings": settings}

    def produce(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return uint8 [H, W] (contours) or [H, W, 3] (regions) for each image, uint8 [H, W, 3]."""
        return [self._drawn(image) for image in images]

    def _drawn(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        reduced = reduce(image)
        masks = self.masks(reduced)
        draw = contours if self._spec.style == "Contours" else regions
        drawn = draw(masks, *reduced.shape[:2])
        resized: np.ndarray = cv2.resize(drawn, (width, height), interpolation=cv2.INTER_NEAREST)
        return resized

    @torch.inference_mode()
    def masks(self, image: np.ndarray) -> list[Mask]:
        """Return the masks of an image, uint8 [H, W, 3], best first: those that the model is sure of, that change
        little with the threshold, and whose boxes no better one covers."""
        found: list[PackedMask] = []
        boxes: list[tuple[int, int, int, int]] = []
        scores: list[float] = []
        for mask, score in self._candidates(image):
            found.append(PackedMask.of(mask))
            boxes.append(mask.box)
            scores.append(score)
        if not found:
            return []
        kept = suppressed(np.array(boxes, np.float32), np.array(scores), MOST_OVERLAP)
        return [found[index].unpacked() for index in kept]

    def _candidates(self, image: np.ndarray) -> Iterator[tuple[Mask, float]]:
        """Yield the masks of an image that are good enough by themselves, with the model's estimate of how good."""
        size: int = self._model.config.vision_config.image_size
        height, width = image.shape[:2]
        shown = shown_shape(height, width, size)
        pixels = model_input(image, shown, size).to(self._device)
        embedding = self._model.get_image_embeddings(pixels)
        side = self._spec.points_per_side
        at = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        points = torch.stack([at.repeat(side) * shown[1], at.repeat_interleave(side) * shown[0]], dim=1).float()
        for some in torch.split(points.to(self._device), POINTS_AT_ONCE):
            predicted = self._model(image_embeddings=embedding, input_points=some[None, :, None], multimask_output=True)
            quality = predicted.iou_scores[0].flatten()
            good = quality > self._least_iou
            if not good.any():
                continue
            logits = predicted.pred_masks[0].flatten(0, 1)[good]
            for part, estimates in zip(
                torch.split(logits, MASKS_AT_ONCE), torch.split(quality[good], MASKS_AT_ONCE), strict=True
            ):
                full = scaled_up(part, shown, size, height, width)
                chosen = stability(full) >= self._least_stability  # not a number for an empty mask, which goes
                for mask, estimate in zip((full[chosen] > 0).cpu().numpy(), estimates[chosen].tolist(), strict=True):
                    cut = cut_out(mask)
                    if cut is not None:
                        yield cut, estimate

    @cached_property
    def _model(self) -> Any:
        from transformers import SamModel  # takes seconds

        return self._weights.transformer(SamModel, self._device)


def reduce(image: np.ndarray) -> np.ndarray:
    """Return the image with its longer side at most LONGEST, by the mean of areas."""
    height, width = image.shape[:2]
    scale = LONGEST / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    reduced: np.ndarray = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return reduced


def shown_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Return height and width of an image in what the model sees, a square of `size`: the longer side fills it."""
    scale = size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def model_input(image: np.ndarray, shown: tuple[int, int], size: int) -> Tensor:
    """Return what the model sees: float32 [1, 3, size, size], bilinear, standardised, zeros below or beside it."""
    scaled = np.asarray(Image.fromarray(image).resize((shown[1], shown[0]), Image.Resampling.BILINEAR), np.float32)
    standard = (scaled - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return pad(torch.from_numpy(standard.transpose(2, 0, 1))[None], (0, size - shown[1], 0, size - shown[0]))


def scaled_up(logits: Tensor, shown: tuple[int, int], size: int, height: int, width: int) -> Tensor:
    """Return the model's logits [N, h, w] at the image's pixels, [N, height, width]: in two steps, as upstream does."""
    square = interpolate(logits[None], (size, size), mode="bilinear", align_corners=False)
    cut = square[..., : shown[0], : shown[1]]
    return interpolate(cut, (height, width), mode="bilinear", align_corners=False)[0]


def stability(logits: Tensor) -> Tensor:
    """Return, for each of the logits [N, H, W], how much of a mask drawn generously one drawn strictly covers."""
    strict, generous = logits > STABILITY_OFFSET, logits > -STABILITY_OFFSET
    return strict.sum(dim=(1, 2)) / generous.sum(dim=(1, 2))
