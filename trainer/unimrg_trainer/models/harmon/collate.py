"""From planned rows to the tensors of a micro-step, with every random number drawn by its rng key. Runs on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unimrg_trainer.maps.geometry import pad_square, squash
from unimrg_trainer.models.base import RngFor
from unimrg_trainer.models.common.text import IGNORE, TextSegment
from unimrg_trainer.models.common.unique_images import UniqueImages
from unimrg_trainer.models.harmon.batch import HarmonBatch
from unimrg_trainer.models.harmon.config import HarmonConfig
from unimrg_trainer.models.harmon.diffusion import row_coefficients, training_schedule
from unimrg_trainer.models.harmon.rows import Geometry, HarmonRow, ImageSegment, TargetSegment
from unimrg_trainer.packing.segments import Segment, is_plain_causal, positions, row_length, segment_starts, visibility


def collate(config: HarmonConfig, rows: Sequence[HarmonRow], rng: RngFor) -> HarmonBatch:
    """Build the batch of some rows; floats in float32, coefficients in float64.

    Of each target are drawn, with the key of its row and its map in the purpose: which tokens are masked (`order/…`),
    and for each of these its time steps (`time/…`) and noise (`noise/…`).
    """
    unique = UniqueImages(config.image_size)
    segments = [(row, segment) for row in rows for segment in row.segments]
    images = [_scale(unique, segment) for _, segment in segments if isinstance(segment, ImageSegment)]
    targets = [(row, segment) for row, segment in segments if isinstance(segment, TargetSegment)]
    learnt = [unique.add(target.map.target(target.sample, config.image_size)) for _, target in targets]
    draws = [_draw(config, row, target, rng) for row, target in targets]
    return assemble(config, rows, draws, images, learnt, unique.stacked())


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
    learnt: Sequence[int],
    pixels: Tensor,
) -> HarmonBatch:
    """Build the batch of rows with given random inputs.

    In the order of their segments: `draws` and `learnt` of each target, `images` of each image; `images` and `learnt`
    are indices into the different images `pixels`, uint8 [U, H, H, 3].
    """
    visible, real = _visible(config.tokens, draws)
    layout = _lay_out_rows(config, rows, len(images), len(learnt), visible.shape[1])
    grid, grid_masked = decoder_grid(config.mar.buffers, config.tokens, visible, real)
    repeats = config.diffusion_repeats
    timesteps = _concatenate([one.timesteps for one in draws], (0, repeats))
    no_noise = np.zeros((0, repeats, config.codec_channels), dtype=np.float32)
    return HarmonBatch(
        pixels=pixels,
        latents=None,
        texts=_index(layout.texts),
        sources=_index(layout.sources),
        positions=_index(layout.positions),
        visibility=None if layout.visibility is None else torch.from_numpy(layout.visibility),
        images=_index(images),
        targets=_index(learnt),
        visible=_index(visible),
        visible_real=None if real.all() else torch.from_numpy(real),
        returns=_index(layout.returns),
        grid=_index(grid),
        grid_masked=torch.from_numpy(grid_masked),
        masked=_index(_concatenate([n * config.tokens + one.masked for n, one in enumerate(draws)], (0,))),
        timesteps=_index(timesteps),
        noise=torch.from_numpy(np.concatenate([no_noise, *(one.noise for one in draws)])),
        coefficients=torch.from_numpy(row_coefficients(training_schedule(config.train_timesteps), timesteps)),
        first_steps=_index(np.flatnonzero(timesteps.reshape(-1) == 0)),
        predictors=_index(layout.predictors),
        labels=_index(layout.labels),
        labels_per_row=tuple(layout.labels_per_row),
        terms_per_target=tuple(repeats * len(one.masked) for one in draws),
        image_rows=_rows_with(ImageSegment, rows),
        target_rows=_rows_with(TargetSegment, rows),
    )


def _rows_with(kind: type[Segment], rows: Sequence[HarmonRow]) -> tuple[int, ...]:
    return tuple(index for index, row in enumerate(rows) for segment in row.segments if isinstance(segment, kind))


def _scale(images: UniqueImages, segment: ImageSegment) -> int:
    assert segment.sample.image is not None
    return images.scale(segment.sample.image, pad_square if segment.geometry is Geometry.PAD else squash)


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


@dataclass
class _Layout:
    """Places of all rows in the language model."""

    sources: np.ndarray
    positions: np.ndarray
    visibility: np.ndarray | None
    returns: np.ndarray
    texts: list[int] = field(default_factory=list)
    predictors: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    labels_per_row: list[int] = field(default_factory=list)


def _lay_out_rows(
    config: HarmonConfig, rows: Sequence[HarmonRow], images: int, targets: int, most_visible: int
) -> _Layout:
    buffers, slots = config.mar.buffers, config.image_slots
    count, length = len(rows), max(row_length(row.segments) for row in rows)
    texts = sum(segment.length for row in rows for segment in row.segments if isinstance(segment, TextSegment))
    next_image, next_target = texts, texts + images * slots
    zeros = next_target + targets * (buffers + most_visible)
    plain = all(is_plain_causal(row.segments) for row in rows)
    layout = _Layout(
        sources=np.full((count, length), zeros, dtype=np.int64),
        positions=np.zeros((count, length), dtype=np.int64),
        # a place beyond its row's end sees itself, so that no softmax is empty
        visibility=None if plain else np.tile(np.eye(length, dtype=bool), (count, 1, 1, 1)),
        returns=np.zeros((targets, buffers + most_visible), dtype=np.int64),
    )
    target = 0
    for index, row in enumerate(rows):
        here = row_length(row.segments)
        layout.positions[index, :here] = positions(row.segments)
        if layout.visibility is not None:
            layout.visibility[index, 0, :here, :here] = visibility(row.segments)
        labelled = len(layout.labels)
        starts = segment_starts(row.segments)
        for segment, start in zip(row.segments, starts, strict=True):
            place = index * length + start
            rotated = _buffers_last(buffers, segment.length)
            if isinstance(segment, TextSegment):
                source = len(layout.texts) + np.arange(segment.length)
                layout.texts.extend(segment.token_ids)
                _label(layout, segment, place, index * length + _end_of_parent(row, segment, starts))
            elif isinstance(segment, ImageSegment):
                source = next_image + rotated
                next_image += slots
            else:
                source = next_target + rotated
                next_target += buffers + most_visible
                layout.returns[target, rotated] = place + np.arange(segment.length)
                target += 1
            layout.sources[index, start : start + segment.length] = source
        layout.labels_per_row.append(len(layout.labels) - labelled)
    return layout


def _label(layout: _Layout, segment: TextSegment, first: int, before: int) -> None:
    """Add the labels of a text segment, and the place that predicts each: that of the token before it."""
    predictors = [before, *range(first, first + segment.length - 1)]
    for predictor, label in zip(predictors, segment.labels, strict=True):
        if label != IGNORE:
            layout.predictors.append(predictor)
            layout.labels.append(label)


def _end_of_parent(row: HarmonRow, segment: TextSegment, starts: list[int]) -> int:
    """Offset of the token that a segment's first token follows (−1 at the start of the row, where none is learnt)."""
    return starts[segment.parent] + row.segments[segment.parent].length - 1 if segment.parent >= 0 else -1


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


def _index(values: np.ndarray | Sequence[int]) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int64))
