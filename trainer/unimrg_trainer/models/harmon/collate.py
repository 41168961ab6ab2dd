"""From a packed plan and its pictures to the tensors of a micro-step, with every random number drawn by its address."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unimrg_trainer.models.base import Address
from unimrg_trainer.models.harmon.batch import HarmonBatch
from unimrg_trainer.models.harmon.codec import Codec, encode_tokens
from unimrg_trainer.models.harmon.config import HarmonConfig
from unimrg_trainer.models.harmon.diffusion import row_coefficients, training_schedule
from unimrg_trainer.packing.plan import IGNORE, Plan, Row, Segment, SegmentKind


def collate(
    config: HarmonConfig, codec: Codec, plan: Plan, images: np.ndarray, targets: np.ndarray, address: Address
) -> HarmonBatch:
    """Build the batch on the host, floats in float32 (coefficients in float64).

    images uint8 [len(plan.images), S, S, 3]; targets uint8 [len(plan.targets), S, S, 3]. Of a target are drawn: which
    tokens are hidden (`order/…`), and for each of these its time steps (`time/…`) and noise (`noise/…`), at the address
    of the row that learns it, the representation being part of the purpose.
    """
    pixels = encode_tokens(codec, np.concatenate([images, targets])) if len(images) + len(targets) else None
    tokens = _empty_tokens(config) if pixels is None else pixels
    draws = _draw(config, plan, address)
    layout = _lay_out_rows(config, plan, draws.most_visible)
    grid, grid_hidden = _decoder_grid(config, draws)
    coefficients = row_coefficients(training_schedule(config.train_timesteps), draws.timesteps)
    real = draws.visible_real
    return HarmonBatch(
        texts=_index(layout.texts),
        sources=_index(layout.sources),
        positions=_index(layout.positions),
        visibility=None if layout.visibility is None else torch.from_numpy(layout.visibility),
        images=tokens[: len(images)],
        targets=tokens[len(images) :],
        visible=_index(draws.visible),
        visible_real=None if real.all() else torch.from_numpy(real),
        returns=_index(layout.returns),
        grid=_index(grid),
        grid_hidden=torch.from_numpy(grid_hidden),
        hidden=_index(draws.hidden),
        timesteps=_index(draws.timesteps),
        noise=torch.from_numpy(draws.noise),
        coefficients=torch.from_numpy(coefficients),
        first_steps=_index(np.flatnonzero(draws.timesteps.reshape(-1) == 0)),
        predictors=_index(layout.predictors),
        labels=_index(layout.labels),
        units_per_row=tuple(layout.units_per_row),
        units_per_target=tuple(config.diffusion_repeats * target.hidden for target in plan.targets),
        target_rows=plan.target_rows,
    )


@dataclass(frozen=True)
class _Draws:
    """Random inputs of all targets."""

    orders: list[np.ndarray]
    """For each target its hidden tokens, in raster order."""
    visible: np.ndarray
    visible_real: np.ndarray
    hidden: np.ndarray
    timesteps: np.ndarray
    noise: np.ndarray

    @property
    def most_visible(self) -> int:
        return int(self.visible.shape[1])


def _draw(config: HarmonConfig, plan: Plan, address: Address) -> _Draws:
    tokens, repeats, channels = config.tokens, config.diffusion_repeats, config.codec_channels
    count = len(plan.targets)
    most_visible = max((tokens - target.hidden for target in plan.targets), default=0)
    visible = np.zeros((count, most_visible), dtype=np.int64)
    real = np.zeros((count, most_visible), dtype=bool)
    orders, times, noises = [], [], []
    for index, (target, row_index) in enumerate(zip(plan.targets, plan.target_rows, strict=True)):
        row = plan.rows[row_index]

        def draw(purpose: str, row: Row = row, what: str = target.representation) -> np.random.Generator:
            return address(row.objective, row.global_row, f"{purpose}/{what}")

        order = draw("order").permutation(tokens)
        shown = np.sort(order[target.hidden :])
        visible[index, : len(shown)] = shown
        real[index, : len(shown)] = True
        orders.append(np.sort(order[: target.hidden]))
        times.append(draw("time").integers(config.train_timesteps, size=(target.hidden, repeats)))
        noises.append(draw("noise").standard_normal((target.hidden, repeats, channels), dtype=np.float32))
    return _Draws(
        orders=orders,
        visible=visible,
        visible_real=real,
        hidden=_concatenate([index * tokens + order for index, order in enumerate(orders)], (0,)),
        timesteps=_concatenate(times, (0, repeats)),
        noise=np.concatenate([np.zeros((0, repeats, channels), dtype=np.float32), *noises]),
    )


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
    units_per_row: list[int] = field(default_factory=list)


def _lay_out_rows(config: HarmonConfig, plan: Plan, most_visible: int) -> _Layout:
    buffers, slots = config.mar.buffers, config.image_slots
    length = max(row.length for row in plan.rows)
    count = len(plan.rows)
    first_image = sum(s.length for row in plan.rows for s in row.segments if s.kind is SegmentKind.TEXT)
    first_target = first_image + len(plan.images) * slots
    zeros = first_target + len(plan.targets) * (buffers + most_visible)
    chains = all(row.is_chain() for row in plan.rows)
    layout = _Layout(
        sources=np.full((count, length), zeros, dtype=np.int64),
        positions=np.zeros((count, length), dtype=np.int64),
        # a place beyond its row's end sees itself, so that no softmax is empty
        visibility=None if chains else np.tile(np.eye(length, dtype=bool), (count, 1, 1, 1)),
        returns=np.zeros((len(plan.targets), buffers + most_visible), dtype=np.int64),
    )
    for index, row in enumerate(plan.rows):
        layout.positions[index, : row.length] = row.positions()
        if layout.visibility is not None:
            layout.visibility[index, 0, : row.length, : row.length] = row.visibility()
        labelled = len(layout.labels)
        starts = row.starts()
        for segment, start in zip(row.segments, starts, strict=True):
            place = index * length + start
            if segment.kind is SegmentKind.TEXT:
                source = len(layout.texts) + np.arange(segment.length)
                layout.texts.extend(segment.token_ids)
                _label(layout, segment, place, _end_of_parent(row, segment, starts) + index * length)
            else:
                rotated = _buffers_last(buffers, segment.length)
                if segment.kind is SegmentKind.IMAGE:
                    source = first_image + segment.image * slots + rotated
                else:
                    source = first_target + segment.target * (buffers + most_visible) + rotated
                    layout.returns[segment.target, rotated] = place + np.arange(segment.length)
            layout.sources[index, start : start + segment.length] = source
        layout.units_per_row.append(len(layout.labels) - labelled)
    return layout


def _label(layout: _Layout, segment: Segment, first: int, before: int) -> None:
    """Note the labels of a text segment, and the place that predicts each: that of the token before it."""
    for offset, label in enumerate(segment.labels):
        if label != IGNORE:
            layout.predictors.append(first + offset - 1 if offset else before)
            layout.labels.append(label)


def _end_of_parent(row: Row, segment: Segment, starts: list[int]) -> int:
    """Offset of the token that a segment's first token follows (−1 at the start of the row, where none is learnt)."""
    return starts[segment.parent] + row.segments[segment.parent].length - 1 if segment.parent >= 0 else -1


def _buffers_last(buffers: int, length: int) -> np.ndarray:
    """Encoder index of each place of an image in the language model: its tokens, then its buffers."""
    return np.roll(np.arange(length), -buffers)


def _decoder_grid(config: HarmonConfig, draws: _Draws) -> tuple[np.ndarray, np.ndarray]:
    """Which encoded token stands at each place of the decoder's grid, and where none does."""
    buffers, count = config.mar.buffers, len(draws.orders)
    width = buffers + draws.most_visible
    grid = np.zeros((count, config.image_slots), dtype=np.int64)
    empty = np.zeros((count, config.image_slots), dtype=bool)
    for index, order in enumerate(draws.orders):
        grid[index, :buffers] = index * width + np.arange(buffers)
        shown = draws.visible[index][draws.visible_real[index]]
        grid[index, buffers + shown] = index * width + buffers + np.arange(len(shown))
        empty[index, buffers + order] = True
    return grid, empty


def _concatenate(parts: list[np.ndarray], empty_shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.zeros(empty_shape, dtype=np.int64), *parts])


def _empty_tokens(config: HarmonConfig) -> Tensor:
    return torch.zeros(0, config.tokens, config.codec_channels)


def _index(values: np.ndarray | list[int]) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int64))
