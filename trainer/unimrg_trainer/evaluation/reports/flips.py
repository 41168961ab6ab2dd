"""The items that one checkpoint gets right and the other wrong: what a researcher looks at after the scores."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unimrg_trainer.evaluation.reports.columns import Column
from unimrg_trainer.evaluation.reports.grouping import Row
from unimrg_trainer.evaluation.reports.runs import EvaluatedRun
from unimrg_trainer.evaluation.result import ItemScore
from unimrg_trainer.storage.base import NotFound

SHOWN = 12
"""Items that are shown of each direction, evenly spaced among all of them."""
THUMBNAIL = 112
"""Pixels of the longer side."""
_IMAGES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Flip:
    """An item, as both answered it."""

    before: ItemScore
    after: ItemScore
    pictures: tuple[str, str]
    """What both generated, as data URIs; empty where there is none."""


@dataclass(frozen=True)
class Flips:
    """All flips between two runs in one score; `shown` are some of them."""

    column: Column
    before: str
    after: str
    """Row and seed of the two runs."""
    gained: int
    lost: int
    shown_gained: tuple[Flip, ...]
    shown_lost: tuple[Flip, ...]


def flips_of(baseline: Row, row: Row, columns: Sequence[Column]) -> list[Flips]:
    """Compare the runs of the lowest seed: of each benchmark the first score that is 0 or 1 for every item, and that
    changed for at least one."""
    found: dict[str, Flips] = {}
    before, after = baseline.runs[0], row.runs[0]
    for column in columns:
        if column.benchmark not in found and (flips := _flips(before, after, column, baseline, row)) is not None:
            found[column.benchmark] = flips
    return list(found.values())


def _flips(before: EvaluatedRun, after: EvaluatedRun, column: Column, baseline: Row, row: Row) -> Flips | None:
    if column.benchmark not in before.items or column.benchmark not in after.items:
        return None
    one, other = before.items[column.benchmark], after.items[column.benchmark]
    first, second = one.scores(column.metric), other.scores(column.metric)
    if not one.has(column.metric) or not {*first[~np.isnan(first)], *second[~np.isnan(second)]} <= {0.0, 1.0}:
        return None
    gained, lost = np.flatnonzero(first < second), np.flatnonzero(first > second)
    if not len(gained) and not len(lost):
        return None

    def chosen(numbers: np.ndarray) -> tuple[Flip, ...]:
        places = np.unique(np.linspace(0, len(numbers) - 1, min(SHOWN, len(numbers))).astype(int))
        pairs = [(one.items[index], other.items[index]) for index in numbers[places]]
        return tuple(
            Flip(left, right, (_picture(before, column, left), _picture(after, column, right))) for left, right in pairs
        )

    names = [f"{of.label}, seed {run.seed}" for of, run in ((baseline, before), (row, after))]
    return Flips(column, names[0], names[1], len(gained), len(lost), chosen(gained), chosen(lost))


def _picture(run: EvaluatedRun, column: Column, item: ItemScore) -> str:
    """Return the image that an item's prediction names, small; empty if it names none that can be read."""
    if not item.prediction.lower().endswith(_IMAGES) or ".." in item.prediction.split("/"):
        return ""
    with suppress(NotFound, OSError, SyntaxError, ValueError):
        content = run.files.get(f"results/{column.benchmark}/{item.prediction}")
        with Image.open(io.BytesIO(content)) as image:
            small = image.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=80)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return ""
