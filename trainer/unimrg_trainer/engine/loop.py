"""The training loop, one for every family, objective and strategy.

    resume → dry run → [ plan and collate (ahead, on the host) → per micro-step: prepare, forward, backward
             → clip → step → every few steps: metrics → when due or on a stop request: checkpoint ] → final checkpoint

The loop handles steps, checkpoints and metrics; the family computes rows; the strategy spreads a step over processes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from unimrg_api.errors import Interrupted
from unimrg_trainer.checkpoint.state import LocalState
from unimrg_trainer.data.prefetch import Prefetcher
from unimrg_trainer.engine.metrics import MetricsCollector, StepMetrics
from unimrg_trainer.engine.schedule import WarmupCosine
from unimrg_trainer.engine.step_plan import Step
from unimrg_trainer.engine.stopping import CollectiveStopFlag
from unimrg_trainer.engine.strategies.base import Strategy
from unimrg_trainer.models.base import Batch
from unimrg_trainer.rng import key_digest

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


@dataclass(frozen=True)
class LoopReport:
    """What was measured in the steps since the last report; times are means over them, in seconds."""

    metrics: list[StepMetrics]
    learning_rates: list[float]
    step_seconds: float
    data_wait_seconds: float


@dataclass
class TrainingLoop:
    """Runs optimiser steps; a micro-step of one is a forward and backward of gradient accumulation."""

    strategy: Strategy
    schedule: WarmupCosine
    collector: MetricsCollector
    plan_step: Callable[[int], Step]
    prepare: Callable[[Batch], Batch]
    """Moves a collated batch to the device and runs the family's frozen encoders there."""
    stop: CollectiveStopFlag
    save: Callable[[LocalState, str], None]
    """Saves a checkpoint of (state, reason), in the background if it likes; called on every rank."""
    report: Callable[[LoopReport], None]
    """Called on every rank every few steps."""
    settings: LoopSettings
    heartbeat: Callable[[int], None] = lambda finished_steps: None
    """Called with the number of finished steps after each, for the watchdog."""
    settle: Callable[[], None] = lambda: None
    """Called before a state is copied, to wait for the save before: the host holds one copy."""

    def __post_init__(self) -> None:
        self._rates: list[float] = []
        self._report_started = 0.0
        self._data_wait = 0.0

    def run(self, first_step: int) -> int:
        """Train; return the number of finished optimiser steps.

        Raises Interrupted (exit code 85) after saving a checkpoint if a stop was requested.
        """
        finished_steps = first_step
        if finished_steps >= self.settings.stop_step:
            return finished_steps
        with Prefetcher(self.plan_step, first_step, PREFETCH_STEPS) as steps:
            step = next(steps)
            self._dry_run(step)
            self.heartbeat(first_step)
            self._report_started = time.monotonic()
            while True:
                self._train(step)
                finished_steps = step.number + 1
                self.heartbeat(finished_steps)
                stopping = self.stop.poll()
                at_end = finished_steps == self.settings.stop_step
                saving = at_end or stopping or finished_steps % self.settings.save_every == 0
                if saving or finished_steps % REPORT_EVERY == 0:
                    self._report()
                if saving:
                    reason = "final" if at_end else "interruption" if stopping else "periodic"
                    self.settle()
                    self.save(self.strategy.export_state(finished_steps), reason)
                    self._report_started = time.monotonic()
                if at_end:
                    self.stop.wait_pending()
                    break
                if stopping:
                    self.stop.wait_pending()
                    raise Interrupted(f"stopped after step {finished_steps}; a checkpoint was saved")
                waited = time.monotonic()
                step = next(steps)
                self._data_wait += time.monotonic() - waited
        return finished_steps

    def _train(self, step: Step) -> None:
        rate = self.schedule.rate(step.number)
        self._forward_backward(step)
        norm = self.strategy.clip(self.settings.clip_norm)
        self.strategy.step(rate)
        self.collector.end_step(step.number + 1, norm)
        self._rates.append(rate)

    def _forward_backward(self, step: Step) -> None:
        for index, micro_step in enumerate(step.micro_steps):
            batch = self.prepare(micro_step.batch)
            # dropout is torch's own stream, keyed by the rows of this forward (docs/method/randomness.md)
            torch.manual_seed(key_digest(self.settings.seed, step.number, "dropout", micro_step.rows_digest()) % 2**63)
            sync_gradients = index == len(step.micro_steps) - 1
            sums = self.strategy.forward_backward(batch, micro_step.row_weights, sync_gradients=sync_gradients)
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

    def _report(self) -> None:
        metrics = self.collector.flush()
        now = time.monotonic()
        count = max(1, len(metrics))
        self.report(LoopReport(metrics, self._rates, (now - self._report_started) / count, self._data_wait / count))
        self._rates, self._data_wait, self._report_started = [], 0.0, now
