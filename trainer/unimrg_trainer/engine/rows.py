"""Which global rows a rank computes in a step: the same number of whole cohorts of every objective.

A global row is a number that is independent of the world size: step `s` has the rows s·B … (s+1)·B − 1 of each
objective, B rows per step over all ranks. A cohort is `cohort_rows` consecutive rows that share what the published
training code draws or averages per micro-batch (e.g. a mask rate); it is never split between ranks
(docs/method/randomness.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from unimrg_api.arithmetic.rows import nearest_process_counts
from unimrg_api.errors import UserError
from unimrg_api.texts import counted


@dataclass(frozen=True)
class BatchShape:
    """Rows of one objective in one optimiser step, over all ranks."""

    rows: int
    cohort_rows: int

    @property
    def cohorts(self) -> int:
        return self.rows // self.cohort_rows


def cohorts_of_rank(shape: BatchShape, step: int, rank: int, world_size: int) -> list[range]:
    """Global rows of each cohort that `rank` computes in `step`.

    Raises UserError if the cohorts are not divisible by `world_size`, naming the nearest sizes that divide them.
    """
    if shape.cohorts % world_size:
        nearest = nearest_process_counts(shape.cohorts, world_size)
        raise UserError(
            f"{counted(shape.cohorts, 'cohort')} per step cannot be divided by {world_size} processes "
            f"(spec.training.batch: rowsPerObjective {shape.rows}, cohortRows {shape.cohort_rows})",
            remedy=f"use {nearest} processes (`unimrg run --processes`; on a cluster spec.trainer), "
            f"or make rowsPerObjective a multiple of {world_size * shape.cohort_rows}",
        )
    per_rank = shape.cohorts // world_size
    first = step * shape.rows + rank * per_rank * shape.cohort_rows
    return [
        range(first + index * shape.cohort_rows, first + (index + 1) * shape.cohort_rows) for index in range(per_rank)
    ]
