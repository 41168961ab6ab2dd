"""What an objective is: it turns a sample into a task.

An objective knows neither tokens nor tensors (that is the family) nor how much it counts (that is the job).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.sample import Sample


@dataclass(frozen=True, eq=False)
class Task:
    """What is asked about one sample, and what is learnt from it: exactly one of `answer` and `map`."""

    sample: Sample
    prompt: str
    answer: str | None = None
    """The text to predict."""
    further: Sequence[tuple[str, str]] = ()
    """Questions that follow in the same conversation, with their answers, which are predicted too."""
    map: ImageMap | None = None
    """The map of the sample to generate."""


class Objective(Protocol):
    """One thing to learn, with a loss of its own."""

    name: str
    """Name in the job, e.g. `Understanding`."""
    source: Literal["questions", "images"]
    """Which order of the data set it follows: one row per question, or one per image."""

    @property
    def map(self) -> ImageMap | None:
        """What it generates; None if it answers in text."""
        ...

    def task(self, sample: Sample, rng: np.random.Generator) -> Task:
        """Return what is asked about this sample; `rng` draws the wording.

        Raises UserError (65) if the sample lacks what the objective learns from.
        """
        ...

    def inference_prompt(self) -> str:
        """The prompt for generating after training (docs/method/recipe.md).

        Raises LookupError where the prompt comes with each sample.
        """
        ...
