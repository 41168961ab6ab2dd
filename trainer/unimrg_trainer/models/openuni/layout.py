"""Places of some rows in the language model: which token, image or query stands where, and what is learnt there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from unimrg_trainer.models.common.text import IGNORE, TextSegment
from unimrg_trainer.models.openuni.config import OpenUniConfig
from unimrg_trainer.models.openuni.rows import ImageSegment, QuerySegment
from unimrg_trainer.packing.segments import Segment, is_plain_causal, positions, row_length, segment_starts, visibility


@dataclass
class Layout:
    """See the fields of the same names in `batch.OpenUniBatch`."""

    sources: np.ndarray
    positions: np.ndarray
    visibility: np.ndarray | None
    texts: list[int] = field(default_factory=list)
    returns: list[np.ndarray] = field(default_factory=list)
    predictors: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    labels_per_row: list[int] = field(default_factory=list)
    image_rows: list[int] = field(default_factory=list)
    target_rows: list[int] = field(default_factory=list)


def lay_out_rows(config: OpenUniConfig, rows: Sequence[Sequence[Segment]]) -> Layout:
    """Lay out rows of segments, padded at their ends to the longest."""
    count, length = len(rows), max(row_length(row) for row in rows)
    segments = [segment for row in rows for segment in row]
    next_image = sum(segment.length for segment in segments if isinstance(segment, TextSegment))
    images = sum(segment.length for segment in segments if isinstance(segment, ImageSegment))
    queries = next_image + images
    plain = all(is_plain_causal(row) for row in rows)
    layout = Layout(
        sources=np.full((count, length), queries + config.queries, dtype=np.int64),
        positions=np.zeros((count, length), dtype=np.int64),
        # a place beyond its row's end sees itself, so that no softmax is empty
        visibility=None if plain else np.tile(np.eye(length, dtype=bool), (count, 1, 1, 1)),
    )
    for index, row in enumerate(rows):
        here = row_length(row)
        layout.positions[index, :here] = positions(row)
        if layout.visibility is not None:
            layout.visibility[index, 0, :here, :here] = visibility(row)
        labelled = len(layout.labels)
        for segment, start in zip(row, segment_starts(row), strict=True):
            place = index * length + start
            if isinstance(segment, TextSegment):
                first = len(layout.texts)
                layout.texts.extend(segment.token_ids)
                _label(layout, segment, place)
            elif isinstance(segment, ImageSegment):
                first = next_image
                next_image += segment.length
                layout.image_rows.append(index)
            else:
                assert isinstance(segment, QuerySegment)
                first = queries
                layout.returns.append(place + np.arange(segment.length))
                layout.target_rows.append(index)
            layout.sources[index, start : start + segment.length] = first + np.arange(segment.length)
        layout.labels_per_row.append(len(layout.labels) - labelled)
    return layout


def _label(layout: Layout, segment: TextSegment, first: int) -> None:
    """Add the labels of a text segment, and the place that predicts each: the one before it in the segment."""
    for offset, label in enumerate(segment.labels):
        if label != IGNORE:
            assert offset > 0, "a segment's first token is not learnt"
            layout.predictors.append(first + offset - 1)
            layout.labels.append(label)
