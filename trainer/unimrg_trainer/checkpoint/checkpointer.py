"""What the training loop sees of checkpoints: save this state while I go on, give me the newest one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import Any

from unimrg_api.errors import UserError
from unimrg_trainer.checkpoint.agreement import Agreement, on_first_rank
from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.checkpoint.discover import load_newest, newest_verified
from unimrg_trainer.checkpoint.retention import Policy, retain
from unimrg_trainer.checkpoint.state import LocalState
from unimrg_trainer.checkpoint.tensors import CommitReader
from unimrg_trainer.checkpoint.writer import Origin, write_checkpoint
from unimrg_trainer.storage.base import ObjectStore

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
"""Interval of ticks while a save is waited for."""


class Checkpointer:
    """The checkpoints of one attempt of one job, below the run's prefix.

    `origin` has the uid and attempt that `identity` gave, and the digest that says what makes two trainings the same.
    Every rank makes the same calls in the same order. `agreement` is this object's alone: a save uses it while
    training goes on. At most one save is in flight. `tick` is called as long as a save is waited for, and with every
    part of a checkpoint that is read: both may last longer than a stall. What hangs is ended by the time-outs of the
    store and of the agreement.
    """

    def __init__(
        self,
        store: ObjectStore,
        origin: Origin,
        *,
        retention: Policy,
        agreement: Agreement,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._origin = origin
        self._retention = retention
        self._agreement = agreement
        self._tick = tick
        self._saving: Future[Commit] | None = None
        self.committed_at = 0.0
        """When the last commit was made here, by `time.monotonic`."""

    def begin(
        self,
        state: LocalState,
        reason: str,
        *,
        mlflow_run_id: str | None = None,
        spool_segments: Sequence[str] = (),
        before_commit: Callable[[], None] = lambda: None,
        score: float | None = None,
        misses: int = 0,
    ) -> None:
        """Start to commit the state of which every rank holds pieces, in a thread, while training goes on.

        The values must not change until `settle`. `reason`, `mlflow_run_id`, `spool_segments`, `before_commit` (which
        writes what the manifest refers to), `score` and `misses` (of `Commit`) are rank 0's. Waits for the save before,
        and raises its failure.
        """
        self.settle()
        origin = replace(self._origin, reason=reason, mlflow_run_id=mlflow_run_id, spool_segments=list(spool_segments))
        saving: Future[Commit] = Future()

        def run() -> None:
            try:
                saving.set_result(self._write(state, origin, before_commit, score, misses))
            except BaseException as error:
                saving.set_exception(error)

        self._saving = saving
        # a daemon: a rank that fails must not wait for an upload, nor for ranks that are gone
        threading.Thread(target=run, name="checkpoint", daemon=True).start()

    def settle(self) -> Commit | None:
        """Wait for the save in flight and return its commit, which will be found again; None without one.

        Raises CheckpointError on every rank if it failed on any; the previous commits stand.
        """
        saving, self._saving = self._saving, None
        if saving is None:
            return None
        while not wait([saving], TICK_SECONDS).done:
            self._tick()
        return saving.result()

    def poll(self) -> Commit | None:
        """Return the commit of the save in flight, once, if it has just succeeded; a failure is left to `settle`."""
        done = self._saving is not None and self._saving.done()
        return self.settle() if done and not self.failed else None

    @property
    def failed(self) -> bool:
        """Whether the save in flight has failed on this rank, and soon will have on all."""
        saving = self._saving
        return saving is not None and saving.done() and saving.exception() is not None

    def save(self, state: LocalState, reason: str, **origin: Any) -> Commit:
        """Commit a state now. Takes and raises the same as `begin` and `settle`."""
        self.begin(state, reason, **origin)
        commit = self.settle()
        assert commit is not None
        return commit

    def _write(
        self, state: LocalState, origin: Origin, before_commit: Callable[[], None], score: float | None, misses: int
    ) -> Commit:
        commit = write_checkpoint(self._store, state, origin, self._agreement, before_commit, score, misses)
        self.committed_at = time.monotonic()
        if self._agreement.rank == 0:
            logger.info("committed step %d (%s): %s/%s", commit.step, origin.reason, self._store.uri, commit.key)
            try:
                retain(self._store, self._retention, attempt=origin.attempt)
            except UserError as error:
                # costs space, not work: the next commit tries again
                logger.warning("old checkpoints could not be deleted: %s", error)
        return commit

    def find_newest(self) -> Commit | None:
        """Return the newest commit whose manifest and sizes verify, the same on every rank; None without any.

        Raises CheckpointError on every rank (see `discover.newest_verified`).
        """
        return on_first_rank(self._agreement, "looking for a checkpoint", lambda: newest_verified(self._store))

    def load_newest(self, import_state: Callable[[CommitReader], None]) -> Commit | None:
        """Import the newest commit that verifies, the same on every rank; None if the job never committed.

        Raises CheckpointError on every rank (see `discover.load_newest`).
        """

        def ticking(reader: CommitReader) -> None:
            reader.on_read = self._tick
            import_state(reader)

        digest = self._origin.training_digest
        return load_newest(self._store, self._agreement, ticking, training_digest=digest)
