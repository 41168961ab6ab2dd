"""GenEval's detector in transformers' form: Mask2Former, read as MMDetection reads its own.

Not by transformers' own post-processing, which resizes masks to another size, rounds scores and gives no boxes. What
agrees with MMDetection and what was not compared: docs/method/evaluation.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.evaluation.geneval import CLASSES
from unimrg_trainer.evaluation.judges.base import PAGE, Found
from unimrg_trainer.preparation.producers.weights import Weights

SHORTER, LONGER, MULTIPLE = 800, 1333, 32
"""Sides that an image is scaled to, and what both are padded to multiples of."""
MOST = 100
"""Pairs of a query and a class that are taken for objects."""
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Mask2Former:
    """The detector `mask2former`, an instance segmentation of COCO's 80 classes."""

    name = "mask2former"

    def __init__(self, weights: Weights, device: str) -> None:
        self._weights, self._device = weights, device

    def identity(self) -> dict[str, str]:
        """Return the origin of the weights, their SHA-256, and how far parity with MMDetection was shown."""
        converted = self._weights.config().get("converted_from")
        return {
            "detector": "hf-converted" if converted else "hf-meta",
            "detector_sha256": self._weights.digest(),
            "detector_parity": "L1 shown; L2, L3 not shown",
        }

    @torch.inference_mode()
    def detect(self, image: np.ndarray) -> dict[str, list[Found]]:
        """Return the objects of an image, uint8 [H, W, 3], by class."""
        shown = shown_shape(*image.shape[:2])
        pixels = model_input(image, shown)
        output = self._model(pixel_values=pixels.to(self._device))
        found: dict[str, list[Found]] = defaultdict(list)
        for label, one in instances(
            output.class_queries_logits[0], output.masks_queries_logits[0], pixels.shape[-2:], shown, image.shape[:2]
        ):
            found[CLASSES[label]].append(one)
        return found

    @cached_property
    def _model(self) -> Any:
        from transformers import Mask2FormerForUniversalSegmentation  # takes seconds

        model = self._weights.transformer(Mask2FormerForUniversalSegmentation, self._device)
        if model.config.num_labels != len(CLASSES):
            raise UserError(
                f"{self._weights.field}.{self._weights.setting}: {self._weights.uri} knows {model.config.num_labels} "
                f"classes, not COCO's {len(CLASSES)}",
                remedy=f"use an instance segmentation of COCO; {PAGE} says which",
                exit_code=ExitCode.DATA_CORRUPT,
            )
        return model


def shown_shape(height: int, width: int) -> tuple[int, int]:
    """Return height and width of an image as the model sees it, without padding: the shorter side SHORTER, the longer
    one LONGER at most."""
    scale = min(LONGER / max(height, width), SHORTER / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def model_input(image: np.ndarray, shown: tuple[int, int]) -> Tensor:
    """Return what the model sees: float32 [1, 3, H, W], bilinear without antialiasing, standardised, zeros below and
    to the right."""
    scaled = cv2.resize(image, (shown[1], shown[0]), interpolation=cv2.INTER_LINEAR)
    standard = (scaled.astype(np.float32) - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    padding = (0, -shown[1] % MULTIPLE, 0, -shown[0] % MULTIPLE)
    return pad(torch.from_numpy(standard.transpose(2, 0, 1))[None], padding)


def instances(
    class_logits: Tensor, mask_logits: Tensor, padded: Sequence[int], shown: tuple[int, int], original: Sequence[int]
) -> list[tuple[int, Found]]:
    """Return (class, object) of the MOST pairs of a query and a class that are the most probable.

    `class_logits` [Q, C + 1], the last one of no object; `mask_logits` [Q, h, w], brought to the `padded` input, cut to
    what is `shown` of the image, brought to its `original` size. A mask is what is above 0; the score is the class's
    probability times the mean of the mask's probabilities inside it; the box surrounds the mask, its ends exclusive. An
    empty mask has an empty box and the score 0.
    """
    classes = class_logits.shape[-1] - 1
    probabilities = class_logits.softmax(dim=-1)[:, :-1].flatten()
    best, indices = probabilities.topk(min(MOST, len(probabilities)))
    queries, labels = indices // classes, indices % classes
    found: list[tuple[int, Found]] = []
    for query in set(queries.tolist()):  # masks of one query are alike, whatever its class
        logits = interpolate(mask_logits[None, None, query], tuple(padded), mode="bilinear", align_corners=False)
        logits = logits[..., : shown[0], : shown[1]]
        logits = interpolate(logits, tuple(original[:2]), mode="bilinear", align_corners=False)[0, 0]
        inside = logits > 0
        certainty = float(logits[inside].sigmoid().mean()) if inside.any() else 0.0
        mask = inside.cpu().numpy()
        corners = _corners(mask)
        for index in (queries == query).nonzero().flatten().tolist():
            box = (*corners, float(best[index]) * certainty)
            found.append((int(labels[index]), Found(box, mask)))
    return found


def _corners(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
