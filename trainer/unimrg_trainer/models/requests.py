"""What can be asked of a trained model: a text answer, or an image. The image it is asked about is optional."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class AnswerRequest:
    """A question, answered greedily."""

    prompt: str
    image: np.ndarray | None = None
    """uint8 [H, W, 3] of any shape; the family brings it to its own geometry."""


@dataclass(frozen=True, eq=False)
class GenerateRequest:
    """An image to generate from a prompt; its random numbers have the key (seed, row), however requests are batched."""

    prompt: str
    seed: int
    row: int
    image: np.ndarray | None = None
    """uint8 [H, W, 3] of any shape; None: from the prompt alone."""
    size: int | None = None
    """Side in pixels; None: the family's own."""


def require_size(requests: Sequence[GenerateRequest], size: int, model: str) -> None:
    """Raise ValueError for a request of another side than the only one that `model` generates."""
    for request in requests:
        if request.size not in (None, size):
            raise ValueError(f"{model} generates {size}×{size} pixels, not {request.size}")
