"""The real stages on ranks, in this process, and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from tests.support.checkpoints import SingleProcess, Whole, read_whole
from unimrg_api.environment import PodEnvironment
from unimrg_trainer.checkpoint.discover import load_newest
from unimrg_trainer.engine import train
from unimrg_trainer.storage import LocalStore

ASKED_TO_STOP = SimpleNamespace(requested=True)


def run_stage(
    folder: Path,
    job: Any,
    attempt: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    stop: Any = None,
    stage: Callable[[PodEnvironment, Any, Any], None] = train.main,
) -> None:
    """Run the stage, training unless said, as the only rank of an attempt, in folder/pod-ATTEMPT.

    `stop.requested` is whether it is asked to stop; None: it is not.
    The port is of the system's choice.
    """
    for name, value in {
        "RANK": 0,
        "WORLD_SIZE": 1,
        "LOCAL_RANK": 0,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 0,
    }.items():
        monkeypatch.setenv(name, str(value))
    run_dir = folder / f"pod-{attempt}"
    run_dir.mkdir()
    env = PodEnvironment(job="tiny", uid="job-uid", attempt=str(attempt), spec_base=folder, run_dir=run_dir)
    try:
        stage(env, job, stop or SimpleNamespace(requested=False))
    finally:
        dist.destroy_process_group()


def newest(run: Path, digest: str) -> Whole:
    """The state of the newest commit of the run whose configuration has this digest."""
    found: list[Whole] = []
    load_newest(
        LocalStore(run), SingleProcess(), lambda reader: found.append(read_whole(reader)), training_digest=digest
    )
    return found[-1]
