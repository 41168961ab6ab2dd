"""Pixel: the image itself, generated again from what the model understood of it."""

from __future__ import annotations

import numpy as np

from unimrg_trainer.maps.base import read_wordings
from unimrg_trainer.maps.geometry import squash
from unimrg_trainer.sample import Sample


class Pixel:
    """A tenth of the requests name nothing, for guidance (docs/method/recipe.md)."""

    name = "pixel"
    objective = "Pixel"
    title = "reconstruction"
    stored = False
    canonical_prompt = "Describe the image in detail."
    unconditional = 0.1

    def wordings(self) -> tuple[str, ...]:
        """Return the prompts that training draws from."""
        return read_wordings(self.name)

    def target(self, sample: Sample, size: int) -> np.ndarray:
        """Return the squashed image: uint8 [size, size, 3]."""
        assert sample.image is not None
        return squash(sample.image, size)


PIXEL = Pixel()
