"""What a micro-step computes, as pure data: rows of segments, the images they read, the targets they learn.

A **row** is one sequence of the language model. It is a tree of **segments**: a token sees its own segment up to
itself and the whole of every ancestor segment, and nothing else. A row whose segments form a chain is plain causal
attention (the `official` composition: one objective per row, nothing shared). Positions continue after the parent's
last token, so sibling branches restart at the same position (method.md §6.2 item 3).

Everything a loss needs from outside (label, hidden-token count, absolute weight) stands in the plan, so that a plan
can be compared, hashed and tested without a device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum

import numpy as np

IGNORE = -100
"""Label of a token that no loss is computed for."""


class SegmentKind(StrEnum):
    TEXT = "text"
    IMAGE = "image"
    TARGET = "target"


class Geometry(StrEnum):
    """How a photograph becomes a square (method.md §1.6)."""

    PAD = "pad"
    SQUASH = "squash"


@dataclass(frozen=True)
class Segment:
    """A run of tokens of one kind.

    `parent` is the index (within the row) of the segment that this one continues, −1 at the start of the row.
    TEXT: `token_ids` and, of equal length, `labels` (the token's own id where it is to be predicted, else IGNORE).
    IMAGE: `image` indexes `Plan.images`. TARGET: `target` indexes `Plan.targets`.
    """

    kind: SegmentKind
    length: int
    parent: int
    token_ids: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    image: int = -1
    target: int = -1


@dataclass(frozen=True)
class ImageInput:
    """An image given to the understanding encoder: which sample of the micro-batch, in which geometry."""

    sample: int
    geometry: Geometry


@dataclass(frozen=True)
class Target:
    """An image to generate: which representation of which sample, and how many of its tokens are hidden."""

    sample: int
    representation: str
    hidden: int


@dataclass(frozen=True)
class Row:
    """One sequence of one objective.

    `count` is the number of units of its loss (labelled tokens, or diffusion rows); `weight` is the absolute weight of
    one unit, so that the weighted sum over all rows of the whole world is the step's loss (seams.md §7).
    """

    objective: str
    global_row: int
    segments: tuple[Segment, ...]
    count: int
    weight: float

    @property
    def length(self) -> int:
        return sum(segment.length for segment in self.segments)

    def starts(self) -> list[int]:
        """Offset of each segment within the row."""
        return list(np.cumsum([0, *(s.length for s in self.segments)])[:-1].tolist())

    def is_chain(self) -> bool:
        """True if every segment continues the one before it: plain causal attention."""
        return all(segment.parent == index - 1 for index, segment in enumerate(self.segments))

    def positions(self) -> np.ndarray:
        """Position id of each token [length]: continues after the parent's last token."""
        ends: list[int] = []
        parts = []
        for segment in self.segments:
            first = ends[segment.parent] if segment.parent >= 0 else 0
            parts.append(np.arange(first, first + segment.length))
            ends.append(first + segment.length)
        return np.concatenate(parts)

    def visibility(self) -> np.ndarray:
        """Which token sees which: bool [length, length], True where the query (first axis) sees the key."""
        starts = self.starts()
        sees = np.zeros((self.length, self.length), dtype=bool)
        for index, segment in enumerate(self.segments):
            rows = slice(starts[index], starts[index] + segment.length)
            sees[rows, rows] = np.tril(np.ones((segment.length, segment.length), dtype=bool))
            ancestor = segment.parent
            while ancestor >= 0:
                sees[rows, starts[ancestor] : starts[ancestor] + self.segments[ancestor].length] = True
                ancestor = self.segments[ancestor].parent
        return sees


@dataclass(frozen=True)
class Plan:
    """All that one forward and one backward compute on one rank."""

    rows: tuple[Row, ...]
    images: tuple[ImageInput, ...]
    targets: tuple[Target, ...]
    target_rows: tuple[int, ...] = field(default=())
    """For each target the index of the row that learns it."""

    def digest(self) -> str:
        """sha256 of the plan's content."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def rows_digest(self) -> int:
        """A number made of (objective, global row) of every row: the address of torch-drawn randomness (dropout)."""
        text = json.dumps([(row.objective, row.global_row) for row in self.rows])
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    def objectives(self) -> list[str]:
        """Names of the objectives, in order of first appearance."""
        return list(dict.fromkeys(row.objective for row in self.rows))


@dataclass(frozen=True)
class PlannedRow:
    """A row before packing: what an objective asks for, laid out by a family in its own tokens.

    Segments refer to image 0 (the row's own input image) and target 0 (its own target, if any); packing renumbers.
    """

    objective: str
    global_row: int
    sample: int
    geometry: Geometry
    segments: tuple[Segment, ...]
    count: int
    weight: float
    representation: str | None = None
    hidden: int = 0


def pack_official(rows: Sequence[PlannedRow]) -> Plan:
    """Pack rows without sharing anything: every row has its own image pass and its own sequence (`official`)."""
    images: list[ImageInput] = []
    targets: list[Target] = []
    target_rows: list[int] = []
    packed: list[Row] = []
    for row in rows:
        segments = []
        for segment in row.segments:
            image, target = segment.image, segment.target
            if segment.kind is SegmentKind.IMAGE:
                image = len(images)
                images.append(ImageInput(row.sample, row.geometry))
            elif segment.kind is SegmentKind.TARGET:
                assert row.representation is not None
                target = len(targets)
                targets.append(Target(row.sample, row.representation, row.hidden))
                target_rows.append(len(packed))
            segments.append(
                Segment(
                    segment.kind,
                    segment.length,
                    segment.parent,
                    segment.token_ids,
                    segment.labels,
                    image,
                    target,
                )
            )
        packed.append(Row(row.objective, row.global_row, tuple(segments), row.count, row.weight))
    return Plan(tuple(packed), tuple(images), tuple(targets), tuple(target_rows))
