"""The different images of a batch, so that frozen encoders run once for each image and geometry."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


class UniqueImages:
    """Squares of one size, by content: equal pixels are held, and later encoded, once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._indices: dict[bytes, int] = {}
        self._scaled: dict[tuple[int, Callable[[np.ndarray, int], np.ndarray]], int] = {}
        self._images: list[np.ndarray] = []

    def scale(self, image: np.ndarray, geometry: Callable[[np.ndarray, int], np.ndarray]) -> int:
        """Return the index of `geometry(image, size)`; one array is scaled once, so the caller keeps it alive."""
        key = (id(image), geometry)
        if key not in self._scaled:
            self._scaled[key] = self.add(geometry(image, self.size))
        return self._scaled[key]

    def add(self, pixels: np.ndarray) -> int:
        """Return the index of the image that equals `pixels`, uint8 [size, size, 3]."""
        index = self._indices.setdefault(pixels.tobytes(), len(self._images))
        if index == len(self._images):
            self._images.append(pixels)
        return index

    def stacked(self) -> Tensor:
        """All of them, uint8 [U, size, size, 3]."""
        empty = np.zeros((0, self.size, self.size, 3), dtype=np.uint8)
        return torch.from_numpy(np.stack(self._images) if self._images else empty)
