"""What the train stage reports: points for the tracker's spool, and the progress file.

Only rank 0 writes. The launcher uploads the spool to MLflow and serves the progress file (docs/method/tracking.md).
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from unimrg_api.progress import Progress
from unimrg_trainer.engine.loop import LoopReport
from unimrg_trainer.engine.setup import Setup
from unimrg_trainer.files import write_atomically
from unimrg_trainer.tracking.spool import Spool, copy_segments, restore_segments

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0


class Reporter:
    """Turns reports of the loop into spool records and progress; does nothing on other ranks than 0."""

    def __init__(self, setup: Setup, total_steps: int, resume_step: int, frozen: list[str], parameters: int) -> None:
        self._setup = setup
        self._total = total_steps
        self._committed = resume_step
        self._rows = setup.job.spec.training.batch.rows_per_objective * len(setup.objectives)
        self._progress = Progress(
            stage="train",
            step=resume_step,
            total_steps=total_steps,
            checkpoint_step=resume_step or None,
            updated=time.time(),
        )
        self._spool: Spool | None = None
        if setup.rank == 0:
            self._spool = open_spool(setup)
            self._spool.params(parameters_of(setup, parameters, frozen))
            self._spool.begin(resume_step)
            self._write()

    def report(self, measured: LoopReport) -> None:
        """Record what a few steps measured."""
        if self._spool is None or not measured.metrics:
            return
        for point, rate in zip(measured.metrics, measured.learning_rates, strict=True):
            self._spool.step(
                point.step,
                {
                    "train/loss": point.loss,
                    **{f"train/loss/{name.lower()}": value for name, value in point.losses.items()},
                    "train/grad_norm": point.grad_norm,
                    "optim/lr": rate,
                    "data/rows_seen": float(point.step * self._rows),
                    "perf/step_s": measured.step_seconds,
                    "perf/rows_per_s": self._rows / measured.step_seconds,
                    "perf/data_wait_s": measured.data_wait_seconds,
                },
            )
        last = measured.metrics[-1]
        self._progress = Progress(
            stage="train",
            step=last.step,
            total_steps=self._total,
            eta_seconds=(self._total - last.step) * measured.step_seconds,
            losses={name.lower(): value for name, value in last.losses.items()},
            samples_per_second=self._rows / measured.step_seconds,
            checkpoint_step=self._committed,
            updated=time.time(),
        )
        self._write()
        logger.info(
            "step %d/%d  loss %.4f  %s  |g| %.3f  %.2f s/step",
            last.step,
            self._total,
            last.loss,
            "  ".join(f"{name.lower()} {value:.4f}" for name, value in last.losses.items()),
            last.grad_norm,
            measured.step_seconds,
        )

    def heartbeat(self, finished: int) -> None:
        """Show that a step was finished, at most once a second: between reports, without reading the device."""
        now = time.time()
        if self._spool is not None and now - self._progress.updated >= HEARTBEAT_SECONDS:
            self._progress = self._progress.model_copy(update={"step": finished, "updated": now})
            self._write()

    def keep(self, file: Path | None) -> None:
        """Record a file of results."""
        if self._spool is not None and file is not None:
            self._spool.artifact(file, "results")

    def close_segments(self) -> list[str]:
        """Close the spool's segment and copy it beside the checkpoints; names for the manifest."""
        if self._spool is None:
            return []
        names = self._spool.close_segment()
        copy_segments(self._spool.folder, names, self._setup.run)
        return names

    def committed(self, step: int, seconds: float) -> None:
        """Record a commit."""
        self._committed = step
        if self._spool is None:
            return
        self._spool.step(step, {"ckpt/save_s": seconds})
        self._progress = self._progress.model_copy(update={"checkpoint_step": step, "updated": time.time()})
        self._write()
        logger.info("committed step %d in %.2f s", step, seconds)

    def run_id(self) -> str | None:
        """The MLflow run, once the launcher has found or created it."""
        try:
            return str(json.loads((self._setup.env.run_dir / "mlflow.json").read_text())["run_id"])
        except (OSError, ValueError, KeyError):
            return None

    def close(self) -> None:
        """Record the end of training."""
        if self._spool is not None:
            self._spool.end("trained to the stop step")
            self.close_segments()

    def _write(self) -> None:
        write_atomically(self._setup.env.run_dir / "progress.json", self._progress.to_json())


def open_spool(setup: Setup) -> Spool:
    """Open the tracker's spool of this attempt; what earlier attempts left in the store is fetched first."""
    folder = setup.env.run_dir / "spool"
    restore_segments(setup.run, folder)
    return Spool(folder, int(setup.env.attempt))


def parameters_of(setup: Setup, parameters: int, frozen: list[str]) -> dict[str, str]:
    """The run's flat, write-once parameters for the tracker."""
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
    flat |= {f"weight.{name.lower()}": str(weight) for name, weight in setup.weights.items()}
    flat["parameters"] = str(parameters)
    flat["frozen"] = str(len(frozen))
    return flat
