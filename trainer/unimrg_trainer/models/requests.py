"""What can be asked of a trained model: a text answer, or an image; and how benchmarks word their questions for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class AnswerRequest:
    """A question, answered greedily."""

    prompt: str
    image: np.ndarray | None = None
    """uint8 [H, W, 3] of any shape; the family brings it to its own geometry."""


@dataclass(frozen=True, eq=False)
class GenerateRequest:
    """An image to generate from a prompt; its random numbers have the key (seed, row), however requests are batched."""

    prompt: str
    seed: int
    row: int
    image: np.ndarray | None = None
    """uint8 [H, W, 3] of any shape; None: from the prompt alone."""
    size: int | None = None
    """Side in pixels; None: the family's own."""


def require_size(requests: Sequence[GenerateRequest], size: int, model: str) -> None:
    """Raise ValueError for a request of another side than the only one that `model` generates."""
    for request in requests:
        if request.size not in (None, size):
            raise ValueError(f"{model} generates {size}×{size} pixels, not {request.size}")


VLMEVALKIT_CHOICE = "Please select the correct answer from the options above. \n"
"""What VLMEvalKit (Apache-2.0) writes below the options of a question, its last blank and line break included."""
LETTER_ONLY = "Answer with the option's letter from the given choices directly."
"""What wrappers of models in VLMEvalKit add to it, or write instead."""


@dataclass(frozen=True)
class PromptStyle:
    """How a family's questions end in benchmarks. Scores move by points with it, so results are labelled with it."""

    name: str
    choice_ending: str
    """What follows the options of a multiple-choice question, on a line of its own."""
    yes_no_endings: Mapping[str, str] = field(default_factory=dict)
    """Benchmark → what follows its yes/no questions at once; absent: nothing."""
    labels: bool = True
    """Whether hint, question and options of a multiple-choice question are announced by the words."""


DEFAULT_STYLE = PromptStyle("vlmevalkit", VLMEVALKIT_CHOICE)
"""As VLMEvalKit asks where a model has no wrapper of its own."""
