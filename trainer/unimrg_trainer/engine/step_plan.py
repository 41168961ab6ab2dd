"""From global rows to the micro-steps of one optimiser step: read samples, make tasks, plan rows, weight, collate.

Everything here is a function of (job, data, step, rank, world size) and runs on the host, ahead of the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from unimrg_trainer.data.dataset import Source
from unimrg_trainer.data.shards import Extent
from unimrg_trainer.engine.row_reader import RowReader, Samples
from unimrg_trainer.engine.rows import BatchShape, cohorts_of_rank
from unimrg_trainer.models.base import Batch, Family, Row
from unimrg_trainer.objectives.base import Objective
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.packing.segments import rows_digest
from unimrg_trainer.rng import generator
from unimrg_trainer.sample import Sample


@dataclass(frozen=True)
class MicroStep:
    """One forward and one backward: the rows, their collated batch, and the absolute weight of every row's loss sum."""

    rows: tuple[Row, ...]
    batch: Batch
    row_weights: Tensor
    """float64 [rows]; Σ weight · sum over the rows of all ranks is the step's loss."""

    def weights_of(self, objective: str) -> Tensor:
        """Return `row_weights` with zeros for the rows of other objectives."""
        own = torch.tensor([row.objective == objective for row in self.rows])
        return self.row_weights * own

    def rows_digest(self) -> int:
        """Digest of the (objective, global row) pairs: part of dropout's rng key."""
        return rows_digest((row.objective, row.global_row) for row in self.rows)


@dataclass(frozen=True)
class Step:
    """One optimiser step of one rank."""

    number: int
    micro_steps: tuple[MicroStep, ...]
    substituted: tuple[str, ...] = ()
    """Of each sample that stands in the place of a damaged one, what is wrong with that one."""


def pinned(step: Step, device: torch.device) -> Step:
    """Return the step in page-locked memory where `device` is a GPU; batches without `pin_memory` stay as they are."""
    if device.type != "cuda":
        return step
    micro_steps = (
        replace(
            one,
            batch=one.batch.pin_memory() if hasattr(one.batch, "pin_memory") else one.batch,
            row_weights=one.row_weights.pin_memory(),
        )
        for one in step.micro_steps
    )
    return replace(step, micro_steps=tuple(micro_steps))


@dataclass(frozen=True)
class StepPlanner:
    """Builds steps for one rank.

    `objective_weights` holds λ of every active objective; an objective with λ = 0 is not computed. A micro-step has at
    most `micro_batch_rows` rows of each objective.
    """

    family: Family
    objectives: Sequence[Objective]
    objective_weights: Mapping[str, float]
    reader: RowReader
    shape: BatchShape
    micro_batch_rows: int
    seed: int
    composition: Composition = Composition.OFFICIAL

    @property
    def sources(self) -> set[Source]:
        """The orders that the objectives follow: a step has a sample of each for every row."""
        return {self.reader.source(objective) for objective in self.objectives}

    def plan_step(
        self,
        step: int,
        rank: int,
        world_size: int,
        read: Callable[[Extent], bytes] | None = None,
        spread: Callable[..., Iterable[Sample]] = map,
    ) -> Step:
        """Plan and collate optimiser step `step` (0-based) for `rank`; `read` and `spread` as in `read_together`."""
        return self.plan_cohorts(cohorts_of_rank(self.shape, step, rank, world_size), step, read, spread)

    def extents(self, step: int, rank: int, world_size: int) -> list[Extent]:
        """Return what `plan_step` will read."""
        cohorts = cohorts_of_rank(self.shape, step, rank, world_size)
        return self.reader.extents(self.objectives, [row for cohort in cohorts for row in cohort])

    def plan_cohorts(
        self,
        cohorts: Sequence[range],
        step: int,
        read: Callable[[Extent], bytes] | None = None,
        spread: Callable[..., Iterable[Sample]] = map,
    ) -> Step:
        """Plan and collate the given cohorts of every objective under the rng keys of step `step`."""
        rows = [row for cohort in cohorts for row in cohort]
        samples = self.reader.read_together(self.objectives, rows, read, spread)
        substituted = tuple(sample.replaces for sample in samples.values() if sample.replaces)
        per_objective = [
            [row for cohort in cohorts for row in self._cohort(objective, cohort, step, samples)]
            for objective in self.objectives
        ]
        assert len({len(rows) for rows in per_objective}) == 1, "every objective has as many rows"
        micro_steps = []
        for first in range(0, len(per_objective[0]), self.micro_batch_rows):
            part = slice(first, first + self.micro_batch_rows)
            micro_steps.append(self._micro_step([row for rows in per_objective for row in rows[part]], step))
        return Step(step, tuple(micro_steps), substituted)

    def _cohort(self, objective: Objective, cohort: range, step: int, samples: Samples) -> list[tuple[Row, float]]:
        """Rows of one cohort with their weights."""
        source = self.reader.source(objective)
        tasks = [
            (row, objective.task(samples[source, row], self._rng(step, objective.name, row, "prompt")))
            for row in cohort
        ]
        rows = self.family.plan(objective.name, tasks, partial(self._rng, step))
        # L = (1/|A|) Σ_k λ_k · mean over k's cohorts of the cohort's mean (docs/method/randomness.md)
        loss_terms = sum(row.loss_terms for row in rows)
        row_weight = self.objective_weights[objective.name] / len(self.objectives) / self.shape.cohorts / loss_terms
        return [(row, row_weight) for row in rows]

    def _micro_step(self, weighted: Sequence[tuple[Row, float]], step: int) -> MicroStep:
        rows = tuple(row for row, _ in weighted)
        batch = self.family.collate(rows, partial(self._rng, step), self.composition)
        return MicroStep(rows, batch, torch.tensor([weight for _, weight in weighted], dtype=torch.float64))

    def _rng(self, step: int, objective: str, row: int, purpose: str) -> np.random.Generator:
        return generator(self.seed, step, row, objective, purpose)
