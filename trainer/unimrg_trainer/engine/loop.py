"""The training loop, one for every family, objective and strategy.

    resume → dry run → [ plan and collate (ahead, on the host) → per micro-step: prepare, forward, backward
             → clip → guard → step → every few steps: metrics → when due or stopping: checkpoint ] → final checkpoint

The loop handles steps, checkpoints and metrics; the family computes rows; the strategy spreads a step over processes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from unimrg_api.errors import Interrupted, UserError
from unimrg_trainer.checkpoint.state import LocalState
from unimrg_trainer.data.prefetch import Prefetcher
from unimrg_trainer.engine.guard import NumericGuard
from unimrg_trainer.engine.metrics import MetricsCollector, StepMetrics
from unimrg_trainer.engine.rank_times import RankTimes, SlowestRank
from unimrg_trainer.engine.schedule import Schedule
from unimrg_trainer.engine.step_plan import Step
from unimrg_trainer.engine.stopping import CollectiveStopFlag
from unimrg_trainer.engine.strategies.base import Strategy
from unimrg_trainer.engine.substitutions import Substitutions
from unimrg_trainer.models.base import Batch
from unimrg_trainer.rng import key_digest
from unimrg_trainer.sections import Section

logger = logging.getLogger(__name__)

REPORT_EVERY = 5
"""Steps between two reports; each synchronizes with the device once."""
PREFETCH_STEPS = 2
"""Steps that are planned ahead."""


@dataclass(frozen=True)
class LoopSettings:
    """When the loop ends and saves, and how it clips. Steps are optimiser steps."""

    stop_step: int
    save_every: int
    clip_norm: float
    seed: int
    objective_norms_every: int | None = None
    """Steps between two measurements of each objective's gradient norm; None: it is not measured."""


@dataclass(frozen=True)
class LoopReport:
    """What was measured in the steps since the last report; times are means over them, in seconds."""

    metrics: list[StepMetrics]
    learning_rates: list[float]
    skipped_steps: int
    """Since the start of training."""
    step_seconds: float
    data_wait_seconds: float
    slowest: SlowestRank | None


