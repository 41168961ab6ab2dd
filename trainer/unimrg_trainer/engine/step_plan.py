"""From global rows to the micro-steps of one optimiser step: read, ask, lay out, weigh, pack, collate.

Everything here is a function of (job, data, step, rank, world size) and runs on the host, ahead of the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from unimrg_trainer.data.order import position
from unimrg_trainer.engine.rows import BatchShape, cohorts_of_rank
from unimrg_trainer.models.base import Batch, Family
from unimrg_trainer.objectives.base import Objective
from unimrg_trainer.packing.plan import Geometry, Plan, PlannedRow, pack_official
from unimrg_trainer.rng import generator
from unimrg_trainer.targets.canonical import pad_square, squash
from unimrg_trainer.targets.registry import target_image


@dataclass(frozen=True)
class MicroStep:
    """One forward and one backward: the plan, its tensors, and the absolute weight of every row's loss sum."""

    plan: Plan
    batch: Batch
    weights: Tensor
    """float64 [rows]; Σ over all rows of the whole world of weight · sum is the step's loss."""


@dataclass(frozen=True)
class Step:
    """One optimiser step of one rank."""

    number: int
    micro_steps: tuple[MicroStep, ...]


class Records(Protocol):
    """What is read of a data set (`data/dataset.py`)."""

    @property
    def images(self) -> Sized: ...

    @property
    def questions(self) -> Sized: ...

    def read_image_record(self, number: int, /) -> Mapping[str, Any]: ...

    def read_question_record(self, number: int, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class RowReader:
    """Reads the record of a global row in the data's own order."""

    dataset: Records
    seed: int

    def __call__(self, source: str, global_row: int) -> Mapping[str, Any]:
        if source == "questions":
            size = len(self.dataset.questions)
            return self.dataset.read_question_record(position(self.seed, source, size, global_row))
        size = len(self.dataset.images)
        return self.dataset.read_image_record(position(self.seed, source, size, global_row))


@dataclass(frozen=True)
class SequentialReader:
    """Reads records in the order in which they are stored: held-out rows, always the same."""

    dataset: Records

    def __call__(self, source: str, global_row: int) -> Mapping[str, Any]:
        if source == "questions":
            return self.dataset.read_question_record(global_row % len(self.dataset.questions))
        return self.dataset.read_image_record(global_row % len(self.dataset.images))


@dataclass(frozen=True)
class StepPlanner:
    """Builds steps for one rank.

    `weights` holds λ of every active objective; an objective with λ = 0 is not computed.
    """

    family: Family
    objectives: Sequence[Objective]
    weights: Mapping[str, float]
    reader: RowReader | SequentialReader
    shape: BatchShape
    micro_rows: int
    seed: int

    def step(self, number: int, rank: int, world_size: int) -> Step:
        """Plan and collate optimiser step `number` (0-based) for `rank`."""
        return self.plan(cohorts_of_rank(self.shape, number, rank, world_size), number)

    def plan(self, cohorts: Sequence[range], number: int) -> Step:
        """Plan and collate the given cohorts of every objective under the randomness of step `number`."""
        per_objective = [
            [row for cohort in cohorts for row in self._cohort(objective, cohort, number)]
            for objective in self.objectives
        ]
        micro_steps = []
        for first in range(0, len(per_objective[0]), self.micro_rows):
            part = slice(first, first + self.micro_rows)
            micro_steps.append(self._micro_step([row for rows in per_objective for row in rows[part]], number))
        return Step(number, tuple(micro_steps))

    def _cohort(self, objective: Objective, cohort: range, step: int) -> list[tuple[PlannedRow, Mapping[str, Any]]]:
        hidden = self.family.draw_hidden(generator(self.seed, step, cohort[0], objective.name, "mask-rate"))
        rows = []
        for global_row in cohort:
            record = self.reader(objective.source, global_row)
            branch = objective.branch(record, generator(self.seed, step, global_row, objective.name, "prompt"))
            segments, count = self.family.lay_out(branch, hidden)
            planned = PlannedRow(
                objective=objective.name,
                global_row=global_row,
                sample=0,
                geometry=branch.geometry,
                segments=segments,
                count=count,
                weight=0.0,
                representation=branch.representation,
                hidden=hidden if branch.representation else 0,
            )
            rows.append((planned, record))
        # L = (1/|A|) Σ_k λ_k · mean over k's cohorts of the cohort's mean (seams.md §7)
        units = sum(planned.count for planned, _ in rows)
        share = self.weights[objective.name] / len(self.objectives) / self.shape.cohorts / units
        return [(replace(planned, weight=share), record) for planned, record in rows]

    def _micro_step(self, rows: Sequence[tuple[PlannedRow, Mapping[str, Any]]], step: int) -> MicroStep:
        plan = pack_official([replace(planned, sample=index) for index, (planned, _) in enumerate(rows)])
        records = [record for _, record in rows]
        size = self.family.image_size
        images = [_square(records[image.sample]["image"], image.geometry, size) for image in plan.images]
        targets = [target_image(target.representation, records[target.sample], size) for target in plan.targets]
        batch = self.family.collate(
            plan,
            _stack(images, size),
            _stack(targets, size),
            lambda objective, row, purpose: generator(self.seed, step, row, objective, purpose),
        )
        return MicroStep(plan, batch, torch.tensor([row.weight for row in plan.rows], dtype=torch.float64))


def _square(image: np.ndarray, geometry: Geometry, size: int) -> np.ndarray:
    return pad_square(image, size) if geometry is Geometry.PAD else squash(image, size)


def _stack(images: Sequence[np.ndarray], size: int) -> np.ndarray:
    return np.stack(images) if images else np.zeros((0, size, size, 3), dtype=np.uint8)
