"""Harmon's training rows: segments of text, input images and target images, and how a cohort of them is planned.

    answering:   <|im_start|>user⏎ [image] ⏎question<|im_end|>⏎<|im_start|>assistant⏎ answer<|im_end|>
                 ⏎<|im_start|>user⏎question<|im_end|>⏎<|im_start|>assistant⏎ answer<|im_end|>    for further turns
    generating:  <|im_start|>user⏎ [image] prompt<|im_end|>⏎<|im_start|>assistant⏎ [target]

Without an image the prompt follows the opening directly (docs/method/harmon.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from unimrg_api.sizes.harmon import HarmonConfig
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.models.base import RngFor, Row
from unimrg_trainer.models.common.text import conversation, labelled, text_segment
from unimrg_trainer.models.harmon.encodings import Geometry, image_encoding
from unimrg_trainer.models.harmon.template import Template
from unimrg_trainer.objectives.base import Task
from unimrg_trainer.packing.segments import Segment
from unimrg_trainer.sample import Sample


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
    """Draw a mask rate, normal and truncated to [mask_minimum, 1]; return the number of masked tokens, 1 … all.

    The rate is the inverse of the cumulative distribution at a uniform number: drawing until one fits may take forever
    where little of the distribution lies within the bounds.
    """
    normal = NormalDist(config.mask_mean, config.mask_deviation)
    place = rng.uniform(normal.cdf(config.mask_minimum), normal.cdf(1))
    # all of a distribution can lie below the minimum, as far as floats tell; its density is then highest there
    rate = normal.inv_cdf(place) if 0 < place < 1 else config.mask_minimum
    return max(1, int(np.ceil(config.tokens * min(max(rate, config.mask_minimum), 1))))


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
    """Return the row of a task.

    A loss term is a labelled token of an answer, or one of the `diffusion_repeats` uses of a masked token of a target.
    A text beyond the limit is cut at its end; UserError (65) for a question that leaves no room for its answer.
    """
    segments: list[Segment] = [text_segment(template.opening())]
    geometry = Geometry.PAD if task.map is None else Geometry.SQUASH
    with_image = image_encoding(config, geometry).present(task.sample)
    if with_image:
        segments.append(ImageSegment(length=config.image_slots, sample=task.sample, geometry=geometry))
    if task.map is None:
        question = template.question(task.prompt, with_image=with_image)
        text = conversation(task, question, template, config.question_limit)
        segments.append(text)
        loss_terms = labelled(text.labels)
    else:
        segments.append(text_segment(template.prompt(task.prompt)))
        length = config.tokens - masked + config.mar.buffers
        segments.append(TargetSegment(length=length, sample=task.sample, map=task.map, masked=masked))
        loss_terms = config.diffusion_repeats * masked
    return HarmonRow(objective, global_row, loss_terms, tuple(segments))
