"""Segmentation: the outlines of all regions, white on black."""

from __future__ import annotations

import numpy as np
from PIL import Image

from unimrg_trainer.maps.base import read_wordings
from unimrg_trainer.maps.geometry import check_map, resize, stretch, three_channels
from unimrg_trainer.sample import Sample


class Segmentation:
    """The contours of the image's segments (docs/method/recipe.md)."""

    name = "segmentation"
    objective = "Segmentation"
    title = "segmentation"
    stored = True
    canonical_prompt = "Generate the segmentation mask of this image."
    unconditional = 0.0

    def wordings(self) -> tuple[str, ...]:
        """Return the prompts that training draws from."""
        return read_wordings(self.name)

    def target(self, sample: Sample, size: int) -> np.ndarray:
        """Return the contours, scaled bicubic to the longer side and nearest to `size`: uint8 [size, size, 3]."""
        segmentation = sample.maps[self.name]
        check_map(segmentation, size)
        scaled = resize(stretch(segmentation), size, Image.Resampling.NEAREST)
        return scaled if scaled.ndim == 3 else three_channels(scaled)


SEGMENTATION = Segmentation()
