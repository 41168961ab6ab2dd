"""Understanding: a question about an image, and its answer as text (docs/method/recipe.md)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from unimrg_trainer.objectives.base import Task
from unimrg_trainer.sample import Sample


class Understanding:
    """Predict the sample's answer to the sample's question, and those of further turns; nothing is drawn."""

    name = "Understanding"
    source: Literal["questions", "images"] = "questions"
    map = None

    def task(self, sample: Sample, rng: np.random.Generator) -> Task:
        """Return the sample's own conversation; a text alone has no image."""
        sample.require(self.name, image=False, answer=True)
        assert sample.question is not None
        return Task(sample, sample.question, answer=sample.answer, further=sample.further)

    def inference_prompt(self) -> str:
        """Raise LookupError: every sample has a question of its own."""
        raise LookupError("Understanding has no canonical prompt; use the sample's question")
