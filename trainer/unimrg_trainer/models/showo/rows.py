"""Show-o's rows: parts of text, input images and images to generate, with positions and visibility.

    answering, CLIP:   mmu system soi [image] eoi question answer [question answer …]
    answering, codes:  mmu soi [image] eoi question answer [question answer …]
    generating:        mmu soi [image] eoi sot prompt eot … soi [codes] eoi
    without an image:  t2i sot prompt eot soi [codes] eoi

A position is a token's index in the published row, where texts are padded to a fixed length: the image to generate has
a fixed place. The pads, which nothing attends to, are left out (docs/method/showo.md). All up to the eoi of an input
image may be shared with other rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from unimrg_api.sizes.showo import ShowOConfig
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.models.base import RngFor, Row
from unimrg_trainer.models.common.text import IGNORE, TextSegment, conversation, labelled
from unimrg_trainer.models.showo.encodings import Use, image_encoding
from unimrg_trainer.models.showo.template import Template
from unimrg_trainer.objectives.base import Task
from unimrg_trainer.packing.packed import RowTokens
from unimrg_trainer.packing.segments import Segment, row_length, segment_slices
from unimrg_trainer.sample import Sample


@dataclass(frozen=True, kw_only=True)
class Part(Segment):
    """Tokens with positions that count up from `first`; each sees itself and all before it."""

    first: int
    block: int = -1
    """Tokens of all parts with the same number ≥ 0 see each other."""
    seen_by_all: bool = False
    """Every token of the row sees these."""

    @property
    def end(self) -> int:
        """Position behind the last token."""
        return self.first + self.length


@dataclass(frozen=True, kw_only=True)
class TextPart(Part):
    """Tokens of text; `labels` holds the token's own id where it is to be predicted, else IGNORE."""

    token_ids: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePart(Part):
    """An input image: the tower's features, or codes."""

    sample: Sample
    use: Use


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetPart(Part):
    """The codes of an image to generate."""

    sample: Sample
    map: ImageMap
    masked: int
    """Number of masked codes: those that are predicted, each from its own place."""


@dataclass(frozen=True, eq=False)
class ShowORow(Row):
    """A sequence of the language model."""

    parts: tuple[Part, ...]


def positions(parts: Sequence[Part]) -> np.ndarray:
    """Position of each token, int [L]."""
    return np.concatenate([np.arange(part.first, part.end) for part in parts])


def visibility(parts: Sequence[Part]) -> np.ndarray:
    """Which token attends to which: bool [L, L], True where the query (first axis) sees the key."""
    length = row_length(parts)
    sees = np.tri(length, dtype=bool)
    blocks = np.repeat([part.block for part in parts], [part.length for part in parts])
    sees |= (blocks[:, None] == blocks) & (blocks >= 0)
    for part, tokens in zip(parts, segment_slices(parts), strict=True):
        if part.seen_by_all:
            sees[:, tokens] = True
    return sees


def row_tokens(parts: Sequence[Part], image: Hashable) -> RowTokens:
    """Describe the row to `pack_rows`; `image` says what its ImagePart shows, if it has one.

    Rows share all up to the `eoi` of an input image where these tokens are truly equal: in what they stand for, in
    their positions and in what they see. So answers about an image share with one another, and so do generations;
    but generations from codes only if their prompts have equally many tokens, on which the source's position depends.
    """
    causal = not any(part.seen_by_all or part.block >= 0 for part in parts)
    sees = None if causal else visibility(parts)
    shown = next((index for index, part in enumerate(parts) if isinstance(part, ImagePart)), None)
    if shown is None:
        return RowTokens(positions(parts), sees)
    prefix = parts[: shown + 2]
    key = tuple(
        (part.first, part.length, part.block, part.seen_by_all, part.token_ids if isinstance(part, TextPart) else image)
        for part in prefix
    )
    return RowTokens(positions(parts), sees, row_length(prefix), key)


def draw_masked(config: ShowOConfig, rng: np.random.Generator) -> int:
    """Draw how many codes are masked: N · cos(π t / 2) with uniform t, rounded, at least 1."""
    return max(1, int(np.round(config.tokens * np.cos(rng.random() * np.pi / 2))))


