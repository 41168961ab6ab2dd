"""Which global rows a rank computes in a step: equally many whole cohorts of every objective.

A global row is a number that never depends on the world: step `s` holds the rows s·B … (s+1)·B − 1 of each
objective, B rows per step over the whole world. Rows are dealt in whole cohorts, because what the reference draws or
averages per micro-batch (e.g. a mask rate, the mean of a loss) belongs to the cohort (docs/method/randomness.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from unimrg_api.errors import UserError


@dataclass(frozen=True)
class BatchShape:
    """Rows of one objective in one optimiser step, over the whole world."""

    rows: int
    cohort_rows: int

    @property
    def cohorts(self) -> int:
        return self.rows // self.cohort_rows


def cohorts_of_rank(shape: BatchShape, step: int, rank: int, world_size: int) -> list[range]:
    """Global rows of each cohort that `rank` computes in `step`.

    Raises UserError when `world_size` cannot deal whole cohorts equally, naming the nearest sizes that can.
    """
    if shape.cohorts % world_size:
        possible = [size for size in range(1, shape.cohorts + 1) if shape.cohorts % size == 0]
        below = max(size for size in possible if size < world_size)
        above = [size for size in possible if size > world_size][:1]
        nearest = " or ".join(str(size) for size in [below, *above])
        raise UserError(
            f"{world_size} processes cannot share {shape.cohorts} cohorts per step equally "
            f"(spec.training.batch: rowsPerObjective {shape.rows}, cohortRows {shape.cohort_rows})",
            remedy=f"use {nearest} processes, or make rowsPerObjective a multiple of {world_size * shape.cohort_rows}",
        )
    per_rank = shape.cohorts // world_size
    first = step * shape.rows + rank * per_rank * shape.cohort_rows
    return [
        range(first + index * shape.cohort_rows, first + (index + 1) * shape.cohort_rows) for index in range(per_rank)
    ]
