"""A map of one's own in one file: how bright each pixel is, computed from the image."""

from __future__ import annotations

import numpy as np

from unimrg_trainer.maps.geometry import squash
from unimrg_trainer.sample import Sample


class Brightness:
    name = objective = "brightness"
    title = "brightness"
    stored = False
    canonical_prompt = "Generate the brightness of this image."
    unconditional = 0.0

    def wordings(self) -> tuple[str, ...]:
        return (self.canonical_prompt, "Show how bright each point is.")

    def target(self, sample: Sample, size: int) -> np.ndarray:
        assert sample.image is not None
        grey = squash(sample.image, size).mean(-1, keepdims=True)
        return np.repeat(np.rint(grey), 3, axis=2).astype(np.uint8)


BRIGHTNESS = Brightness()
