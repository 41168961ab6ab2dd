"""What an objective is: from one sample, the question that is asked of the model and the answer that is learnt.

An objective knows samples and prompts. It does not know how a model family turns them into tokens, noise and losses
(that is `models/`), nor how it is weighted against the others (that is the job).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from unimrg_trainer.packing.plan import Geometry


@dataclass(frozen=True)
class Branch:
    """One thing asked about one image. Either `answer` (text to predict) or `representation` (image to generate)."""

    prompt: str
    geometry: Geometry
    answer: str | None = None
    representation: str | None = None


class Objective(Protocol):
    """A plug-in: one file, one instance, registered in `registry.py`."""

    name: str
    """Name in the job, e.g. `Depth`."""

    source: str
    """Which order of the data set it follows: `questions` (one record per question) or `images` (one per image)."""

    representation: str | None
    """What it generates (a name of `targets/registry.py`), or None if it answers in words."""

    needs: frozenset[str]
    """Fields that a sample must have."""

    def branch(self, record: Mapping[str, Any], generator: np.random.Generator) -> Branch:
        """Return what is asked; `generator` is addressed by the row and draws the prompt's wording."""
        ...

    def prompt_at_inference(self) -> str:
        """The canonical prompt for sampling (method.md §1.5)."""
        ...
