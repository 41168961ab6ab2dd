"""From planned rows to the tensors of a micro-step, with every random number drawn by its rng key. Runs on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unimrg_trainer.maps.geometry import squash
from unimrg_trainer.models.base import RngFor
from unimrg_trainer.models.common.unique_images import UniqueImages
from unimrg_trainer.models.openuni.batch import OpenUniBatch
from unimrg_trainer.models.openuni.config import OpenUniConfig
from unimrg_trainer.models.openuni.layout import Layout, lay_out_rows
from unimrg_trainer.models.openuni.rows import ImageSegment, OpenUniRow, QuerySegment


@dataclass
class Pictures:
    """The different images of a micro-step, and what is done with them."""

    tiles: UniqueImages
    squares: UniqueImages
    read: list[int] = field(default_factory=list)
    learnt: list[int] = field(default_factory=list)
    shown: list[tuple[bool, int]] = field(default_factory=list)
    """Of each image segment: whether it is a tile, and its index among tiles or `read`."""
    targets: list[int] = field(default_factory=list)
    """Of each target: its index in `learnt`."""

    def show(self, segment: ImageSegment) -> None:
        """Add the image of a segment, stretched to a square."""
        image = segment.sample.image
        assert image is not None
        if segment.for_question:
            self.shown.append((True, self.tiles.scale(image, squash)))
        else:
            self.shown.append((False, _index_of(self.read, self.squares.scale(image, squash))))

    def learn(self, segment: QuerySegment) -> None:
        """Add the target of a segment."""
        square = self.squares.add(segment.map.target(segment.sample, self.squares.size))
        self.targets.append(_index_of(self.learnt, square))

    def images(self) -> list[int]:
        """Of each image segment, its index in the features: those of tiles come first."""
        tiles = len(self.tiles.stacked())
        return [index if tile else tiles + index for tile, index in self.shown]


def collate(config: OpenUniConfig, rows: Sequence[OpenUniRow], rng: RngFor) -> OpenUniBatch:
    """Build the batch of some rows; floats in float32, σ in float64.

    Of each target are drawn, with the key of its row and its map in the purpose: its time (`time/…`), uniform in
    1 … train_timesteps, and its noise (`noise/…`).
    """
    layout = lay_out_rows(config, [row.segments for row in rows])
    pictures = Pictures(UniqueImages(config.vision.size), UniqueImages(config.image_size))
    times, noises = [], []
    for row in rows:
        for segment in row.segments:
            if isinstance(segment, ImageSegment):
                pictures.show(segment)
            elif isinstance(segment, QuerySegment):
                pictures.learn(segment)
                time_rng, noise_rng = (
                    rng(row.objective, row.global_row, f"{purpose}/{segment.map.name}") for purpose in ("time", "noise")
                )
                times.append(1 + int(time_rng.integers(config.train_timesteps)))
                noises.append(noise_rng.standard_normal(config.latent_shape, dtype=np.float32))
    sigmas = torch.tensor(times, dtype=torch.float64) / config.train_timesteps
    noise = np.stack(noises) if noises else np.zeros((0, *config.latent_shape), dtype=np.float32)
    timesteps = torch.tensor(times, dtype=torch.float32)
    return assemble(layout, pictures, timesteps=timesteps, sigmas=sigmas, noise=torch.from_numpy(noise))


def assemble(layout: Layout, pictures: Pictures, *, timesteps: Tensor, sigmas: Tensor, noise: Tensor) -> OpenUniBatch:
    """Put places, images and random inputs together."""
    returns = np.stack(layout.returns) if layout.returns else np.zeros((0, 1), dtype=np.int64)
    return OpenUniBatch(
        tiles=pictures.tiles.stacked(),
        squares=pictures.squares.stacked(),
        read=index_tensor(pictures.read),
        learnt=index_tensor(pictures.learnt),
        features=None,
        latents=None,
        texts=index_tensor(layout.texts),
        sources=index_tensor(layout.sources),
        positions=index_tensor(layout.positions),
        visibility=None if layout.visibility is None else torch.from_numpy(layout.visibility),
        images=index_tensor(pictures.images()),
        targets=index_tensor(pictures.targets),
        returns=index_tensor(returns),
        timesteps=timesteps,
        sigmas=sigmas,
        noise=noise,
        predictors=index_tensor(layout.predictors),
        labels=index_tensor(layout.labels),
        labels_per_row=tuple(layout.labels_per_row),
        image_rows=tuple(layout.image_rows),
        target_rows=tuple(layout.target_rows),
    )


def index_tensor(values: np.ndarray | list[int]) -> Tensor:
    """Integers as int64."""
    return torch.from_numpy(np.asarray(values, dtype=np.int64))


def _index_of(squares: list[int], square: int) -> int:
    """Index of `square` in a list of different ones, to which it is added where it is missing."""
    if square not in squares:
        squares.append(square)
    return squares.index(square)
