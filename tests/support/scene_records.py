"""Scenes as records in memory: the data set of tests that are not about files."""

from __future__ import annotations

from dataclasses import replace

from unimrg_trainer.data.dataset import Source
from unimrg_trainer.data.order import Order, StoredOrder, WindowedOrder
from unimrg_trainer.sample import Sample
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

    def order(self, source: Source, seed: int | None) -> Order:
        size = len(self.images if source == "images" else self.questions)
        return StoredOrder(size) if seed is None else WindowedOrder(seed, source, [size])

    def image_sample(self, index: int, wanted: object = None, read: object = None) -> Sample:
        scene = self.scenes[index]
        return Sample(
            f"{index:06d}", scene.image, {"depth": scene.depth, "segmentation": scene.segmentation}, scene.caption
        )

    def questions_about(self, image: int) -> range:
        first = next(number for number, (scene, _) in enumerate(self.questions) if scene == image)
        return range(first, first + len(self.scenes[image].questions))

    def question_sample(self, index: int, wanted: object = None, read: object = None) -> Sample:
        scene, turn = self.questions[index]
        question = self.scenes[scene].questions[turn]
        return replace(
            self.image_sample(scene),
            question=question.question,
            answer=question.answer,
            attributes={"kind": question.kind},
        )
