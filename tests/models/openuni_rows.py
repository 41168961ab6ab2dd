"""Rows and batches of the small OpenUni that several tests share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tests.models.rows import CPU, PROMPTS, rng_for, task
from unimrg_trainer.models.openuni.batch import OpenUniBatch
from unimrg_trainer.models.openuni.family import OpenUniFamily
from unimrg_trainer.models.openuni.rows import OpenUniRow, lay_out
from unimrg_trainer.objectives.base import Task


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


def batch_of(openuni: OpenUniFamily, rows: Sequence[OpenUniRow], dtype: torch.dtype = torch.float64) -> OpenUniBatch:
    return openuni.prepare(openuni.collate(rows, rng_for), CPU, dtype)
