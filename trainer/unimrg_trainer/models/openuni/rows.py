"""OpenUni's training rows: segments of text, an input image and queries, and how one is laid out for a task.

Every row is causal, and its queries come last (docs/method/openuni.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.models.base import Row
from unimrg_trainer.models.openuni.config import OpenUniConfig
from unimrg_trainer.models.openuni.template import Template
from unimrg_trainer.objectives.base import Task
from unimrg_trainer.packing.segments import Segment
from unimrg_trainer.sample import Sample

IGNORE = -100
"""Label of a token that no loss is computed for."""


@dataclass(frozen=True, kw_only=True)
class TextSegment(Segment):
    """Tokens of text; `labels` holds the token's own id where it is to be predicted, else IGNORE."""

    token_ids: tuple[int, ...]
    labels: tuple[int, ...]


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
    """Return the row of a task, a chain of segments.

    A loss term is a labelled token of an answer, or one number of a target's latents. A question with its answer is cut
    at the limit; UserError (65) for a question that leaves no room for its answer.
    """
    segments: list[Segment] = []
    with_image = task.sample.image is not None
    if with_image:
        segments.append(text_segment(template.opening()))
        segments.append(
            ImageSegment(length=config.vision.tokens, parent=0, sample=task.sample, for_question=task.map is None)
        )
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
        segments.append(text_segment(ids, parent, ([IGNORE] * len(question) + answer)[: len(ids)]))
    else:
        segments.append(text_segment(template.prompt(task.prompt, with_image=with_image), parent))
        segments.append(QuerySegment(length=config.queries, parent=parent + 1, sample=task.sample, map=task.map))
        loss_terms = config.latent_terms
    return OpenUniRow(objective, global_row, loss_terms, tuple(segments))


def text_segment(ids: list[int], parent: int = -1, labels: list[int] | None = None) -> TextSegment:
    """Return a segment of text; without labels nothing of it is learnt."""
    labels = [IGNORE] * len(ids) if labels is None else labels
    return TextSegment(length=len(ids), parent=parent, token_ids=tuple(ids), labels=tuple(labels))
