"""What a node must have before its ranks start: room on its disks and in shared memory. Needs no torch.

What takes the devices and the other ranks is tried by the ranks themselves (`engine/preflight.py`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode

DISK_BYTES = 256 << 20
"""Least room in the run's folder and in the cache: logs, spool, tokenizers."""
SHARED_MEMORY = Path("/dev/shm")
SHARED_BYTES_PER_GPU = 32 << 20
"""What NCCL's channels between the GPUs of a node may take."""


def check_node(env: PodEnvironment, gpus: bool) -> None:
    """Raise UserError (exit code 81) that names what this node lacks."""
    for variable, folder in (("UNIMRG_RUN_DIR", env.run_dir), ("UNIMRG_CACHE", env.cache)):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        remedy = f"make room there, or set {variable} to a larger volume"
        _require(folder, shutil.disk_usage(there).free, DISK_BYTES, remedy)
    if gpus and env.processes > 1:
        remedy = "mount a larger one: an emptyDir with medium Memory, or --shm-size of a container"
        _require(SHARED_MEMORY, shutil.disk_usage(SHARED_MEMORY).free, env.processes * SHARED_BYTES_PER_GPU, remedy)


def _require(folder: Path, free: int, needed: int, remedy: str) -> None:
    if free < needed:
        raise UserError(
            f"{folder} has {free >> 20} MiB left, and training needs at least {needed >> 20} MiB",
            remedy=remedy,
            exit_code=ExitCode.PREFLIGHT,
        )
