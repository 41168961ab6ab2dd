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
        """Return the scaled contours: uint8 [size, size, 3]."""
        return segmentation_target(sample.maps[self.name], size)


SEGMENTATION = Segmentation()


def segmentation_target(segmentation_map: np.ndarray, size: int) -> np.ndarray:
    """Scale a contour map (bicubic to the longer side, nearest to `size`)."""
    check_map(segmentation_map, size)
    scaled = resize(stretch(segmentation_map), size, Image.Resampling.NEAREST)
    return scaled if scaled.ndim == 3 else three_channels(scaled)
