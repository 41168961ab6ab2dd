"""From planned rows to the tensors of a micro-step, with every random number drawn by its rng key. Runs on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from unimrg_api.sizes.harmon import HarmonConfig
from unimrg_trainer.models.base import RngFor
from unimrg_trainer.models.common.batches import index_tensor
from unimrg_trainer.models.common.layout import SequenceBuilder, lay_out
from unimrg_trainer.models.common.text import TextSegment
from unimrg_trainer.models.common.unique_images import Images, UniqueImages
from unimrg_trainer.models.harmon.batch import HarmonBatch
from unimrg_trainer.models.harmon.diffusion import row_coefficients, training_schedule
from unimrg_trainer.models.harmon.encodings import codec_encoder, image_encoding
from unimrg_trainer.models.harmon.rows import HarmonRow, ImageSegment, TargetSegment
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.packing.packed import RowTokens
from unimrg_trainer.packing.segments import row_tokens, segment_slices


def collate(config: HarmonConfig, rows: Sequence[HarmonRow], rng: RngFor, composition: Composition) -> HarmonBatch:
    """Build the batch of some rows; floats in float32, coefficients in float64.

    Of each target are drawn, with the key of its row and its map in the purpose: which tokens are masked (`order/…`),
    and for each of these its time steps (`time/…`) and noise (`noise/…`).
    """
    encoder = codec_encoder(config)
    unique = UniqueImages(encoder)
    segments = [(row, segment) for row in rows for segment in row.segments]
    images = [
        unique.read(segment.sample, image_encoding(config, segment.geometry))
        for _, segment in segments
        if isinstance(segment, ImageSegment)
    ]
    targets = [(row, segment) for row, segment in segments if isinstance(segment, TargetSegment)]
    target_images = [unique.add(target.sample, encoder.of_map(target.map)) for _, target in targets]
    draws = [_draw(config, row, target, rng) for row, target in targets]
    return assemble(config, rows, draws, images, target_images, unique.collected(), composition)


@dataclass(frozen=True, eq=False)
class TargetDraws:
    """The random inputs of one target with M masked tokens."""

    masked: np.ndarray
    """int [M]: the masked tokens, in raster order."""
    timesteps: np.ndarray
    """int [M, P]: of each use of each masked token."""
    noise: np.ndarray
    """float [M, P, C]."""


def assemble(
    config: HarmonConfig,
    rows: Sequence[HarmonRow],
    draws: Sequence[TargetDraws],
    images: Sequence[int],
    target_images: Sequence[int],
    pictures: Images,
    composition: Composition = Composition.OFFICIAL,
) -> HarmonBatch:
    """Build the batch of rows with given random inputs.

    In the order of their segments: `draws` and `target_images` of each target, `images` of each image; both kinds of
    images are indices into the different images `pictures`.
    """
    visible, real = _visible(config.tokens, draws)
    places = _Places(config, rows, images, visible.shape[1], composition)
    grid, grid_masked = decoder_grid(config.mar.buffers, config.tokens, visible, real)
    repeats = config.diffusion_repeats
    timesteps = _concatenate([one.timesteps for one in draws], (0, repeats))
    no_noise = np.zeros((0, repeats, config.codec_channels), dtype=np.float32)
    return HarmonBatch(
        pictures=pictures,
        latents=None,
        images=index_tensor(places.read),
        targets=index_tensor(target_images),
        visible=index_tensor(visible),
        visible_real=None if real.all() else torch.from_numpy(real),
        returns=index_tensor(places.returns),
        grid=index_tensor(grid),
        grid_masked=torch.from_numpy(grid_masked),
        masked=index_tensor(_concatenate([n * config.tokens + one.masked for n, one in enumerate(draws)], (0,))),
        timesteps=index_tensor(timesteps),
        noise=torch.from_numpy(np.concatenate([no_noise, *(one.noise for one in draws)])),
        coefficients=torch.from_numpy(row_coefficients(training_schedule(config.train_timesteps), timesteps)),
        first_steps=index_tensor(np.flatnonzero(timesteps.reshape(-1) == 0)),
        **places.builder.fields(),
        terms_per_target=tuple(repeats * len(one.masked) for one in draws),
        image_of_row=tuple(places.image_of_row),
        target_rows=tuple(places.target_rows),
    )


def _draw(config: HarmonConfig, row: HarmonRow, target: TargetSegment, rng: RngFor) -> TargetDraws:
    order, time, noise = (
        rng(row.objective, row.global_row, f"{purpose}/{target.map.name}") for purpose in ("order", "time", "noise")
    )
    shape = (target.masked, config.diffusion_repeats)
    return TargetDraws(
        masked=np.sort(order.permutation(config.tokens)[: target.masked]),
        timesteps=time.integers(config.train_timesteps, size=shape),
        noise=noise.standard_normal((*shape, config.codec_channels), dtype=np.float32),
    )


def _visible(tokens: int, draws: Sequence[TargetDraws]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each target that are not masked, int [G, V] padded with 0, and which of these are real, bool [G, V]."""
    most = max((tokens - len(one.masked) for one in draws), default=0)
    visible = np.zeros((len(draws), most), dtype=np.int64)
    real = np.zeros((len(draws), most), dtype=bool)
    for index, one in enumerate(draws):
        shown = np.setdiff1d(np.arange(tokens), one.masked)
        visible[index, : len(shown)] = shown
        real[index, : len(shown)] = True
    return visible, real


