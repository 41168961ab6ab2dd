"""Forward passes of the evaluate stage, spread over the ranks: held-out losses, and model calls for benchmarks.

Rows and their rng keys do not depend on the rank, so the results do not depend on the number of ranks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from unimrg_api.errors import Interrupted
from unimrg_trainer.data.mixture import Data
from unimrg_trainer.engine.row_reader import RowReader
from unimrg_trainer.engine.rows import BatchShape
from unimrg_trainer.engine.setup import Setup
from unimrg_trainer.engine.step_plan import StepPlanner
from unimrg_trainer.engine.stopping import StopFlag
from unimrg_trainer.models.base import Batch, Family, OnRound
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest

logger = logging.getLogger(__name__)

T = TypeVar("T")

HELD_OUT_STEP = -1
"""Step in the rng keys of held-out rows: no optimiser step has this number."""


class MeasurementStopped(Exception):  # noqa: N818 - no error
    """The ranks have agreed to stop before a measurement was complete."""


@dataclass(frozen=True)
class StoppableProgress:
    """Called between batches: reports the progress, or raises Interrupted (85) if a stop was requested."""

    stop: StopFlag
    show: Callable[[str, int, int], None]
    """(what, done, total)"""
    tick: Callable[[], None]
    """Tells the watchdog that this rank works."""

    def __call__(self, what: str, done: int, total: int) -> None:
        self.go_on()
        self.show(what, done, total)

    def go_on(self) -> None:
        """Tell that the work goes on, where there is nothing to show; raises as above."""
        self.raise_if_stopped()
        self.tick()

    def raise_if_stopped(self) -> None:
        if self.stop.requested:
            raise Interrupted("interrupted during evaluation; finished blocks are kept")


@dataclass(frozen=True)
class SharedWork:
    """Splits items over the ranks of the process group and gathers the results, for `evaluation/runner.py`."""

    rank: int
    world_size: int
    raise_if_stopped: Callable[[], None] = lambda: None
    """Raises Interrupted if a stop was requested."""

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this rank's share of the items."""
        return items[self.rank :: self.world_size]

    def gather(self, mine: Sequence[T]) -> list[T]:
        """Undo `share`: return all ranks' results in the items' order, on every rank; a collective call.

        If a peer stopped, this rank was asked to stop too: it raises Interrupted, not the communication error.
        """
        parts: list[Sequence[T]] = [[] for _ in range(self.world_size)]
        try:
            dist.all_gather_object(parts, list(mine))
        except RuntimeError:
            self.raise_if_stopped()
            raise
        longest = max(len(part) for part in parts)
        return [part[index] for index in range(longest) for part in parts if index < len(part)]


@dataclass(frozen=True)
class TrainedModel:
    """A family's module with the calls that `evaluation/runner.py` needs."""

    family: Family
    module: nn.Module
    on_token: Callable[[], None] = lambda: None
    """Called before every further token of answers; may end the work by raising."""

    @torch.no_grad()
    def answer(self, requests: Sequence[AnswerRequest], max_new_tokens: int) -> list[str]:
        self.module.eval()
        return self.family.answer(self.module, requests, max_new_tokens=max_new_tokens, on_token=self.on_token)

    @torch.no_grad()
    def generate(self, requests: Sequence[GenerateRequest], on_round: OnRound) -> list[np.ndarray]:
        self.module.eval()
        return self.family.generate(self.module, requests, on_round=on_round)


def cohorts_of(rows: int, cohort_rows: int) -> list[range]:
    """The whole cohorts in which the rows 0 … rows − 1 are measured; the last may go beyond them."""
    return [range(first, first + cohort_rows) for first in range(0, rows, cohort_rows)]


def held_out_rows(setup: Setup, held_out: Data) -> int:
    """Number of rows to evaluate: as many as the job wants, at most as many as there are."""
    wanted = setup.job.spec.stages.evaluate.held_out_rows
    sizes = {"questions": len(held_out.questions), "images": len(held_out.images)}
    sources = {"images" if setup.same_images else objective.source for objective in setup.objectives}
    available = min(sizes[source] for source in sources)
    if available < wanted and setup.rank == 0:
        logger.warning("stages.evaluate.heldOutRows is %d: evaluating the %d rows that the data has", wanted, available)
    return min(wanted, available)


@torch.no_grad()
def held_out_losses(
    setup: Setup,
    row_sums: Callable[[Batch], Tensor],
    data: Data,
    rows: int,
    work: SharedWork,
    progress: Callable[[str, int, int], None],
    label: str,
) -> dict[str, np.ndarray]:
    """Mean loss of each held-out row [rows] of every objective, at fixed noise, dropout off, in training's precision.

    `rows` must not exceed the data: repeated rows would bias the statistics. Every rank makes equally many forwards,
    which modules with divided weights need: the last cohort is computed again where ranks are left over.
    """
    training = setup.job.spec.training
    cohort_rows = training.batch.cohort_rows
    planner = StepPlanner(
        family=setup.family,
        objectives=setup.objectives,
        objective_weights=setup.objective_weights,
        reader=RowReader(data, seed=None, same_images=setup.same_images),
        shape=BatchShape(cohort_rows, cohort_rows),
        micro_batch_rows=cohort_rows,
        seed=training.seed,
        composition=setup.composition,
    )
    cohorts = cohorts_of(rows, cohort_rows)
    cohorts = list(work.share(cohorts + cohorts[-1:] * (-len(cohorts) % work.world_size)))
    results: list[list[tuple[str, float]]] = []
    for index, cohort in enumerate(cohorts):
        progress(label, index, len(cohorts))
        for micro_step in planner.plan_cohorts([cohort], HELD_OUT_STEP).micro_steps:
            batch = setup.family.prepare(micro_step.batch, setup.device, setup.parameter_dtype)
            with torch.autocast(setup.device.type, torch.bfloat16, enabled=training.precision == "BF16"):
                loss_sums = row_sums(batch)
            sums = loss_sums.double().cpu().tolist()
            results.append(
                [(row.objective, total / row.loss_terms) for row, total in zip(micro_step.rows, sums, strict=True)]
            )
    losses: dict[str, list[float]] = {name: [] for name in setup.objective_weights}
    for cohort_losses in work.gather(results):
        for name, loss in cohort_losses:
            losses[name].append(loss)
    return {name: np.array(values[:rows]) for name, values in losses.items()}


def held_out_loss(
    setup: Setup, row_sums: Callable[[Batch], Tensor], data: Data, rows: int, before_batch: Callable[[], None]
) -> dict[str, float]:
    """Mean held-out loss of each objective in the middle of training, over as many rows as the evaluation takes.

    A collective call with one result. `before_batch` may end it by raising on all ranks.
    """
    work = SharedWork(setup.rank, setup.world_size)
    losses = held_out_losses(setup, row_sums, data, rows, work, lambda *_: before_batch(), "")
    return {name: float(values.mean()) for name, values in losses.items()}
