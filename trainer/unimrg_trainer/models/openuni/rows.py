"""OpenUni's training rows: segments of text, an input image and queries, and how one is laid out for a task.

Every row is causal, and its queries come last (docs/method/openuni.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from unimrg_api.sizes.openuni import OpenUniConfig
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.models.base import Row
from unimrg_trainer.models.common.text import conversation, labelled, text_segment
from unimrg_trainer.models.openuni.template import Template
from unimrg_trainer.objectives.base import Task
from unimrg_trainer.packing.segments import Segment
from unimrg_trainer.sample import Sample


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSegment(Segment):
    """What the vision tower makes of a sample's image: scaled to the tower's size at once for questions, to the size
    of generated images first for generation."""

    sample: Sample
    for_question: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class QuerySegment(Segment):
    """The queries, whose states condition the generation of the sample's map."""

    sample: Sample
    map: ImageMap


@dataclass(frozen=True, eq=False)
class OpenUniRow(Row):
    """A sequence of the language model."""

    segments: tuple[Segment, ...]


def lay_out(config: OpenUniConfig, template: Template, objective: str, global_row: int, task: Task) -> OpenUniRow:
    """Return the row of a task.

    A loss term is a labelled token of an answer, or one number of a target's latents. A question with its answer is cut
    at the limit; UserError (65) for a question that leaves no room for its answer.
    """
    segments: list[Segment] = []
    with_image = task.sample.image is not None
    if with_image:
        segments.append(text_segment(template.opening()))
        segments.append(ImageSegment(length=config.vision.tokens, sample=task.sample, for_question=task.map is None))
    if task.map is None:
        question = template.question(task.prompt, with_image=with_image)
        text = conversation(task, question, template, config.question_limit)
        segments.append(text)
        loss_terms = labelled(text.labels)
    else:
        segments.append(text_segment(template.prompt(task.prompt, with_image=with_image)))
        segments.append(QuerySegment(length=config.queries, sample=task.sample, map=task.map))
        loss_terms = config.latent_terms
    return OpenUniRow(objective, global_row, loss_terms, tuple(segments))
