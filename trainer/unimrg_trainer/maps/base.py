"""What a map is: an image that can be generated from an image. One file per map holds all that is particular to it."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Protocol

import numpy as np

from unimrg_trainer.sample import Sample


class ImageMap(Protocol):
    """A map. `registry.py` lists those that are built in; a package adds one by an entry point `unimrg.maps`."""

    name: str
    """Name in shards (`<key>.<name>.png`) and in random number keys, e.g. `depth`."""
    objective: str
    """Name of the objective that generates it, as in a job and in metrics, e.g. `Depth`."""
    title: str
    """Short caption in pictures."""
    stored: bool
    """Whether it is a member of the shards; False: it is computed from the image."""
    canonical_prompt: str
    """The prompt used at inference (docs/method/recipe.md)."""
    unconditional: float
    """Share of training requests that name nothing, for guidance."""

    def wordings(self) -> tuple[str, ...]:
        """Return the prompts that training draws from."""
        ...

    def target(self, sample: Sample, size: int) -> np.ndarray:
        """Return the image to generate: uint8 [size, size, 3] (docs/method/recipe.md)."""
        ...


@cache
def read_wordings(name: str) -> tuple[str, ...]:
    """Return the lines of `wordings/<name>.txt`, without blank ones."""
    text = resources.files("unimrg_trainer.maps").joinpath("wordings", f"{name}.txt").read_text("utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())
