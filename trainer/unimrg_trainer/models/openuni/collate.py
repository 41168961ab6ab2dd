"""From planned rows to the tensors of a micro-step, with every random number drawn by its rng key. Runs on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unimrg_trainer.maps.geometry import squash
from unimrg_trainer.models.base import RngFor
from unimrg_trainer.models.common.layout import SequenceBuilder, lay_out
from unimrg_trainer.models.common.text import TextSegment
from unimrg_trainer.models.common.unique_images import UniqueImages
from unimrg_trainer.models.openuni.batch import OpenUniBatch
from unimrg_trainer.models.openuni.config import OpenUniConfig
from unimrg_trainer.models.openuni.rows import ImageSegment, OpenUniRow, QuerySegment
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.packing.packed import RowTokens
from unimrg_trainer.packing.segments import Segment, row_tokens, segment_slices


@dataclass(frozen=True, eq=False)
class Pictures:
    """The different images of a micro-step, and who uses them; see the fields of the same names in `OpenUniBatch`."""

    tiles: Tensor
    squares: Tensor
    read: int
    learnt: Sequence[int]
    image_of_row: Sequence[int | None]
    targets: Sequence[int]


def collate(config: OpenUniConfig, rows: Sequence[OpenUniRow], rng: RngFor, composition: Composition) -> OpenUniBatch:
    """Build the batch of some rows; floats in float32, σ in float64.

    Of each target are drawn, with the key of its row and its map in the purpose: its time (`time/…`), uniform in
    1 … train_timesteps, and its noise (`noise/…`).
    """
    queries = [(row, segment) for row in rows for segment in row.segments if isinstance(segment, QuerySegment)]
    times, noises = [], []
    for row, segment in queries:
        time_rng, noise_rng = (
            rng(row.objective, row.global_row, f"{purpose}/{segment.map.name}") for purpose in ("time", "noise")
        )
        times.append(1 + int(time_rng.integers(config.train_timesteps)))
        noises.append(noise_rng.standard_normal(config.latent_shape, dtype=np.float32))
    return assemble(
        config,
        [row.segments for row in rows],
        _pictures(config, rows, [segment for _, segment in queries]),
        timesteps=torch.tensor(times, dtype=torch.float32),
        sigmas=torch.tensor(times, dtype=torch.float64) / config.train_timesteps,
        noise=torch.from_numpy(np.stack(noises) if noises else np.zeros((0, *config.latent_shape), dtype=np.float32)),
        composition=composition,
    )


def assemble(
    config: OpenUniConfig,
    rows: Sequence[Sequence[Segment]],
    pictures: Pictures,
    *,
    timesteps: Tensor,
    sigmas: Tensor,
    noise: Tensor,
    composition: Composition = Composition.OFFICIAL,
) -> OpenUniBatch:
    """Lay out rows of segments, and put places, images and random inputs together."""
    tokens = [_row_tokens(row, image) for row, image in zip(rows, pictures.image_of_row, strict=True)]
    layout = lay_out(tokens, composition)
    first_query = 1 + (len(pictures.tiles) + pictures.read) * config.vision.tokens
    builder = SequenceBuilder(layout, first_query + config.queries)
    returns, target_rows = [], []
    for index, (row, image) in enumerate(zip(rows, pictures.image_of_row, strict=True)):
        for segment, at in zip(row, segment_slices(row), strict=True):
            if isinstance(segment, QuerySegment):
                builder.put(index, at, first_query + np.arange(segment.length))
                returns.append(builder.places(index, at))
                target_rows.append(index)
            elif isinstance(segment, ImageSegment):
                assert image is not None
                builder.put(index, at, 1 + image * segment.length + np.arange(segment.length))
            else:
                assert isinstance(segment, TextSegment)
                builder.put_text(index, at, segment)
    return OpenUniBatch(
        tiles=pictures.tiles,
        squares=pictures.squares,
        read=pictures.read,
        learnt=_index(pictures.learnt),
        features=None,
        latents=None,
        texts=_index(builder.texts),
        sources=_index(builder.sources.reshape(layout.positions.shape)),
        positions=_index(layout.positions),
        attention=layout.attention,
        targets=_index(pictures.targets),
        returns=_index(np.stack(returns) if returns else np.zeros((0, config.queries))),
        timesteps=timesteps,
        sigmas=sigmas,
        noise=noise,
        predictors=_index(builder.predictors),
        labels=_index(builder.labels),
        labels_per_row=tuple(builder.labels_per_row),
        image_of_row=tuple(pictures.image_of_row),
        target_rows=tuple(target_rows),
    )


def _pictures(config: OpenUniConfig, rows: Sequence[OpenUniRow], queries: Sequence[QuerySegment]) -> Pictures:
    """Scale what the rows read and make what they learn, each once; all are stretched to squares."""
    tiles, squares = UniqueImages(config.vision.size), UniqueImages(config.image_size)
    tile_of_row, square_of_row = {}, {}
    for index, row in enumerate(rows):
        for segment in row.segments:
            if isinstance(segment, ImageSegment):
                image = segment.sample.image
                assert image is not None
                if segment.for_question:
                    tile_of_row[index] = tiles.scale(image, squash)
                else:
                    square_of_row[index] = squares.scale(image, squash)
    read = len(set(square_of_row.values()))
    made = [squares.add(segment.map.target(segment.sample, config.image_size)) for segment in queries]
    learnt, targets = np.unique(np.asarray(made, dtype=np.int64), return_inverse=True)
    stacked = tiles.stacked()
    feature_of_row = tile_of_row | {row: len(stacked) + square for row, square in square_of_row.items()}
    image_of_row = [feature_of_row.get(index) for index in range(len(rows))]
    return Pictures(stacked, squares.stacked(), read, learnt.tolist(), image_of_row, targets.tolist())


def _row_tokens(row: Sequence[Segment], image: int | None) -> RowTokens:
    """Rows of one image begin with the same opening and the image."""
    opening = row[0]
    assert isinstance(opening, TextSegment)
    return row_tokens(row, 2, (opening.token_ids, image)) if image is not None else row_tokens(row)


def _index(values: np.ndarray | Sequence[int]) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int64))
