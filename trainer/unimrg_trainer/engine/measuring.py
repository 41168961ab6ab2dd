"""Forward-only work of the evaluate stage, spread over ranks: held-out losses, answers, generated images.

Rows, noise and masks are addressed, so the numbers do not depend on how many ranks share the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from unimrg_api.errors import Interrupted
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.engine.rows import BatchShape
from unimrg_trainer.engine.setup import Setup
from unimrg_trainer.engine.step_plan import RowReader, StepPlanner
from unimrg_trainer.engine.stopping import StopFlag
from unimrg_trainer.engine.strategy import DTYPES
from unimrg_trainer.evaluation.spatial import Answered
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest

T = TypeVar("T")

HELD_OUT_STEP = -1
"""The address of held-out randomness: no optimiser step has this number."""

ANSWER_BATCH = 32
ANSWER_TOKENS = 8


class Progress:
    """Called between batches: shows how far the work is and ends it when a stop was asked for.

    Raises Interrupted (exit code 85).
    """

    def __init__(self, stop: StopFlag, show: Callable[[str, int, int], None]) -> None:
        self._stop = stop
        self._show = show

    def __call__(self, what: str, done: int, total: int) -> None:
        self.end_if_stopped()
        self._show(what, done, total)

    def end_if_stopped(self) -> None:
        if self._stop.requested:
            raise Interrupted("interrupted during evaluation; the last commit stands")


def share(setup: Setup, items: Sequence[T]) -> Sequence[T]:
    """This rank's share of the work."""
    return items[setup.rank :: setup.world_size]


def gather(setup: Setup, mine: Sequence[T], progress: Progress | None = None) -> list[T]:
    """Undo `share`: all ranks' results in the items' order, on every rank; a collective call.

    A rank that waits here for one that was stopped was asked to stop itself: it ends the same way (`progress`).
    """
    parts: list[Sequence[T]] = [[] for _ in range(setup.world_size)]
    try:
        dist.all_gather_object(parts, list(mine))
    except RuntimeError:
        if progress is not None:
            progress.end_if_stopped()
        raise
    longest = max(len(part) for part in parts)
    return [part[index] for index in range(longest) for part in parts if index < len(part)]


@torch.no_grad()
def held_out_losses(
    setup: Setup, module: nn.Module, data: Dataset, rows: int, progress: Progress, label: str
) -> dict[str, np.ndarray]:
    """Mean loss of each held-out row [rows] of every objective, at fixed noise, dropout off, in training's precision.

    `rows` must not exceed the data: a row that is measured twice is no second observation.
    """
    training = setup.job.spec.training
    cohort_rows = training.batch.cohort_rows
    planner = StepPlanner(
        family=setup.family,
        objectives=setup.objectives,
        weights=setup.weights,
        reader=RowReader(data, seed=None),
        shape=BatchShape(cohort_rows, cohort_rows),
        micro_rows=cohort_rows,
        seed=training.seed,
    )
    cohorts = share(setup, [range(first, first + cohort_rows) for first in range(0, rows, cohort_rows)])
    module.eval()
    results: list[list[tuple[str, float]]] = []
    for index, cohort in enumerate(cohorts):
        progress(label, index, len(cohorts))
        for micro_step in planner.plan([cohort], HELD_OUT_STEP).micro_steps:
            batch = setup.family.prepare(micro_step.batch, setup.device, DTYPES[training.precision])
            with torch.autocast(setup.device.type, torch.bfloat16, enabled=training.precision == "BF16"):
                losses_of_rows = module(batch)
            sums = losses_of_rows.double().cpu().tolist()
            results.append(
                [(row.objective, total / row.loss_terms) for row, total in zip(micro_step.rows, sums, strict=True)]
            )
    losses: dict[str, list[float]] = {name: [] for name in setup.weights}
    for cohort_losses in gather(setup, results, progress):
        for name, loss in cohort_losses:
            losses[name].append(loss)
    return {name: np.array(values[:rows]) for name, values in losses.items()}


@torch.no_grad()
def answers(setup: Setup, module: nn.Module, data: Dataset, count: int, progress: Progress) -> list[Answered]:
    """Ask the first `count` held-out questions, greedily."""
    module.eval()
    batches = share(setup, [range(f, min(f + ANSWER_BATCH, count)) for f in range(0, count, ANSWER_BATCH)])
    results: list[list[Answered]] = []
    for index, batch in enumerate(batches):
        progress("questions", index, len(batches))
        samples = [data.question_sample(i, maps=()) for i in batch]
        requests = [AnswerRequest(sample.question or "", sample.image) for sample in samples]
        replies = setup.family.answer(module, requests, max_new_tokens=ANSWER_TOKENS)
        results.append(
            [
                Answered(sample.key, sample.attributes["kind"], sample.answer or "", reply)
                for sample, reply in zip(samples, replies, strict=True)
            ]
        )
    return [record for batch in gather(setup, results, progress) for record in batch]


@torch.no_grad()
def generated(
    setup: Setup, module: nn.Module, images: Sequence[np.ndarray], progress: Progress
) -> dict[str, list[np.ndarray]]:
    """Generate every map that the job trains from each image uint8 [H, W, 3]: name → images of the family's size."""
    module.eval()
    seed = setup.job.spec.training.seed
    work = {objective.map.name: objective.inference_prompt() for objective in setup.objectives if objective.map}
    items = [(name, image) for name in work for image in range(len(images))]
    own = share(setup, items)
    mine: list[np.ndarray] = []
    for name, prompt in work.items():
        requests = [GenerateRequest(prompt, seed, row, images[row]) for wanted, row in own if wanted == name]
        if requests:
            show = partial(progress, f"samples: {name}, round")
            mine.extend(setup.family.generate(module, requests, on_round=show))
    images_in_order = gather(setup, mine, progress)
    results: dict[str, list[np.ndarray]] = {}
    for (name, _), image in zip(items, images_in_order, strict=True):
        results.setdefault(name, []).append(image)
    return results
