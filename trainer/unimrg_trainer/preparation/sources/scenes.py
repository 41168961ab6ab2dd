"""Generated scenes with exact depth, segmentation, captions and questions, to train on and to evaluate with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from unimrg_api.spec_sources import ScenesSpec
from unimrg_trainer import scenes
from unimrg_trainer.preparation.base import SourcePlace, SourceSample

HELD_OUT_START = 1 << 40
"""Index of the first held-out scene: no size of the training split ever reaches it."""


class Scenes:
    """The source `scenes` (docs/method/data.md)."""

    def __init__(self, settings: Mapping[str, Any], place: SourcePlace) -> None:
        self._settings = ScenesSpec.model_validate(settings)
        self.splits = {"train": self._settings.train, "heldOut": self._settings.held_out}
        self.texts: dict[str, int] = {}

    def identity(self) -> Any:
        """Return the settings and the version of the generator."""
        return {"schema": scenes.SCHEMA, **self._settings.model_dump(by_alias=True)}

    def sample(self, split: str, number: int) -> SourceSample:
        """Return a scene; the held-out ones have indices of their own."""
        index = number + (HELD_OUT_START if split == "heldOut" else 0)
        scene = scenes.generate(self._settings.seed, index, self._settings.image_size)
        return SourceSample(
            image=scene.image,
            maps={"depth": scene.depth, "segmentation": scene.segmentation},
            caption=scene.caption,
            questions=[asdict(question) for question in scene.questions],
        )
