"""Saves checkpoints while training goes on: what the loop calls, and how a failed save ends the training.

A periodic save holds the training up only while the state is copied; the upload runs in a thread. The final save, and
that of an interruption, are waited for. If a save fails, all ranks stop at the same step, by the agreement that a stop
request takes too, and raise its error there.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from unimrg_trainer.checkpoint.checkpointer import Checkpointer
from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.checkpoint.state import LocalState
from unimrg_trainer.engine.reporting import Reporter
from unimrg_trainer.engine.stopping import StopFlag
from unimrg_trainer.local_folders import mlflow_run


class BackgroundSaver:
    """The loop's side of a checkpointer; collective where the checkpointer is. Also the flag that ends the loop."""

    def __init__(self, checkpointer: Checkpointer, reporter: Reporter, stop: StopFlag, run_dir: Path) -> None:
        self._checkpointer = checkpointer
        self._reporter = reporter
        self._stop = stop
        self._run_dir = run_dir
        self._began = self._held = 0.0

    @property
    def requested(self) -> bool:
        """Whether to stop: on request, or because a save has failed."""
        return self._stop.requested or self._checkpointer.failed

    def settle(self) -> None:
        """Wait for the save in flight, so that the memory holds one copy of the state. Raises its CheckpointError."""
        began = time.monotonic()
        self._record(self._checkpointer.settle())
        self._began = began

    def save(self, state: LocalState, reason: str, score: float | None = None, misses: int = 0) -> None:
        """Save a state that was exported since `settle`, with its held-out loss, if it was measured and is finite.

        `misses` is `Commit.misses`.

        Returns at once where `reason` is "periodic".
        """
        segments = self._reporter.close_segments()
        self._checkpointer.begin(
            state,
            reason,
            mlflow_run_id=mlflow_run(self._run_dir).get("run_id"),  # once the launcher has found or created it
            spool_segments=segments,
            before_commit=partial(self._reporter.keep_segments, segments),
            score=score,
            misses=misses,
        )
        self._held = time.monotonic() - self._began
        if reason != "periodic":
            self._record(self._checkpointer.settle())

    def heartbeat(self, finished_steps: int) -> None:
        """Tell that a step is finished, and a commit that was made meanwhile."""
        self._reporter.heartbeat(finished_steps)
        self._record(self._checkpointer.poll())

    def _record(self, commit: Commit | None) -> None:
        if commit is not None:
            seconds = max(self._held, self._checkpointer.committed_at - self._began)
            self._reporter.record_checkpoint(commit.step, seconds, self._held)
