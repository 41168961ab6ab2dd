"""Wordings of a request: the lists in `prompts/`, one wording per line, and how one of them is drawn."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from importlib import resources

import numpy as np

UNCONDITIONAL = "Generate an image."
"""The request that names nothing. Sampling without guidance uses the same words (method.md §2.1.9)."""


class Wording(StrEnum):
    """Which wordings training draws from."""

    LIST = "list"
    """Uniformly one line of the objective's list."""
    CANONICAL = "canonical"
    """Always the words that are used at inference."""


@cache
def load_prompts(name: str) -> tuple[str, ...]:
    """Return the lines of `prompts/<name>.txt`, without blank ones."""
    text = resources.files("unimrg_trainer.objectives").joinpath("prompts", f"{name}.txt").read_text("utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def draw_prompt(
    generator: np.random.Generator,
    name: str,
    canonical: str,
    *,
    wording: Wording,
    unconditional: float,
) -> str:
    """Draw a row's request: `UNCONDITIONAL` by its probability, else by `wording` (method.md §1.5)."""
    if generator.random() < unconditional:
        return UNCONDITIONAL
    if wording is Wording.CANONICAL:
        return canonical
    prompts = load_prompts(name)
    return prompts[int(generator.integers(len(prompts)))]
