"""Reports of the train stage: metrics for the tracker's spool, and the progress file.

Only rank 0 writes. The launcher uploads the spool to MLflow and serves the progress file (docs/method/tracking.md).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from unimrg_api.progress import Progress
from unimrg_api.texts import counted
from unimrg_trainer.engine.loop import LoopReport
from unimrg_trainer.engine.run_description import describe_run
from unimrg_trainer.engine.setup import Setup
from unimrg_trainer.evaluation.runner import Asked
from unimrg_trainer.local_folders import write_progress
from unimrg_trainer.tracking.spool import Spool, copy_segments, restore_segments

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
SLOW_RANK_RATIO = 1.5
"""A rank that takes so many times as long as the median of all ranks is named in the log."""


class Reporter:
    """Turns reports of the loop into spool records and progress; writes nothing on other ranks than 0."""

    def __init__(self, setup: Setup, stop_step: int, resume_step: int, frozen_count: int, parameter_count: int) -> None:
        self._setup = setup
        self._stop_step = stop_step
        self._resume_step = resume_step
        strategy, ranks = setup.job.spec.resolved_strategy(setup.world_size), setup.world_size
        self._message = f"{strategy}, {ranks} process{'es' if ranks > 1 else ''}"
        self._rows_per_step = setup.job.spec.training.batch.rows_per_objective * len(setup.objectives)
        self._progress = Progress(
            stage="train",
            step=resume_step,
            total_steps=stop_step,
            checkpoint_step=resume_step or None,
            message=self._message,
        )
        self._lock = threading.Lock()
        self._wait = ""
        setup.waits.show = self.show_wait
        self._spool: Spool | None = None
        if setup.rank == 0:
            self._spool = open_spool(setup)
            self._spool.begin(resume_step)
            describe_run(setup, self._spool, parameter_count, frozen_count)
            self._update()

    def report(self, measured: LoopReport) -> None:
        """Record the metrics of a few steps."""
        if self._spool is None or not measured.metrics:
            return
        slowest = measured.slowest
        ratios = {} if slowest is None else {"slowest_rank": slowest.rank, "slowest_rank_ratio": slowest.ratio}
        operations = self._setup.operations
        shares = operations.shares([one.step for one in measured.metrics], measured.step_seconds) if operations else {}
        skipped = measured.skipped_steps - sum(point.skipped for point in measured.metrics)  # before these steps
        for point, rate in zip(measured.metrics, measured.learning_rates, strict=True):
            measurements = {
                "train/loss": point.loss,
                **{f"train/loss/{name.lower()}": value for name, value in point.losses.items()},
                "train/grad_norm": point.grad_norm,
                **{f"train/grad_norm/{name.lower()}": value for name, value in point.objective_norms.items()},
            }
            if point.skipped:
                skipped += 1
                logger.warning("step %d was skipped: loss %.4g, |g| %.4g", point.step, point.loss, point.grad_norm)
            self._spool.step(
                point.step,
                {
                    **{name: value for name, value in measurements.items() if math.isfinite(value)},
                    "train/skipped_steps": float(skipped),
                    "data/substituted": float(point.substituted),
                    "optim/lr": rate,
                    "data/rows_seen": float(point.step * self._rows_per_step),
                    "perf/step_s": measured.step_seconds,
                    "perf/rows_per_s": self._rows_per_step / measured.step_seconds,
                    "perf/data_wait_s": measured.data_wait_seconds,
                    **{f"perf/{name}": float(value) for name, value in ratios.items()},
                    **shares,
                },
            )
        last = measured.metrics[-1]
        losses = {name.lower(): value for name, value in last.losses.items() if math.isfinite(value)}
        self._update(
            step=last.step,
            eta_seconds=(self._stop_step - last.step) * measured.step_seconds,
            loss=last.loss if math.isfinite(last.loss) else None,
            losses=losses,
            skipped_steps=measured.skipped_steps,
            rows_per_second=self._rows_per_step / measured.step_seconds,
            message=self._message,
            **ratios,
        )
        if substituted := sum(point.substituted for point in measured.metrics):
            self.notify(f"{counted(substituted, 'damaged sample')} had another one in its place up to step {last.step}")
        if slowest is not None and slowest.ratio >= SLOW_RANK_RATIO:
            logger.warning(
                "rank %d is slow: %.1f times the median of all ranks (%.2f s per step in its forward passes, %.2f s "
                "waiting for data)",
                slowest.rank, slowest.ratio, slowest.forward_seconds, slowest.data_wait_seconds,
            )  # fmt: skip
        logger.info(
            "step %d/%d  loss %.4f  %s  |g| %.3f  %.2f s/step",
            last.step,
            self._stop_step,
            last.loss,
            "  ".join(f"{name} {value:.4f}" for name, value in losses.items()),
            last.grad_norm,
            measured.step_seconds,
        )

    def record_held_out(self, step: int, loss: float, losses: Mapping[str, float]) -> None:
        """Record the held-out loss in the middle of training, and that of each objective."""
        if self._spool is None:
            return
        values = {"heldout/loss": loss, **{f"heldout/loss/{name.lower()}": value for name, value in losses.items()}}
        self._spool.step(step, {name: value for name, value in values.items() if math.isfinite(value)})
        logger.info("held-out loss %.4f after step %d", loss, step)

    def record_benchmark(self, step: int, asked: Asked, metrics: Mapping[str, float]) -> None:
        """Record what a benchmark found in the middle of training."""
        if self._spool is not None:
            self._spool.step(step, {f"{asked.prefix}/{asked.name}/{name}": value for name, value in metrics.items()})

    def show_wait(self, text: str) -> None:
        """Tell what the training waits for, "" once it does not any more. Called from another thread."""
        self._wait = text
        if self._spool is not None:
            self._update()

    def heartbeat(self, finished: int) -> None:
        """Update the step in progress.json at most once a second, without synchronizing the device."""
        if self._spool is not None and time.time() - self._progress.updated >= HEARTBEAT_SECONDS:
            in_first_step = finished <= self._resume_step
            self._update(step=finished, message=self._progress.message if in_first_step else self._message)

    def first_step_compiles(self, blocks: int) -> None:
        """Tell, until the first step is finished, why it takes so long."""
        if self._spool is not None:
            self._update(message=f"{self._message}; the first step compiles {blocks} blocks, which takes minutes")

    def record_image(self, file: Path | None, series: str, step: int) -> None:
        """Record a picture of the state after `step` steps."""
        if self._spool is not None and file is not None:
            self._spool.image(file, series, step)

    def notify(self, notice: str) -> None:
        """Show something that a person should know, in the terminal and in the status."""
        if self._spool is not None:
            logger.warning("%s", notice)
            self._update(notice=notice)

    def close_segments(self) -> list[str]:
        """Close the spool's segment; return the names of all closed ones, for the manifest."""
        return [] if self._spool is None else self._spool.close_segment()

    def keep_segments(self, names: list[str]) -> None:
        """Copy closed segments to the run's store; may run in a thread."""
        if self._spool is not None:
            copy_segments(self._spool.folder, names, self._setup.run_store)

    def record_checkpoint(self, step: int, seconds: float, stall_seconds: float) -> None:
        """Record that a checkpoint was committed, how long that took, and how long it held the training up."""
        if self._spool is None:
            return
        self._spool.step(step, {"ckpt/save_s": seconds, "ckpt/stall_s": stall_seconds})
        self._update(checkpoint_step=step, checkpoint_time=time.time())
        logger.info(
            "committed the checkpoint of step %d in %.2f s, of which %.2f s held the training up",
            step,
            seconds,
            stall_seconds,
        )

    def close(self) -> None:
        """Close the last segment, which the launcher copies to the run's store."""
        if self._spool is not None:
            self._spool.close_segment()

    def _update(self, **changes: object) -> None:
        with self._lock:
            self._progress = self._progress.model_copy(update=changes)
            shown = "; ".join(text for text in (self._wait, self._progress.message) if text)
            written = write_progress(self._setup.env.run_dir, self._progress.model_copy(update={"message": shown}))
            self._progress = self._progress.model_copy(update={"updated": written.updated})


def open_spool(setup: Setup) -> Spool:
    """Open the tracker's spool of this attempt; fetches the segments of earlier attempts from the store first."""
    folder = setup.env.run_dir / "spool"
    restore_segments(setup.run_store, folder)
    return Spool(folder, int(setup.env.attempt))
