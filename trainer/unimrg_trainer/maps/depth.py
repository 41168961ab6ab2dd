"""Depth: the distance of every pixel as grey, nearer is brighter."""

from __future__ import annotations

import numpy as np
from PIL import Image

from unimrg_trainer.maps.base import read_wordings
from unimrg_trainer.maps.geometry import check_map, resize, stretch, three_channels
from unimrg_trainer.sample import Sample


class Depth:
    """The image's depth map, as it is stored: 8 bits, stretched to 0–255 per image (docs/method/recipe.md)."""

    name = "depth"
    objective = "Depth"
    title = "depth"
    stored = True
    canonical_prompt = "Generate the depth map of this image."
    unconditional = 0.0

    def wordings(self) -> tuple[str, ...]:
        """Return the prompts that training draws from."""
        return read_wordings(self.name)

    def target(self, sample: Sample, size: int) -> np.ndarray:
        """Return the map scaled (bicubic to the longer side, bilinear to `size`) and stretched to 0–255 again.

        The first channel counts. Nearer stays brighter; a constant map becomes 0, the farthest.
        """
        depth = sample.maps[self.name]
        check_map(depth, size)
        first = depth if depth.ndim == 2 else depth[:, :, 0]
        scaled = resize(stretch(first), size, Image.Resampling.BILINEAR).astype(np.float64)
        low, high = scaled.min(), scaled.max()
        # The reference keeps the quotient as a float; rounding to 8 bits moves it by 1/510 at most.
        stretched = (scaled - low) / (high - low) * 255 if high > low else np.zeros_like(scaled)
        return three_channels(np.floor(stretched + 0.5).astype(np.uint8))


DEPTH = Depth()
