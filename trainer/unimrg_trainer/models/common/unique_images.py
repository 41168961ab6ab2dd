"""The different images of a batch, so that frozen encoders run once for each image and geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unimrg_trainer.models.common.batches import TensorBatch
from unimrg_trainer.models.common.encodings import Encoder, Encoding
from unimrg_trainer.sample import Sample


@dataclass(frozen=True, eq=False)
class Images(TensorBatch):
    """U different images: P as pixels, and E that came encoded."""

    pixels: Tensor
    """uint8 [P, S, S, 3]."""
    stored: Tensor
    """[E, *shape]: in the encoder's type, or as floats in the batch's."""
    order: Tensor
    """int [U]: which of [stored | pixels] each image is."""

    def __len__(self) -> int:
        return len(self.order)

    def encoded(self, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Return all of them encoded, [U, *shape]; `encode` is called with the pixels, unless there are none."""
        if len(self.pixels) == 0:
            return self.stored
        return torch.cat([self.stored, encode(self.pixels).to(self.stored.dtype)])[self.order]


class UniqueImages:
    """Images for one encoder, by content: equal pixels, or equal arrays, are held once."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._indices: dict[tuple[bool, bytes], int] = {}
        self._scaled: dict[tuple[int, str], int] = {}
        self._images: list[tuple[bool, np.ndarray]] = []
        """Whether it is encoded, and its array."""

    def read(self, sample: Sample, encoding: Encoding) -> int:
        """Return the index of a picture made of the image alone; one array is scaled once, so the caller keeps it."""
        if sample.image is None:
            return self.add(sample, encoding)
        key = (id(sample.image), encoding.name)
        if key not in self._scaled:
            self._scaled[key] = self.add(sample, encoding)
        return self._scaled[key]

    def add(self, sample: Sample, encoding: Encoding) -> int:
        """Return the index of the image that equals the sample's: as it was encoded before, else its pixels."""
        stored = encoding.stored(sample)
        image = encoding.draw(sample) if stored is None else stored
        index = self._indices.setdefault((stored is not None, image.tobytes()), len(self._images))
        if index == len(self._images):
            self._images.append((stored is not None, image))
        return index

    def collected(self) -> Images:
        """Return all of them, in the order of their indices."""
        size, shape = self._encoder.size, self._encoder.shape
        stored = [image for is_stored, image in self._images if is_stored]
        pixels = [image for is_stored, image in self._images if not is_stored]
        places = np.argsort([not is_stored for is_stored, _ in self._images], kind="stable")
        return Images(
            pixels=_stacked(pixels, (size, size, 3), np.uint8),
            stored=_stacked(stored, shape, self._encoder.dtype),
            order=torch.from_numpy(np.argsort(places)),
        )


def unknown_images(encoder: Encoder, count: int) -> Images:
    """Return so many images of which nothing is known but what `encoder` made of them, which the caller has."""
    return replace(UniqueImages(encoder).collected(), order=torch.arange(count))


def _stacked(images: list[np.ndarray], shape: tuple[int, ...], dtype: type[np.generic]) -> Tensor:
    return torch.from_numpy(np.stack(images) if images else np.zeros((0, *shape), dtype))