@dataclass
class TrainingLoop:
    """Runs optimiser steps; a micro-step of one is a forward and backward of gradient accumulation."""

    strategy: Strategy
    schedule: Schedule
    collector: MetricsCollector
    guard: NumericGuard
    plan_step: Callable[[int], Step]
    prepare: Callable[[Batch], Batch]
    """Moves a collated batch to the device and runs the family's frozen encoders there."""
    stop: CollectiveStopFlag
    save: Callable[[LocalState, str], None]
    """Saves a checkpoint of (state, reason), in the background if it likes; called on every rank."""
    report: Callable[[LoopReport], None]
    """Called on every rank every few steps."""
    settings: LoopSettings
    rank_times: RankTimes | None
    """None: ranks cannot be told apart, because a forward waits for the others."""
    substitutions: Substitutions = field(default_factory=lambda: Substitutions(1.0, 1, 1))
    enter: Callable[[Section, int], None] = lambda section, finished_steps: None
    """Called when a part of a step begins, for the watchdog."""
    before_step: Callable[[int], None] = lambda finished_steps: None
    ends_early: Callable[[int], bool] = lambda finished_steps: False
    """Called on every rank before a save that no one asked to be quick: measures the held-out loss, if it is due. It
    polls `stop`, and gives up once a stop is agreed."""
    settle: Callable[[], None] = lambda: None
    """Called before a state is copied, to wait for the save before: the host holds one copy."""

    def __post_init__(self) -> None:
        self._rates: list[float] = []
        self._report_started = 0.0
        self._data_wait = 0.0
        self._committed_step = 0
        """Of the newest state that was given to `save`, or from which training goes on; 0: none."""
        self._has_moved = False
        """Whether a step was taken, not skipped, since then, as far as steps were reported."""

    def run(self, first_step: int) -> int:
        """Train; return the number of finished optimiser steps.

        Raises Interrupted (exit code 85) after saving a checkpoint if a stop was requested, and NumericGuardError (82)
        before saving anything if too many steps were skipped, UserError (65) if too many samples were substituted.
        """
        finished_steps = self._committed_step = first_step
        if finished_steps >= self.settings.stop_step:
            return finished_steps
        with Prefetcher(self.plan_step, first_step, PREFETCH_STEPS) as steps:
            self.enter("first step", first_step)
            step = next(steps)
            self._dry_run(step)
            self._report_started = time.monotonic()
            while True:
                before = time.monotonic()
                self.before_step(finished_steps)
                self._report_started += time.monotonic() - before  # what it takes is no part of the step
                self._train(step)
                finished_steps = step.number + 1
                stopping = self.stop.poll()
                at_end = finished_steps == self.settings.stop_step
                due = at_end or stopping or finished_steps % self.settings.save_every == 0
                if due or finished_steps % REPORT_EVERY == 0:
                    self._report()
                saving = at_end or stopping or (due and self._has_moved)  # a state that has not changed is kept already
                if saving and not stopping:
                    at_end = self.ends_early(finished_steps) or at_end
                    stopping = self.stop.agreed  # it stops on request, too
                if saving:
                    self.enter("save", finished_steps)
                    self._save(finished_steps, "final" if at_end else "interruption" if stopping else "periodic")
                    self._report_started = time.monotonic()
                if at_end:
                    self.stop.wait_pending()
                    break
                if stopping:
                    self.stop.wait_pending()
                    raise Interrupted(f"stopped after step {finished_steps}; a checkpoint was saved")
                self.enter("fetch", finished_steps)
                waited = time.monotonic()
                step = next(steps)
                self._data_wait += time.monotonic() - waited
                self.enter("step", finished_steps)
        return finished_steps

    def _save(self, finished_steps: int, reason: str) -> None:
        """Export and save the state; nothing here holds it longer than the save does."""
        self.settle()
        state = self.strategy.export_state(finished_steps)
        state.pieces.extend([*self.guard.export_pieces(), *self.substitutions.export_pieces()])
        self.save(state, reason)
        self._committed_step, self._has_moved = finished_steps, False

    def _train(self, step: Step) -> None:
        rate = self.schedule.rate(step.number)
        for damage in step.substituted:
            logger.warning("step %d has another sample in the place of a damaged one: %s", step.number + 1, damage)
        if self.settings.objective_norms_every and (step.number + 1) % self.settings.objective_norms_every == 0:
            self._measure_objective_norms(step)
        self._forward_backward(step)
        self.collector.add_substituted(len(step.substituted))
        losses = self.collector.reduced_losses()
        norm = self.strategy.clip(self.settings.clip_norm)
        skip = self.guard.judge(losses.sum(), norm)
        self.strategy.step(rate, skip)
        self.collector.end_step(step.number + 1, losses, norm, skip)
        self._rates.append(rate)

    def _measure_objective_norms(self, step: Step) -> None:
        """Measure the gradient norm of each objective's share of the loss, with a backward of its own, and discard it.

        Dropout and noise are those of the step itself, so the sum of these gradients is its gradient.
        """
        norms = []
        for name in self.collector.names:
            self._forward_backward(step, objective=name)
            norms.append(self.strategy.clip(math.inf).detach())
            self.strategy.discard()
        self.collector.add_objective_norms(step.number + 1, torch.stack(norms))

    def _forward_backward(self, step: Step, objective: str | None = None) -> None:
        """Compute the gradient of a step, or of one objective's share of its loss, which is not collected."""
        for index, micro_step in enumerate(step.micro_steps):
            batch = self.prepare(micro_step.batch)
            # dropout is torch's own stream, keyed by the rows of this forward (docs/method/randomness.md)
            torch.manual_seed(key_digest(self.settings.seed, step.number, "dropout", micro_step.rows_digest()) % 2**63)
            sync_gradients = index == len(step.micro_steps) - 1
            weights = micro_step.row_weights if objective is None else micro_step.weights_of(objective)
            sums = self.strategy.forward_backward(batch, weights, sync_gradients=sync_gradients)
            if objective is None:
                self.collector.add_micro_step(micro_step, sums)

    def _dry_run(self, step: Step) -> None:
        """Compute a step and discard it.

        It shows early whether activations, gradients and moments fit in memory. And DistributedDataParallel rearranges
        its buckets after the first backward, which changes the order of summation over three or more ranks: after the
        dry run a resumed process has the same buckets as one that never stopped.
        """
        self._forward_backward(step)
        self.strategy.discard()
        self.collector.discard()
        if self.rank_times is not None:
            self.rank_times.discard()

    def _report(self) -> None:
        metrics = self.collector.flush()
        self._has_moved = self._has_moved or not all(step.skipped for step in metrics)
        exceeded = self.guard.count(metrics, self._committed_step) or self.substitutions.count(metrics)
        now = time.monotonic()
        count = max(1, len(metrics))
        step_seconds, data_wait = (now - self._report_started) / count, self._data_wait / count
        slowest = None if self.rank_times is None else self.rank_times.flush(count, data_wait)
        self.report(LoopReport(metrics, self._rates, self.guard.skipped, step_seconds, data_wait, slowest))
        self._rates, self._data_wait, self._report_started = [], 0.0, now
        if exceeded is not None:
            try:
                self.settle()  # the save in flight is whole, and the last one that this training makes
            except UserError as error:
                logger.error("the checkpoint of step %d was not saved: %s", self._committed_step, error)
            raise exceeded
