"""From global rows to the micro-steps of one optimiser step: read samples, make tasks, plan rows, weight, collate.

Everything here is a function of (job, data, step, rank, world size) and runs on the host, ahead of the device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.data.order import position
from unimrg_trainer.engine.rows import BatchShape, cohorts_of_rank
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.models.base import Batch, Family, Row
from unimrg_trainer.models.common.encodings import Reading
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
    return Step(step.number, tuple(micro_steps))


class ReadSample(Protocol):
    """Reads a sample with the maps, the image and the encodings that are asked for; `maps` None: all."""

    def __call__(
        self,
        sample_index: int,
        /,
        maps: Collection[str] | None = None,
        image: bool = True,
        encodings: Collection[str] = (),
    ) -> Sample: ...


class SampleSource(Protocol):
    """The part of a data set (`data/dataset.py`) that the planner uses."""

    @property
    def images(self) -> Sized: ...

    @property
    def questions(self) -> Sized: ...

    @property
    def image_sample(self) -> ReadSample: ...

    @property
    def question_sample(self) -> ReadSample: ...

    def questions_about(self, image: int, /) -> range: ...


@dataclass(frozen=True)
class RowReader:
    """Reads the sample of a global row, in shuffled order by `seed`, or in stored order (None: evaluation).

    With `same_images` a question is about the image that other objectives have at the same global row. With `reading`,
    the family's, what rows read encoded is read so, and the image only where they need its pixels too.
    """

    dataset: SampleSource
    seed: int | None
    same_images: bool = False
    reading: Callable[[ImageMap | None], Reading] | None = None

    def __call__(self, objective: Objective, global_row: int) -> Sample:
        """The sample with what the objective learns from."""
        wanted = self._wanted(objective.map)
        if objective.source == "images":
            sample_index = self._index("images", len(self.dataset.images), global_row)
            return self.dataset.image_sample(sample_index, **wanted)
        if not self.same_images:
            sample_index = self._index("questions", len(self.dataset.questions), global_row)
            return self.dataset.question_sample(sample_index, **wanted)
        image = self._index("images", len(self.dataset.images), global_row)
        questions = self.dataset.questions_about(image)
        drawn = int(generator("question", self.seed or 0, global_row).integers(len(questions)))
        return self.dataset.question_sample(questions[drawn], **wanted)

    def _wanted(self, map: ImageMap | None) -> dict[str, Any]:
        """What a data set is asked for, of a sample to learn `map` from, or an answer."""
        if self.reading is None:
            return {"maps": () if map is None else (map.name,)}
        reading = self.reading(map)
        return {"maps": (), "image": reading.image, "encodings": {encoding.name for encoding in reading.encodings}}

    def _index(self, source: str, size: int, global_row: int) -> int:
        return global_row % size if self.seed is None else position(self.seed, source, size, global_row)


def require_questions(dataset: SampleSource) -> None:
    """Raise UserError (65) unless there is a question about every image, as `RowReader.same_images` needs."""
    unasked = next((image for image in range(len(dataset.images)) if not dataset.questions_about(image)), None)
    if unasked is not None:
        raise UserError(
            f"image sample {unasked} has no question, and spec.training.batch.imageSharing is All",
            remedy="use imageSharing: Generation, or data with a question about every image",
            exit_code=ExitCode.DATA_CORRUPT,
        )


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

    def plan_step(self, step: int, rank: int, world_size: int) -> Step:
        """Plan and collate optimiser step `step` (0-based) for `rank`."""
        return self.plan_cohorts(cohorts_of_rank(self.shape, step, rank, world_size), step)

    def plan_cohorts(self, cohorts: Sequence[range], step: int) -> Step:
        """Plan and collate the given cohorts of every objective under the rng keys of step `step`."""
        per_objective = [
            [row for cohort in cohorts for row in self._cohort(objective, cohort, step)]
            for objective in self.objectives
        ]
        assert len({len(rows) for rows in per_objective}) == 1, "every objective has as many rows"
        micro_steps = []
        for first in range(0, len(per_objective[0]), self.micro_batch_rows):
            part = slice(first, first + self.micro_batch_rows)
            micro_steps.append(self._micro_step([row for rows in per_objective for row in rows[part]], step))
        return Step(step, tuple(micro_steps))

    def _cohort(self, objective: Objective, cohort: range, step: int) -> list[tuple[Row, float]]:
        """Rows of one cohort with their weights."""
        tasks = [
            (row, objective.task(self.reader(objective, row), self._rng(step, objective.name, row, "prompt")))
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
