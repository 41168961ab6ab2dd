"""Rows and batches of the small Show-o, with CLIP and with codes, that several tests share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from tests.models.rows import CPU, rng_for, task
from unimrg_api.sizes.showo import ShowOConfig, config_of
from unimrg_trainer.models.showo.batch import ShowOBatch
from unimrg_trainer.models.showo.family import ShowOFamily
from unimrg_trainer.models.showo.rows import ShowORow
from unimrg_trainer.packing.composition import Composition

TINY = config_of("Tiny")
CODES = replace(TINY, variant="TinyVQ", clip=None, source_size=16, source_detail=8, system_prompt=False, row_limit=60)
"""The small one that understands images through their codes."""
BOTH = [TINY, CODES]


def family(config: ShowOConfig = TINY, **sampling: Any) -> ShowOFamily:
    return ShowOFamily({"variant": "Tiny", "sampling": sampling}, config=config)


def rows_of(showo: ShowOFamily, objectives: Sequence[str], numbers: Sequence[int], **kind: bool) -> list[ShowORow]:
    """One row of each objective for each global row, about the sample of that number."""
    rows = []
    for name in objectives:
        tasks = [
            (number, task(name, number, prompt="Where is it?" + " Say it." * (number % 3), **kind))
            for number in numbers
        ]
        rows += showo.plan(name, tasks, rng_for)
    return rows


def batch_of(
    showo: ShowOFamily,
    rows: Sequence[ShowORow],
    dtype: torch.dtype = torch.float64,
    composition: Composition = Composition.OFFICIAL,
) -> ShowOBatch:
    return showo.prepare(showo.collate(rows, rng_for, composition), CPU, dtype)
