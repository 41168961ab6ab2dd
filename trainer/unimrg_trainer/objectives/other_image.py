"""Shows an objective's rows another image than the one that they learn about: what that costs, the image is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.objectives.base import Objective, Task
from unimrg_trainer.sample import Sample


class OtherImage:
    """`objective` with other images; wording, answer, target and every rng key are those of the sample itself."""

    def __init__(self, objective: Objective, image_for: Callable[[str], np.ndarray]) -> None:
        """`image_for` returns, for the key of a sample, the image that its rows are shown; one key has one image."""
        self.name, self.source, self.map = objective.name, objective.source, objective.map
        self._objective, self._image_for = objective, image_for

    def task(self, sample: Sample, rng: np.random.Generator) -> Task:
        """Return the objective's own task, asked about the other image."""
        task = self._objective.task(sample, rng)
        shown = replace(task.sample, image=self._image_for(sample.key))
        return replace(task, sample=shown, map=None if task.map is None else TargetOf(task.map, task.sample))

    def inference_prompt(self) -> str:
        """Return the objective's own."""
        return self._objective.inference_prompt()


class TargetOf:
    """A map whose target is always that of `sample`, whatever image is shown; all else is as in `map`."""

    def __init__(self, map: ImageMap, sample: Sample) -> None:
        self.name, self.objective, self.title, self.stored = map.name, map.objective, map.title, map.stored
        self.canonical_prompt, self.unconditional = map.canonical_prompt, map.unconditional
        self._map, self._sample = map, sample

    def wordings(self) -> tuple[str, ...]:
        """Return the map's own."""
        return self._map.wordings()

    def target(self, sample: Sample, size: int) -> np.ndarray:
        """Return the map of the sample that this was made for: uint8 [size, size, 3]."""
        return self._map.target(self._sample, size)
