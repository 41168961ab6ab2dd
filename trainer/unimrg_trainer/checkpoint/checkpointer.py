"""What the training loop sees of checkpoints: save this state, give me the newest one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from unimrg_api.errors import UserError
from unimrg_trainer.checkpoint.agreement import Agreement, on_first_rank
from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.checkpoint.discover import load_newest, newest_verified
from unimrg_trainer.checkpoint.retention import retain
from unimrg_trainer.checkpoint.state import LocalState
from unimrg_trainer.checkpoint.tensors import CommitReader
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
        self, state: LocalState, reason: str, *, mlflow_run_id: str | None = None, spool_segments: Sequence[str] = ()
    ) -> Commit:
        """Commit the state of which every rank holds pieces; when this returns, on any rank, it will be found again.

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

    def find_newest(self) -> Commit | None:
        """Return the newest commit whose manifest and sizes verify, the same on every rank; None without any.

        Raises CheckpointError on every rank (see `discover.newest_verified`).
        """
        return on_first_rank(self._agreement, "looking for a checkpoint", lambda: newest_verified(self._store))

    def load_newest(self, import_state: Callable[[CommitReader], None]) -> Commit | None:
        """Import the newest commit that verifies, the same on every rank; None if the job never committed.

        Raises CheckpointError on every rank (see `discover.load_newest`).
        """
        digest = self._origin.training_digest
        return load_newest(self._store, self._agreement, import_state, training_digest=digest)
