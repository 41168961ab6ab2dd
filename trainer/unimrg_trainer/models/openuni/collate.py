"""From planned rows to the tensors of a micro-step, with every random number drawn by its rng key. Runs on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unimrg_api.sizes.openuni import OpenUniConfig
from unimrg_trainer.models.base import RngFor
from unimrg_trainer.models.common.batches import index_tensor
from unimrg_trainer.models.common.layout import SequenceBuilder, lay_out
from unimrg_trainer.models.common.text import TextSegment
from unimrg_trainer.models.common.unique_images import Images, UniqueImages
from unimrg_trainer.models.openuni.batch import OpenUniBatch
from unimrg_trainer.models.openuni.encodings import codec_encoder, image_encoding
from unimrg_trainer.models.openuni.rows import ImageSegment, OpenUniRow, QuerySegment
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.packing.packed import RowTokens
from unimrg_trainer.packing.segments import Segment, row_tokens, segment_slices


@dataclass(frozen=True, eq=False)
class BatchImages:
    """The different images of a micro-step, and who uses them; see the fields of the same names in `OpenUniBatch`."""

    tiles: Images
    squares: Images
    pictures: Images
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
        _collect(config, rows, [segment for _, segment in queries]),
        timesteps=torch.tensor(times, dtype=torch.float32),
        sigmas=torch.tensor(times, dtype=torch.float64) / config.train_timesteps,
        noise=torch.from_numpy(np.stack(noises) if noises else np.zeros((0, *config.latent_shape), dtype=np.float32)),
        composition=composition,
    )


def assemble(
    config: OpenUniConfig,
    rows: Sequence[Sequence[Segment]],
    images: BatchImages,
    *,
    timesteps: Tensor,
    sigmas: Tensor,
    noise: Tensor,
    composition: Composition = Composition.OFFICIAL,
) -> OpenUniBatch:
    """Lay out rows of segments, and put places, images and random inputs together."""
    tokens = [_row_tokens(row, image) for row, image in zip(rows, images.image_of_row, strict=True)]
    layout = lay_out(tokens, composition)
    first_query = 1 + (len(images.tiles) + len(images.squares)) * config.vision.tokens
    builder = SequenceBuilder(layout, first_query + config.queries)
    returns, target_rows = [], []
    for index, (row, image) in enumerate(zip(rows, images.image_of_row, strict=True)):
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
        tiles=images.tiles,
        squares=images.squares,
        pictures=images.pictures,
        features=None,
        latents=None,
        targets=index_tensor(images.targets),
        returns=index_tensor(np.stack(returns) if returns else np.zeros((0, config.queries))),
        timesteps=timesteps,
        sigmas=sigmas,
        noise=noise,
        **builder.fields(),
        image_of_row=tuple(images.image_of_row),
        target_rows=tuple(target_rows),
    )


def _collect(config: OpenUniConfig, rows: Sequence[OpenUniRow], queries: Sequence[QuerySegment]) -> BatchImages:
    """Scale what the rows read and make what they learn, each once; all are stretched to squares."""
    question, source = (image_encoding(config, for_question=asked) for asked in (True, False))
    tiles, squares = UniqueImages(question.encoder), UniqueImages(source.encoder)
    tile_of_row, square_of_row = {}, {}
    for index, row in enumerate(rows):
        for segment in row.segments:
            if isinstance(segment, ImageSegment) and segment.for_question:
                tile_of_row[index] = tiles.read(segment.sample, question)
            elif isinstance(segment, ImageSegment):
                square_of_row[index] = squares.read(segment.sample, source)
    codec = codec_encoder(config)
    pictures = UniqueImages(codec)
    targets = [pictures.add(segment.sample, codec.of_map(segment.map)) for segment in queries]
    read = tiles.collected()
    feature_of_row = tile_of_row | {row: len(read) + square for row, square in square_of_row.items()}
    image_of_row = [feature_of_row.get(index) for index in range(len(rows))]
    return BatchImages(read, squares.collected(), pictures.collected(), image_of_row, targets)


def _row_tokens(row: Sequence[Segment], image: int | None) -> RowTokens:
    """Rows of one image begin with the same opening and the image."""
    opening = row[0]
    assert isinstance(opening, TextSegment)
    return row_tokens(row, 2, (opening.token_ids, image)) if image is not None else row_tokens(row)
