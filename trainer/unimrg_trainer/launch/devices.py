"""Adapts a job's GPU request to this machine. Looks at device files only: torch takes seconds to import."""

from __future__ import annotations

import os
from pathlib import Path

from unimrg_api.errors import UserError
from unimrg_api.job import UniMRGJob

DEVICES = Path("/dev")


def visible_gpu_count() -> int:
    """GPUs of this machine that processes may use (`CUDA_VISIBLE_DEVICES`)."""
    found = len(list(DEVICES.glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    return min(found, sum(name.strip() not in ("", "-1") for name in visible.split(",")))


def fit_to_machine(job: UniMRGJob, processes: int | None) -> tuple[UniMRGJob, str | None]:
    """Return the job as it can run here, and a notice if that is on CPUs instead of GPUs.

    Raises UserError if the machine has GPUs, but fewer than `processes` (default: one).
    """
    trainer, wanted, present = job.spec.trainer, processes or 1, visible_gpu_count()
    if trainer.gpus_per_node == 0 or present >= wanted:
        return job, None
    if present:
        raise UserError(
            f"{wanted} processes need a GPU each, and this machine has {present}",
            remedy=f"use --processes {present}, or spec.trainer.gpusPerNode: 0 to train on CPUs",
        )
    notice = f"spec.trainer.gpusPerNode is {trainer.gpus_per_node}, and this machine has no GPU: training on the CPU"
    on_cpus = trainer.model_copy(update={"gpus_per_node": 0, "processes_per_node": wanted})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"trainer": on_cpus})}), notice
