"""Harmon's training rows: segments of text, input images and target images, and how a cohort of them is planned.

    answering:   <|im_start|>user⏎ [image] ⏎question<|im_end|>⏎<|im_start|>assistant⏎ answer<|im_end|>
    generating:  <|im_start|>user⏎ [image] prompt<|im_end|>⏎<|im_start|>assistant⏎ [target]

Without an image the prompt follows the opening directly (docs/method/harmon.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.models.base import RngFor, Row
from unimrg_trainer.models.harmon.config import HarmonConfig
from unimrg_trainer.models.harmon.template import Template
from unimrg_trainer.objectives.base import Task
from unimrg_trainer.packing.segments import Segment
from unimrg_trainer.sample import Sample

IGNORE = -100
"""Label of a token that no loss is computed for."""


class Geometry(StrEnum):
    """How an image becomes a square (docs/method/recipe.md)."""

    PAD = "pad"
    """Centred on a grey square: for questions."""
    SQUASH = "squash"
    """Stretched: for the source of a generation."""


@dataclass(frozen=True, kw_only=True)
class TextSegment(Segment):
    """Tokens of text; `labels` holds the token's own id where it is to be predicted, else IGNORE."""

    token_ids: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSegment(Segment):
    """The encoded image of a sample: its tokens, then the buffers."""

    sample: Sample
    geometry: Geometry


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetSegment(Segment):
    """The visible tokens of an image to generate, then the buffers."""

    sample: Sample
    map: ImageMap
    masked: int
    """Number of masked tokens: those whose loss is computed."""


@dataclass(frozen=True, eq=False)
class HarmonRow(Row):
    """A sequence of the language model."""

    segments: tuple[Segment, ...]


def draw_masked(config: HarmonConfig, rng: np.random.Generator) -> int:
    """Draw a mask rate, normal and truncated to [mask_minimum, 1]; return the number of masked tokens, 1 … all."""
    while True:
        rate = rng.normal(config.mask_mean, config.mask_deviation)
        if config.mask_minimum <= rate <= 1:
            return int(np.ceil(config.tokens * rate))


def plan_cohort(
    config: HarmonConfig, template: Template, objective: str, tasks: Sequence[tuple[int, Task]], rng: RngFor
) -> list[HarmonRow]:
    """Lay out one row per task; all targets of a cohort have the same number of masked tokens."""
    generates = any(task.map is not None for _, task in tasks)
    masked = draw_masked(config, rng(objective, tasks[0][0], "mask-rate")) if generates else 0
    return [lay_out(config, template, objective, number, task, masked) for number, task in tasks]


def lay_out(
    config: HarmonConfig, template: Template, objective: str, global_row: int, task: Task, masked: int
) -> HarmonRow:
    """Return the row of a task, a chain of segments.

    A loss term is a labelled token of an answer, or one of the `diffusion_repeats` uses of a masked token of a target.
    A text beyond the limit is cut at its end; UserError (65) for a question that leaves no room for its answer.
    """
    segments: list[Segment] = [_text(template.opening())]
    with_image = task.sample.image is not None
    if with_image:
        geometry = Geometry.PAD if task.map is None else Geometry.SQUASH
        segments.append(ImageSegment(length=config.image_slots, parent=0, sample=task.sample, geometry=geometry))
    parent = len(segments) - 1
    if task.map is None:
        assert task.answer is not None
        question, answer = template.question(task.prompt, with_image=with_image), template.answer(task.answer)
        ids = (question + answer)[: config.question_limit]
        loss_terms = len(ids) - len(question)
        if loss_terms <= 0:
            raise UserError(
                f"sample {task.sample.key!r}: a question of {len(question)} tokens leaves no room for its answer "
                f"within {config.question_limit}: {task.prompt[:60]!r}",
                remedy="shorten or drop the sample",
                exit_code=ExitCode.DATA_CORRUPT,
            )
        labels = ([IGNORE] * len(question) + answer)[: len(ids)]
        segments.append(_text(ids, parent, labels))
    else:
        segments.append(_text(template.prompt(task.prompt), parent))
        length = config.tokens - masked + config.mar.buffers
        segments.append(
            TargetSegment(length=length, parent=parent + 1, sample=task.sample, map=task.map, masked=masked)
        )
        loss_terms = config.diffusion_repeats * masked
    return HarmonRow(objective, global_row, loss_terms, tuple(segments))


def _text(ids: list[int], parent: int = -1, labels: list[int] | None = None) -> TextSegment:
    labels = [IGNORE] * len(ids) if labels is None else labels
    return TextSegment(length=len(ids), parent=parent, token_ids=tuple(ids), labels=tuple(labels))