class _Places:
    """Where the rows' texts, images and targets stand in the language model's input."""

    def __init__(
        self,
        config: HarmonConfig,
        rows: Sequence[HarmonRow],
        images: Sequence[int],
        most_visible: int,
        composition: Composition,
    ) -> None:
        buffers, slots = config.mar.buffers, config.image_slots
        indices = iter(images)
        self.image_of_row = [
            next(indices) if any(isinstance(segment, ImageSegment) for segment in row.segments) else None
            for row in rows
        ]
        tokens = [_row_tokens(row, image) for row, image in zip(rows, self.image_of_row, strict=True)]
        self.layout = lay_out(tokens, composition)
        shown = [image for image in self.image_of_row if image is not None]
        # packed, an image is encoded once; as published, every row encodes its own
        self.read = sorted(set(shown)) if composition.packed else shown
        self.target_rows = [
            index for index, row in enumerate(rows) if any(isinstance(one, TargetSegment) for one in row.segments)
        ]
        first_target = 1 + len(self.read) * slots
        self.builder = SequenceBuilder(self.layout, first_target + len(self.target_rows) * (buffers + most_visible))
        self.returns = np.zeros((len(self.target_rows), buffers + most_visible), dtype=np.int64)
        target = shows = 0
        for index, row in enumerate(rows):
            for segment, at in zip(row.segments, segment_slices(row.segments), strict=True):
                rotated = _buffers_last(buffers, segment.length)
                if isinstance(segment, TargetSegment):
                    self.builder.put(index, at, first_target + target * (buffers + most_visible) + rotated)
                    self.returns[target, rotated] = self.builder.places(index, at)
                    target += 1
                elif isinstance(segment, ImageSegment):
                    image = self.image_of_row[index]
                    assert image is not None
                    which = self.read.index(image) if composition.packed else shows
                    shows += 1
                    self.builder.put(index, at, 1 + which * slots + rotated)
                else:
                    assert isinstance(segment, TextSegment)
                    self.builder.put_text(index, at, segment)


def _row_tokens(row: HarmonRow, image: int | None) -> RowTokens:
    """Rows of one image begin with the same opening and the image."""
    opening = row.segments[0]
    assert isinstance(opening, TextSegment)
    return row_tokens(row.segments, 2, (opening.token_ids, image)) if image is not None else row_tokens(row.segments)


def _buffers_last(buffers: int, length: int) -> np.ndarray:
    """Encoder index of each place of an image in the language model: its tokens, then its buffers."""
    return np.roll(np.arange(length), -buffers)


def decoder_grid(buffers: int, tokens: int, visible: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lay encoded tokens out on the decoder's grid: (source int, masked bool), each [G, b + S].

    visible int [G, V] are the visible tokens of each target, real bool [G, V] is False where they are padded. `source`
    is the index, of G·(b + V) encoded tokens, that stands at a place; where none does, `masked` is True.
    """
    count, most = visible.shape
    source = np.zeros((count, buffers + tokens), dtype=np.int64)
    masked = np.ones((count, buffers + tokens), dtype=bool)
    target, column = np.nonzero(np.concatenate([np.ones((count, buffers), dtype=bool), real], axis=1))
    places = np.concatenate([np.tile(np.arange(buffers), (count, 1)), buffers + visible], axis=1)[target, column]
    source[target, places] = target * (buffers + most) + column
    masked[target, places] = False
    return source, masked


def _concatenate(parts: list[np.ndarray], empty_shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.zeros(empty_shape, dtype=np.int64), *parts])
