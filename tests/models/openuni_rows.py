"""Rows and batches of the small OpenUni that several tests share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from tests.models.rows import ALL, CPU, PROMPTS, rng_for, task
from unimrg_trainer.models.openuni.batch import OpenUniBatch
from unimrg_trainer.models.openuni.family import OpenUniFamily
from unimrg_trainer.models.openuni.rows import OpenUniRow, lay_out
from unimrg_trainer.objectives.base import Task
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.rng import generator


def family(**sampling: Any) -> OpenUniFamily:
    return OpenUniFamily({"variant": "Tiny", "sampling": sampling})


def row(openuni: OpenUniFamily, objective: str, number: int, asked: Task) -> OpenUniRow:
    return lay_out(openuni.config, openuni.template, objective, number, asked)


def rows_of(openuni: OpenUniFamily, objectives: Sequence[str], numbers: Sequence[int]) -> list[OpenUniRow]:
    """One row of each objective for each global row, about the sample of that number; questions differ in length."""
    return [
        row(openuni, name, number, task(name, number, prompt=PROMPTS["Understanding"] + " Say it." * (number % 3)))
        for name in objectives
        for number in numbers
    ]


def mixed_rows(openuni: OpenUniFamily, seed: int) -> list[OpenUniRow]:
    """Every objective about two images, a second question about one, and rows without an image, in random order and of
    random lengths."""
    random = generator("mixed rows", seed)
    asked = [(name, key) for name in ALL for key in ("a", "b")]
    asked += [("Understanding", "a"), ("Understanding", "none"), ("Depth", "none")]
    rows = []
    for number in random.permutation(len(asked)).tolist():
        name, key = asked[number]
        prompt, answer = ("near " * int(length) for length in random.integers(1, 25, size=2))
        said = task(name, key, image=key != "none", answer=answer)
        rows.append(row(openuni, name, number, replace(said, prompt=prompt)))
    return rows


def batch_of(
    openuni: OpenUniFamily,
    rows: Sequence[OpenUniRow],
    dtype: torch.dtype = torch.float64,
    composition: Composition = Composition.OFFICIAL,
) -> OpenUniBatch:
    return openuni.prepare(openuni.collate(rows, rng_for, composition), CPU, dtype)
