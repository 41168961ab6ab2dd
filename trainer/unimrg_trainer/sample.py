"""What training and evaluation know about one image: its pixels, its maps by name, its texts, a question about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.maps.geometry import PADDING_GREY, centre_on_square


@dataclass(frozen=True)
class Wanted:
    """What is read of a sample besides its texts; what is not wanted is neither read nor decoded."""

    maps: Collection[str] | None = None
    """Names of maps, of which those that are stored are read; None: all that are."""
    image: bool = True
    encodings: Collection[str] = ()
    """Names of encodings (`models/common/encodings.py`), each of which must be there."""


ALL = Wanted()


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with all that is known about it. Arrays are read-only and may be shared."""

    key: str
    """Name within its data set; equal for the questions about one image."""
    image: np.ndarray | None = None
    """uint8 [H, W, 3], RGB; None where it was not asked for, or for text alone."""
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Map name (`maps/`) → uint8 [H, W] or [H, W, 3], as stored; only those that were asked for and exist."""
    caption: str | None = None
    question: str | None = None
    answer: str | None = None
    """Question and answer of a question sample, both None for an image sample."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What the source says beyond that (JSON values), e.g. the kind of question, for benchmarks; `further` are the
    turns that follow in the same conversation, each with `question` and `answer`."""
    encodings: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Name → what a model's frozen encoder made of image or map; only where that was asked for instead of pixels."""
    replaces: str = ""
    """What is wrong with the sample in whose place this one is read; "" for a sample in its own place."""

    @property
    def further(self) -> Sequence[tuple[str, str]]:
        """The turns of a conversation that follow question and answer, each a question with its answer."""
        return [(turn["question"], turn["answer"]) for turn in self.attributes.get("further", ())]

    def squared(self) -> Sample:
        """Return the sample padded to a square: the image with grey, its maps with 0 (far away, no contour)."""
        image = None if self.image is None else centre_on_square(self.image, PADDING_GREY)
        return replace(self, image=image, maps={name: centre_on_square(map, 0) for name, map in self.maps.items()})

    def require(self, reader: str, *, image: bool = True, maps: Collection[str] = (), answer: bool = False) -> None:
        """Raise UserError (65) unless the sample has what `reader`, an objective, learns from.

        Where it was read with encodings, these were made of the pictures, and stand for them.
        """
        pictures = not self.encodings
        missing = [
            *(["image"] if pictures and image and self.image is None else []),
            *sorted(f"map {name!r}" for name in maps if pictures and name not in self.maps),
            *(["question with an answer"] if answer and (self.question is None or self.answer is None) else []),
        ]
        if missing:
            raise UserError(
                f"sample {self.key!r} has no {' and no '.join(missing)}, which the objective {reader} learns from",
                remedy="prepare the data again, or leave this objective out",
                exit_code=ExitCode.DATA_CORRUPT,
            )
