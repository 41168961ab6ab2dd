"""Rows and batches of the small Harmon that several tests share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tests.models.rows import CPU, PROMPTS, rng_for, task
from unimrg_api.sizes.harmon import config_of
from unimrg_trainer.models.harmon.batch import HarmonBatch
from unimrg_trainer.models.harmon.family import HarmonFamily
from unimrg_trainer.models.harmon.rows import HarmonRow, lay_out
from unimrg_trainer.objectives.base import Task

TOKENS = config_of("Tiny").tokens
MASKED = {"Understanding": 0, "Pixel": TOKENS - 11, "Depth": TOKENS - 3, "Segmentation": TOKENS - 17}
"""Different for every objective, so that visible tokens are padded."""


def family(dropout: float = 0.0, **sampling: Any) -> HarmonFamily:
    return HarmonFamily({"variant": "Tiny", "dropout": str(dropout), "sampling": sampling})


def row(harmon: HarmonFamily, objective: str, number: int, asked: Task, masked: int | None = None) -> HarmonRow:
    count = MASKED[objective] if masked is None else masked
    return lay_out(harmon.config, harmon.template, objective, number, asked, count)


def rows_of(harmon: HarmonFamily, objectives: Sequence[str], numbers: Sequence[int]) -> list[HarmonRow]:
    """One row of each objective for each global row, about the sample of that number."""
    longer = [PROMPTS["Understanding"] + " Say it." * (number % 3) for number in numbers]
    return [
        row(harmon, name, number, task(name, number, prompt=prompt))
        for name in objectives
        for number, prompt in zip(numbers, longer, strict=True)
    ]


def batch_of(harmon: HarmonFamily, rows: Sequence[HarmonRow], dtype: torch.dtype = torch.float64) -> HarmonBatch:
    return harmon.prepare(harmon.collate(rows, rng_for), CPU, dtype)