def plan_row(
    config: ShowOConfig, template: Template, objective: str, global_row: int, task: Task, rng: RngFor
) -> ShowORow:
    """Return the row of a task. A loss term is a token of an answer, or a masked code.

    A text beyond the limit is cut at its end; UserError (65) for a question that leaves no room for its answer.
    """
    encoding = image_encoding(config, Use.QUESTION if task.map is None else Use.SOURCE)
    image = task.sample if encoding.present(task.sample) else None
    if task.map is not None:
        masked = draw_masked(config, rng(objective, global_row, "mask-rate"))
        prompt = template.prompt(task.prompt) if image else template.caption(task.prompt)
        before = generation_prompt(config, prompt, image)
        parts = [*before, *generated(config, task.sample, task.map, masked, with_source=image is not None)]
        return ShowORow(objective, global_row, masked, tuple(parts))
    text = conversation(task, template.question(task.prompt), template, config.question_limit)
    answered = answering(config, template.system, text, image)
    return ShowORow(objective, global_row, labelled(text.labels), answered)


def answering(config: ShowOConfig, system: Sequence[int], text: TextSegment, image: Sample | None) -> tuple[Part, ...]:
    """A question with its answer, which is predicted, and further turns; the question alone at inference."""
    opening = [config.special("mmu"), *system]
    if image is None:
        return (_text(0, [*opening, *text.token_ids], [IGNORE] * len(opening) + list(text.labels)),)
    codes = config.clip is None  # then all that precedes the text is seen by all, else the image alone
    before = _text(0, [*opening, config.special("soi")], seen_by_all=codes)
    length = config.tokens if codes else config.source_tokens
    shown = ImagePart(length=length, first=before.end, seen_by_all=True, sample=image, use=Use.QUESTION)
    end = _text(shown.end, [config.special("eoi")], seen_by_all=codes)
    return before, shown, end, _text(end.end, text.token_ids, text.labels)


def generation_prompt(config: ShowOConfig, prompt: Sequence[int], source: Sample | None) -> tuple[Part, ...]:
    """All that precedes the image to generate; `prompt` has its sot and eot."""
    if source is None:
        text = [config.special("t2i"), *prompt]
        return (_text(config.caption_limit + 1 - len(text), text),)
    codes = config.clip is None
    block = 0 if codes else -1
    task = _text(config.row_limit - len(prompt) if codes else 0, [config.special("mmu")])
    start = _text(task.end, [config.special("soi")], block=block)
    shown = ImagePart(
        length=config.source_tokens, first=start.end, block=block, seen_by_all=not codes, sample=source, use=Use.SOURCE
    )
    end = _text(shown.end, [config.special("eoi")], block=block)
    return task, start, shown, end, _text(end.end, prompt)


def block_start(config: ShowOConfig, *, with_source: bool) -> int:
    """Position of the `soi` of an image to generate."""
    if not with_source:
        return config.caption_limit + 1
    return config.source_tokens + 3 + (config.prompt_limit if config.clip else config.row_limit)


def generated(
    config: ShowOConfig, sample: Sample, map: ImageMap, masked: int, *, with_source: bool
) -> tuple[Part, Part, Part]:
    """The image to generate between its `soi` and `eoi`."""
    ends = 1 if config.ends_in_block else -1
    start = _text(block_start(config, with_source=with_source), [config.special("soi")], block=ends)
    codes = TargetPart(length=config.tokens, first=start.end, block=1, sample=sample, map=map, masked=masked)
    return start, codes, _text(codes.end, [config.special("eoi")], block=ends)


def _text(
    first: int, ids: Sequence[int], labels: Sequence[int] | None = None, *, block: int = -1, seen_by_all: bool = False
) -> TextPart:
    return TextPart(
        length=len(ids),
        first=first,
        block=block,
        seen_by_all=seen_by_all,
        token_ids=tuple(ids),
        labels=tuple([IGNORE] * len(ids) if labels is None else labels),
    )
