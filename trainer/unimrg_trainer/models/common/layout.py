"""Where the tokens of rows stand in the language model's input: one sequence for each row, or one for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimrg_trainer.models.common.attention import Attention, packed_attention
from unimrg_trainer.models.common.batches import TensorBatch, index_tensor
from unimrg_trainer.models.common.text import IGNORE, TextSegment
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.packing.packed import RowTokens, pack_rows


@dataclass(frozen=True, eq=False)
class RowLayout:
    """The places of B sequences of L tokens, counted through: sequence · L + offset."""

    places: tuple[np.ndarray, ...]
    """Of each row, int: the place of each token."""
    positions: np.ndarray
    """int [B, L]: position ids."""
    attention: Attention


def lay_out(rows: Sequence[RowTokens], composition: Composition) -> RowLayout:
    """Give every token a place."""
    if composition.packed:
        packed = pack_rows(rows)
        attention = packed_attention(packed, composition)
        return RowLayout(packed.places, packed.positions[None], attention)
    length = max(row.length for row in rows)
    positions = np.zeros((len(rows), length), dtype=np.int64)
    for index, row in enumerate(rows):
        positions[index, : row.length] = row.positions
    places = tuple(index * length + np.arange(row.length) for index, row in enumerate(rows))
    return RowLayout(places, positions, _mask(rows, length))


def _mask(rows: Sequence[RowTokens], length: int) -> Attention:
    """bool [R, 1, L, L], None where every row is causal. A place beyond its row's end sees itself: no softmax is
    empty."""
    if all(row.visibility is None for row in rows):
        return None
    mask = torch.eye(length, dtype=torch.bool).repeat(len(rows), 1, 1, 1)
    for index, row in enumerate(rows):
        own = np.tri(row.length, dtype=bool) if row.visibility is None else row.visibility
        mask[index, 0, : row.length, : row.length] = torch.from_numpy(own)
    return mask


@dataclass(frozen=True, eq=False)
class SequenceBatch(TensorBatch):
    """Base of the families' batches: the language model's input, B sequences of L places, and what rows learn there.

    Places are flat indices sequence·L + offset.
    """

    texts: Tensor
    """int [T]: token ids of all texts."""
    sources: Tensor
    """int [B, L]: what stands at each place, a row of a table that the family puts together, texts last."""
    positions: Tensor
    """int [B, L]: position ids."""
    attention: Attention
    predictors: Tensor
    """int [N]: the place whose output predicts each labelled token, row by row."""
    labels: Tensor
    """int [N]: that token, as the family numbers it."""
    labels_per_row: tuple[int, ...]
    """Labelled tokens of each row."""

    def row_sums(self, losses: Tensor) -> list[Tensor]:
        """Sum the losses [N] of the labelled tokens for each row."""
        return [part.sum() for part in torch.split(losses, list(self.labels_per_row))]


class SequenceBuilder:
    """Fills in, row by row, what stands at each place and which tokens are predicted where.

    A source is an index in a table of embeddings that the family puts together: zeros for places without a token, its
    own images and targets, and from `first_text` on the texts. Rows that share places say the same of them.
    """

    def __init__(self, layout: RowLayout, first_text: int) -> None:
        self.layout = layout
        self._first_text = first_text
        self.sources = np.zeros(layout.positions.size, dtype=np.int64)
        """int [B · L]: the source of each place."""
        self.texts: list[int] = []
        self.predictors: list[int] = []
        """The place whose output predicts each labelled token, row by row."""
        self.labels: list[int] = []
        self.labels_per_row = [0] * len(layout.places)

    def places(self, row: int, tokens: slice) -> np.ndarray:
        """Return the places of some tokens of a row."""
        return self.layout.places[row][tokens]

    def put(self, row: int, tokens: slice, sources: np.ndarray) -> None:
        """Say what stands at some tokens of a row."""
        self.sources[self.places(row, tokens)] = sources

    def put_tokens(self, row: int, tokens: slice, ids: Sequence[int]) -> np.ndarray:
        """Add token ids, and return their sources."""
        sources = self._first_text + len(self.texts) + np.arange(len(ids))
        self.put(row, tokens, sources)
        self.texts.extend(ids)
        return sources

    def put_text(self, row: int, tokens: slice, text: TextSegment) -> None:
        """Add a text; each of its labelled tokens is predicted at the token before it."""
        self.put_tokens(row, tokens, text.token_ids)
        labelled = np.flatnonzero(np.array(text.labels) != IGNORE)
        self.learn(row, tokens.start + labelled - 1, np.array(text.labels)[labelled])

    def learn(self, row: int, tokens: np.ndarray, labels: np.ndarray) -> None:
        """Have some tokens of a row predict these labels."""
        self.predictors.extend(self.layout.places[row][tokens])
        self.labels.extend(labels)
        self.labels_per_row[row] += len(labels)

    def fields(self) -> dict[str, Any]:
        """Return what a `SequenceBatch` has, by name."""
        return {
            "texts": index_tensor(self.texts),
            "sources": index_tensor(self.sources.reshape(self.layout.positions.shape)),
            "positions": index_tensor(self.layout.positions),
            "attention": self.layout.attention,
            "predictors": index_tensor(self.predictors),
            "labels": index_tensor(self.labels),
            "labels_per_row": tuple(self.labels_per_row),
        }
