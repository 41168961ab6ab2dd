"""Scenes as records in memory: the data set of tests that are not about files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unimrg_trainer.scenes import generate


class SceneRecords:
    """Looks like `unimrg_trainer.data.dataset.Dataset`, holding `count` generated scenes."""

    digest = "scene-records"

    def __init__(self, count: int, size: int = 48, seed: int = 5) -> None:
        self.scenes = [generate(seed, index, size) for index in range(count)]
        self.images = range(count)
        self.questions = [
            (index, turn) for index, scene in enumerate(self.scenes) for turn in range(len(scene.questions))
        ]

    def read_image_record(self, index: int) -> Mapping[str, Any]:
        scene = self.scenes[index]
        return {
            "key": f"{index:06d}",
            "image": scene.image,
            "depth": scene.depth,
            "segmentation": scene.segmentation,
            "caption": scene.caption,
        }

    def read_question_record(self, index: int) -> Mapping[str, Any]:
        scene, turn = self.questions[index]
        question = self.scenes[scene].questions[turn]
        return {
            **self.read_image_record(scene),
            "question": question.question,
            "answer": question.answer,
            "family": question.family,
        }
