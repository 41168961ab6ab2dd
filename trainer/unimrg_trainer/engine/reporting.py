"""Reports of the train stage: metrics for the tracker's spool, and the progress file.

Only rank 0 writes. The launcher uploads the spool to MLflow and serves the progress file (docs/method/tracking.md).
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from unimrg_api.progress import Progress
from unimrg_trainer.engine.loop import LoopReport
from unimrg_trainer.engine.setup import Setup
from unimrg_trainer.local_folders import write_progress
from unimrg_trainer.tracking.spool import Spool, copy_segments, restore_segments

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0


class Reporter:
    """Turns reports of the loop into spool records and progress; writes nothing on other ranks than 0."""

    def __init__(self, setup: Setup, stop_step: int, resume_step: int, frozen_count: int, parameter_count: int) -> None:
        self._setup = setup
        self._stop_step = stop_step
        self._rows_per_step = setup.job.spec.training.batch.rows_per_objective * len(setup.objectives)
        self._progress = Progress(
            stage="train", step=resume_step, total_steps=stop_step, checkpoint_step=resume_step or None
        )
        self._spool: Spool | None = None
        if setup.rank == 0:
            self._spool = open_spool(setup)
            self._spool.params(tracked_parameters(setup, parameter_count, frozen_count))
            self._spool.begin(resume_step)
            self._update()

    def report(self, measured: LoopReport) -> None:
        """Record the metrics of a few steps."""
        if self._spool is None or not measured.metrics:
            return
        operations = self._setup.operations
        shares = operations.shares([one.step for one in measured.metrics], measured.step_seconds) if operations else {}
        for point, rate in zip(measured.metrics, measured.learning_rates, strict=True):
            self._spool.step(
                point.step,
                {
                    "train/loss": point.loss,
                    **{f"train/loss/{name.lower()}": value for name, value in point.losses.items()},
                    "train/grad_norm": point.grad_norm,
                    "optim/lr": rate,
                    "data/rows_seen": float(point.step * self._rows_per_step),
                    "perf/step_s": measured.step_seconds,
                    "perf/rows_per_s": self._rows_per_step / measured.step_seconds,
                    "perf/data_wait_s": measured.data_wait_seconds,
                    **shares,
                },
            )
        last = measured.metrics[-1]
        losses = {name.lower(): value for name, value in last.losses.items()}
        self._update(
            step=last.step,
            eta_seconds=(self._stop_step - last.step) * measured.step_seconds,
            loss=last.loss,
            losses=losses,
            rows_per_second=self._rows_per_step / measured.step_seconds,
        )
        logger.info(
            "step %d/%d  loss %.4f  %s  |g| %.3f  %.2f s/step",
            last.step,
            self._stop_step,
            last.loss,
            "  ".join(f"{name} {value:.4f}" for name, value in losses.items()),
            last.grad_norm,
            measured.step_seconds,
        )

    def heartbeat(self, finished: int) -> None:
        """Update the step in progress.json at most once a second, without synchronizing the device."""
        if self._spool is not None and time.time() - self._progress.updated >= HEARTBEAT_SECONDS:
            self._update(step=finished)

    def record_artifact(self, file: Path | None) -> None:
        """Record a file of results."""
        if self._spool is not None and file is not None:
            self._spool.artifact(file, "results")

    def close_segments(self) -> list[str]:
        """Close the spool's segment; return the names of all closed ones, for the manifest."""
        return [] if self._spool is None else self._spool.close_segment()

    def keep_segments(self, names: list[str]) -> None:
        """Copy closed segments to the run's store; may run in a thread."""
        if self._spool is not None:
            copy_segments(self._spool.folder, names, self._setup.run_store)

    def record_checkpoint(self, step: int, seconds: float, held_seconds: float) -> None:
        """Record that a checkpoint was committed, how long that took, and how long it held the training up."""
        if self._spool is None:
            return
        self._spool.step(step, {"ckpt/save_s": seconds, "ckpt/held_s": held_seconds})
        self._update(checkpoint_step=step)
        logger.info(
            "committed the checkpoint of step %d in %.2f s, of which %.2f s held the training up",
            step,
            seconds,
            held_seconds,
        )

    def close(self) -> None:
        """Record the end of training."""
        if self._spool is not None:
            self._spool.end("trained to the stop step")
            self.keep_segments(self.close_segments())

    def _update(self, **changes: object) -> None:
        self._progress = write_progress(self._setup.env.run_dir, self._progress.model_copy(update=changes))


def open_spool(setup: Setup) -> Spool:
    """Open the tracker's spool of this attempt; fetches the segments of earlier attempts from the store first."""
    folder = setup.env.run_dir / "spool"
    restore_segments(setup.run_store, folder)
    return Spool(folder, int(setup.env.attempt))


def tracked_parameters(setup: Setup, parameter_count: int, frozen_count: int) -> dict[str, str]:
    """Flat, write-once parameters of the MLflow run."""
    training = setup.job.spec.training.model_dump(by_alias=True, mode="json")
    flat: dict[str, str] = {}

    def flatten(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                flatten(f"{prefix}.{key}", item)
        else:
            flat[prefix] = str(value)

    flatten("training", training)
    flatten("model", setup.job.spec.model.model_dump(by_alias=True, mode="json", exclude_none=True))
    flat["method"] = setup.job.spec.method
    flat |= {f"weight.{name.lower()}": str(weight) for name, weight in setup.objective_weights.items()}
    flat["parameters"] = str(parameter_count)
    flat["frozen"] = str(frozen_count)
    return flat
