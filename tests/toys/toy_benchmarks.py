"""Two benchmarks of one's own: one that asks for text, and one that asks for images without showing any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from unimrg_api.errors import UserError
from unimrg_trainer.evaluation.benchmarks.base import BenchmarkPlace, BenchmarkResult, Item, Result, Subject, Table
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest


class Words:
    """How many words the model writes about the first held-out images."""

    name = "words"
    max_new_tokens = 4

    def __init__(self, settings: Mapping[str, Any], place: BenchmarkPlace) -> None:
        self._images = settings.get("images", 2)
        if not isinstance(self._images, int):
            raise UserError(f"custom.settings.images: {self._images!r} is no whole number", remedy="write e.g. 2")

    def items(self, subject: Subject) -> list[Item]:
        held_out = subject.held_out
        assert held_out is not None
        samples = [held_out.image_sample(number) for number in held_out.images[: self._images]]
        return [Item(sample.key, AnswerRequest("What is this?", sample.image)) for sample in samples]

    def score(self, results: Iterable[tuple[Item, Result]], seed: int) -> BenchmarkResult:
        counts = [(item.key, len(str(answer).split())) for item, answer in results]
        table = Table("words of an answer", ["image", "words"], [[key, str(count)] for key, count in counts])
        return BenchmarkResult({"mean": float(np.mean([count for _, count in counts]))}, ("mean",), table)


class Brightness:
    """How bright the image is that the model generates for a request to be bright, or dark."""

    name = "bright-and-dark"
    max_new_tokens = 1

    def __init__(self, settings: Mapping[str, Any], place: BenchmarkPlace) -> None:
        self._prompts: list[str] = settings.get("prompts", ["bright", "dark"])

    def items(self, subject: Subject) -> list[Item]:
        return [Item(prompt, GenerateRequest(prompt, seed=3, row=row)) for row, prompt in enumerate(self._prompts)]

    def score(self, results: Iterable[tuple[Item, Result]], seed: int) -> BenchmarkResult:
        means = {item.key: float(np.mean(np.asarray(image))) for item, image in results}
        table = Table("mean grey value", ["prompt", "mean"], [[key, f"{mean:.1f}"] for key, mean in means.items()])
        return BenchmarkResult(means, tuple(means), table)
