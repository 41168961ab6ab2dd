"""From planned rows to the tensors of a micro-step, with every random number drawn by its rng key. Runs on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unimrg_trainer.maps.geometry import resize, squash
from unimrg_trainer.models.base import RngFor
from unimrg_trainer.models.common.text import IGNORE
from unimrg_trainer.models.common.unique_images import UniqueImages
from unimrg_trainer.models.showo.batch import ShowOBatch
from unimrg_trainer.models.showo.config import ShowOConfig
from unimrg_trainer.models.showo.rows import ImagePart, Part, ShowORow, TargetPart, TextPart, Use, positions, visibility
from unimrg_trainer.models.showo.vision import centre_crop
from unimrg_trainer.packing.segments import row_length, segment_starts

Pool = Literal["pictures", "views"]
Geometry = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Resolved:
    """What a row's images and targets are: which of the batch's images, and which codes are masked."""

    images: tuple[tuple[Pool, int], ...]
    """Of each ImagePart, in order."""
    targets: tuple[tuple[int, np.ndarray], ...]
    """Of each TargetPart: its picture, and the masked codes, int, ascending."""


def collate(config: ShowOConfig, rows: Sequence[ShowORow], rng: RngFor) -> ShowOBatch:
    """Build the batch of some rows; which codes of a target are masked is drawn with the key of its row (`order`)."""
    pictures, views = UniqueImages(config.image_size), UniqueImages(config.source_size)
    reduce = source_geometry(config)

    def show(part: ImagePart) -> tuple[Pool, int]:
        assert part.sample.image is not None
        if config.clip is None and part.use is Use.QUESTION:
            return "pictures", pictures.scale(part.sample.image, centre_crop)
        return "views", views.scale(part.sample.image, centre_crop if part.use is Use.QUESTION else reduce)

    def learn(row: ShowORow, part: TargetPart) -> tuple[int, np.ndarray]:
        order = rng(row.objective, row.global_row, "order").permutation(config.tokens)
        target = pictures.add(part.map.target(part.sample, config.image_size))
        return target, np.sort(order[: part.masked])

    resolved = [
        Resolved(
            tuple(show(part) for part in row.parts if isinstance(part, ImagePart)),
            tuple(learn(row, part) for part in row.parts if isinstance(part, TargetPart)),
        )
        for row in rows
    ]
    return assemble(config, rows, resolved, pictures.stacked(), views.stacked())


def source_geometry(config: ShowOConfig) -> Geometry:
    """How an image becomes the square that generations read: stretched, and first reduced where configured."""
    detail = config.source_detail
    if detail is None:
        return squash
    return lambda image, size: resize(squash(image, detail), size, Image.Resampling.BICUBIC)


def assemble(
    config: ShowOConfig, rows: Sequence[ShowORow], resolved: Sequence[Resolved], pictures: Tensor, views: Tensor
) -> ShowOBatch:
    """Lay out rows whose images and masks are known; of `pictures` and `views` only the numbers are read here."""
    length = max(row_length(row.parts) for row in rows)
    texts = sum(part.length for row in rows for part in row.parts if isinstance(part, TextPart))
    layout = _Layout(config, len(rows), length, texts, len(pictures), 0 if config.clip else len(views))
    for index, (row, known) in enumerate(zip(rows, resolved, strict=True)):
        layout.add(index, row.parts, known)
    return ShowOBatch(
        pictures=pictures,
        views=views,
        codes=None,
        features=None,
        texts=_index(layout.texts),
        sources=_index(layout.sources),
        positions=_index(layout.positions),
        visibility=torch.from_numpy(layout.visibility),
        shown=_index(layout.shown),
        shown_places=_index(layout.shown_places),
        predictors=_index(layout.predictors),
        labels=_index(layout.labels),
        labels_per_row=tuple(layout.labels_per_row),
        conditions=tuple(known.images[0] if known.images else None for known in resolved),
        targets=tuple(known.targets[0][0] if known.targets else None for known in resolved),
    )


class _Layout:
    """Places of all rows in the language model, filled in row by row."""

    def __init__(
        self, config: ShowOConfig, rows: int, length: int, texts: int, pictures: int, coded_views: int
    ) -> None:
        self._config, self._length = config, length
        self._codes = texts
        """Index in the table of the first picture's codes."""
        self._view_codes = texts + pictures * config.tokens
        self._mask = self._view_codes + coded_views * config.source_tokens
        self.sources = np.zeros((rows, length), dtype=np.int64)
        self.positions = np.zeros((rows, length), dtype=np.int64)
        # a place beyond its row's end sees itself, so that no softmax is empty
        self.visibility = np.tile(np.eye(length, dtype=bool), (rows, 1, 1, 1))
        self.texts: list[int] = []
        self.shown: list[int] = []
        self.shown_places: list[int] = []
        self.predictors: list[int] = []
        self.labels: list[int] = []
        self.labels_per_row: list[int] = []

    def add(self, row: int, parts: Sequence[Part], known: Resolved) -> None:
        here, labelled = row_length(parts), len(self.labels)
        self.positions[row, :here] = positions(parts)
        self.visibility[row, 0, :here, :here] = visibility(parts)
        images, targets = iter(known.images), iter(known.targets)
        for part, start in zip(parts, segment_starts(parts), strict=True):
            first = row * self._length + start
            if isinstance(part, TextPart):
                source = self._text(part, first)
            elif isinstance(part, ImagePart):
                source = self._image(part, first, *next(images))
            else:
                source = self._target(first, *next(targets))
            self.sources[row, start : start + part.length] = source
        self.labels_per_row.append(len(self.labels) - labelled)

    def _text(self, part: TextPart, first: int) -> np.ndarray:
        """An answer's token is predicted at the place before its own."""
        source = len(self.texts) + np.arange(part.length)
        self.texts.extend(part.token_ids)
        learnt = np.flatnonzero(np.array(part.labels) != IGNORE)
        self.predictors.extend(first + learnt - 1)
        self.labels.extend(source[learnt])
        return source

    def _image(self, part: ImagePart, first: int, pool: Pool, which: int) -> np.ndarray:
        if pool == "pictures":
            return self._picture(which)
        if self._config.clip is None:
            return self._view_codes + which * part.length + np.arange(part.length)
        self.shown.append(which)
        self.shown_places.extend(range(first, first + part.length))
        return np.zeros(part.length, dtype=np.int64)  # overwritten by features

    def _target(self, first: int, picture: int, masked: np.ndarray) -> np.ndarray:
        """A masked code is predicted at its own place."""
        source = self._picture(picture)
        self.predictors.extend(first + masked)
        self.labels.extend(source[masked])
        source = source.copy()
        source[masked] = self._mask
        return source

    def _picture(self, which: int) -> np.ndarray:
        tokens = self._config.tokens
        return self._codes + which * tokens + np.arange(tokens)


def _index(values: np.ndarray | list[int]) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int64))
