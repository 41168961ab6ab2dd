"""From planned rows to the tensors of a micro-step, with every random number drawn by its rng key. Runs on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unimrg_api.sizes.showo import ShowOConfig
from unimrg_trainer.models.base import RngFor
from unimrg_trainer.models.common.batches import index_tensor
from unimrg_trainer.models.common.layout import SequenceBuilder, lay_out
from unimrg_trainer.models.common.text import IGNORE
from unimrg_trainer.models.common.unique_images import Images, UniqueImages
from unimrg_trainer.models.showo.batch import ShowOBatch
from unimrg_trainer.models.showo.encodings import Use, image_encoding, picture_encoder, view_encoder
from unimrg_trainer.models.showo.rows import ImagePart, ShowORow, TargetPart, TextPart, row_tokens
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.packing.segments import segment_slices

Pool = Literal["pictures", "views"]

MASK = 0
"""Index of the mask token in the batch's table; the pictures' codes follow."""


@dataclass(frozen=True)
class Resolved:
    """What a row's image and target are: which of the batch's images, and which codes are masked."""

    image: tuple[Pool, int] | None
    """Of its ImagePart."""
    target: tuple[int, np.ndarray] | None
    """Of its TargetPart: its picture, and the masked codes, int, ascending."""


def collate(config: ShowOConfig, rows: Sequence[ShowORow], rng: RngFor, composition: Composition) -> ShowOBatch:
    """Build the batch of some rows; which codes of a target are masked is drawn with the key of its row (`order`)."""
    encoder = picture_encoder(config)
    pictures, views = UniqueImages(encoder), UniqueImages(view_encoder(config))

    def show(part: ImagePart) -> tuple[Pool, int]:
        encoding = image_encoding(config, part.use)
        if config.clip is None and part.use is Use.QUESTION:
            return "pictures", pictures.read(part.sample, encoding)
        return "views", views.read(part.sample, encoding)

    def learn(row: ShowORow, part: TargetPart) -> tuple[int, np.ndarray]:
        order = rng(row.objective, row.global_row, "order").permutation(config.tokens)
        target = pictures.add(part.sample, encoder.of_map(part.map))
        return target, np.sort(order[: part.masked])

    def resolve(row: ShowORow) -> Resolved:
        image = target = None
        for part in row.parts:
            if isinstance(part, ImagePart):
                image = show(part)
            elif isinstance(part, TargetPart):
                target = learn(row, part)
        return Resolved(image, target)

    resolved = [resolve(row) for row in rows]
    return assemble(config, rows, resolved, pictures.collected(), views.collected(), composition)


def assemble(
    config: ShowOConfig,
    rows: Sequence[ShowORow],
    resolved: Sequence[Resolved],
    pictures: Images,
    views: Images,
    composition: Composition = Composition.OFFICIAL,
) -> ShowOBatch:
    """Lay out rows whose images and masks are known; of `pictures` and `views` only the numbers are read here."""
    places = _Places(config, rows, resolved, len(pictures), len(views), composition)
    return ShowOBatch(
        pictures=pictures,
        views=views,
        codes=None,
        features=None,
        shown=index_tensor(places.shown),
        shown_places=index_tensor(places.shown_places),
        **places.builder.fields(),
        conditions=tuple(known.image for known in resolved),
        targets=tuple(known.target[0] if known.target else None for known in resolved),
    )


class _Places:
    """Where the rows' texts, images and targets stand in the language model's input."""

    def __init__(
        self,
        config: ShowOConfig,
        rows: Sequence[ShowORow],
        resolved: Sequence[Resolved],
        pictures: int,
        views: int,
        composition: Composition,
    ) -> None:
        self._config = config
        self._first_view = MASK + 1 + pictures * config.tokens
        first_text = self._first_view + (0 if config.clip else views * config.source_tokens)
        tokens = [row_tokens(row.parts, known.image) for row, known in zip(rows, resolved, strict=True)]
        self.layout = lay_out(tokens, composition)
        self.builder = SequenceBuilder(self.layout, first_text)
        self.shown: list[int] = []
        self.shown_places: list[int] = []
        self._shown_from: set[int] = set()
        for index, (row, known) in enumerate(zip(rows, resolved, strict=True)):
            for part, at in zip(row.parts, segment_slices(row.parts), strict=True):
                if isinstance(part, TextPart):
                    self._put_text(index, at, part)
                elif isinstance(part, ImagePart):
                    assert known.image is not None
                    self._put_image(index, at, *known.image)
                else:
                    assert known.target is not None
                    self._put_target(index, at, *known.target)

    def _put_text(self, row: int, tokens: slice, part: TextPart) -> None:
        """An answer's token is predicted at the token before it."""
        sources = self.builder.put_tokens(row, tokens, part.token_ids)
        labelled = np.flatnonzero(np.array(part.labels) != IGNORE)
        self.builder.learn(row, tokens.start + labelled - 1, sources[labelled])

    def _put_image(self, row: int, tokens: slice, pool: Pool, which: int) -> None:
        if pool == "pictures":
            self.builder.put(row, tokens, self._picture(which))
        elif self._config.clip is None:
            length = self._config.source_tokens
            self.builder.put(row, tokens, self._first_view + which * length + np.arange(length))
        elif (places := self.builder.places(row, tokens))[0] not in self._shown_from:
            # no token stands there: features do, which rows that share the image add once
            self._shown_from.add(places[0])
            self.shown.append(which)
            self.shown_places.extend(places)

    def _put_target(self, row: int, tokens: slice, picture: int, masked: np.ndarray) -> None:
        """A masked code is predicted at its own place."""
        sources = self._picture(picture)
        self.builder.learn(row, tokens.start + masked, sources[masked])
        sources[masked] = MASK
        self.builder.put(row, tokens, sources)

    def _picture(self, which: int) -> np.ndarray:
        tokens = self._config.tokens
        return MASK + 1 + which * tokens + np.arange(tokens)
