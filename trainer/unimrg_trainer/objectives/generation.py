"""Generation: a worded request for one map of the image, and that map as the target (docs/method/recipe.md)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from unimrg_api.spec_training import Prompts
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.objectives.base import Task
from unimrg_trainer.sample import Sample

UNCONDITIONAL = "Generate an image."
"""The request that names nothing, for guidance at inference; the image stays in the row all the same."""


class Generation:
    """Generate `map` of each image; the map brings its wordings."""

    source: Literal["questions", "images"] = "images"

    def __init__(self, map: ImageMap, name: str | None = None, prompts: Prompts = "Listed") -> None:
        """`name` is the objective's in a job, if that is not the map's own name for it; `prompts` is the job's choice
        (`spec.training.prompts`).
        """
        self.map = map
        self.name = name or map.objective
        self._prompts = prompts

    def task(self, sample: Sample, rng: np.random.Generator) -> Task:
        """Return a request for the map: UNCONDITIONAL by the map's share, else one of its wordings, uniformly.

        With canonical prompts it is always the same.
        """
        sample.require(self.name, maps=[self.map.name] if self.map.stored else [])
        return Task(sample, self._draw_prompt(rng), map=self.map)

    def inference_prompt(self) -> str:
        """The wording for generating after training."""
        return self.map.canonical_prompt

    def _draw_prompt(self, rng: np.random.Generator) -> str:
        if self._prompts == "Canonical":
            return self.map.canonical_prompt
        if rng.random() < self.map.unconditional:
            return UNCONDITIONAL
        wordings = self.map.wordings()
        return wordings[int(rng.integers(len(wordings)))]
