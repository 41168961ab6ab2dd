"""What the training loop sees of checkpoints: save this state, give me the newest one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from unimrg_api.errors import UserError
from unimrg_trainer.checkpoint.agreement import Agreement
from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.checkpoint.discover import load_newest
from unimrg_trainer.checkpoint.retention import retain
from unimrg_trainer.checkpoint.state import TrainingState
from unimrg_trainer.checkpoint.writer import Origin, write_checkpoint
from unimrg_trainer.storage.base import ObjectStore

logger = logging.getLogger(__name__)


class Checkpointer:
    """The checkpoints of one attempt of one job, below the run's prefix.

    `origin` has the uid and attempt that `identity` gave, and the digest that says what makes two trainings the same.
    Every rank makes the same calls in the same order.
    """

    def __init__(self, store: ObjectStore, origin: Origin, *, keep_last: int, agreement: Agreement) -> None:
        self._store = store
        self._origin = origin
        self._keep_last = keep_last
        self._agreement = agreement

    def save(
        self, state: TrainingState, reason: str, *, mlflow_run_id: str | None = None, spool_segments: Sequence[str] = ()
    ) -> Commit:
        """Commit a state that every rank holds; when this returns, on any rank, it will be found again.

        `reason`, `mlflow_run_id` and `spool_segments` are rank 0's, for the manifest. Raises CheckpointError
        on every rank if it fails on any; the previous commits stand.
        """
        origin = replace(self._origin, reason=reason, mlflow_run_id=mlflow_run_id, spool_segments=list(spool_segments))
        commit = write_checkpoint(self._store, state, origin, self._agreement)
        if self._agreement.rank == 0:
            logger.info("committed step %d (%s): %s/%s", commit.step, reason, self._store.uri, commit.key)
            try:
                retain(self._store, keep_last=self._keep_last, attempt=self._origin.attempt)
            except UserError as error:
                # costs space, not work: the next commit tries again
                logger.warning("old checkpoints could not be deleted: %s", error)
        return commit

    def load_newest(self) -> tuple[Commit, TrainingState] | None:
        """Read the newest commit that verifies, the same on every rank; None if the job never committed.

        Raises CheckpointError on every rank (see `discover.load_newest`).
        """
        return load_newest(self._store, self._agreement, training_digest=self._origin.training_digest)
