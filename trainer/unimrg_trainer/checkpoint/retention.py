"""Removes checkpoints that are no longer needed, and what killed writers left. For rank 0 only.

The marker goes first, so that no half-deleted checkpoint is ever committed. The tracking spool lies
elsewhere and is never touched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from unimrg_api.commits import ROOT
from unimrg_api.spec_platform import NEVER_DELETED
from unimrg_trainer.checkpoint.commit import Commit, best_first, read_markers, reserved_at
from unimrg_trainer.checkpoint.layout import RESERVATION, Folder, Marker, read_listing
from unimrg_trainer.checkpoint.manifest import Unverified
from unimrg_trainer.checkpoint.reader import verify
from unimrg_trainer.storage.base import ObjectStore, StorageError

logger = logging.getLogger(__name__)

ABANDONED_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Policy:
    """Which commits stay: the `keep_last` newest (at least two), of every `keep_every` steps the first, the best."""

    keep_last: int
    keep_every: int | None = None


def expired(commits: Iterable[Commit], policy: Policy) -> list[Commit]:
    """Return the commits to delete, oldest first. The best is the one with the lowest score, if any has one."""
    ordered = sorted(commits, key=lambda commit: commit.marker)
    kept = set(ordered[-max(policy.keep_last, NEVER_DELETED) :])
    if policy.keep_every is not None:
        windows = groupby(ordered, key=lambda commit: commit.step // (policy.keep_every or 1))
        kept |= {next(commits_in_window) for number, commits_in_window in windows if number}
    kept.update(commit for commit in best_first(ordered)[:1] if commit.score is not None)
    return [commit for commit in ordered if commit not in kept]


@dataclass(frozen=True)
class Deletable:
    """What is to be deleted of one step, and why: a commit, or the folder of a writer that was killed."""

    why: Literal["expired", "damaged", "abandoned"]
    step: int
    marker: Marker | None
    folder: Folder | None

    @property
    def bytes(self) -> int:
        """Size of the folder."""
        return sum(self.folder.sizes.values()) if self.folder is not None else 0


def find_deletable(
    store: ObjectStore, policy: Policy, *, attempt: int, now: float | None = None, verifying: bool = False
) -> list[Deletable]:
    """Return what `policy` deletes, in the order in which it has to go; deletes nothing.

    `attempt` is the live one: its folders, and those of later ones, are never taken for abandoned. `now` is in seconds
    since 1970. With `verifying` the manifest and sizes of every commit are checked, and only those that pass count as
    kept; a training has done so when it resumed, and what it committed since was checked then. Raises StorageError.
    """
    now = time.time() if now is None else now
    seen = read_listing(store.list(ROOT))
    commits, unreadable = read_markers(store, seen.committed)
    damaged = seen.quarantined | unreadable.keys()
    if verifying:
        damaged |= {commit.marker for commit in commits.values() if not _verifies(store, commit)}
    good = [commit for commit in commits.values() if commit.marker not in damaged]
    leaving = expired(good, policy)
    deletable = [Deletable("expired", one.step, one.marker, seen.folders.get(one.folder)) for one in leaving]
    kept = [commit for commit in good if commit not in leaving]
    if len(kept) >= NEVER_DELETED:
        oldest = min(commit.step for commit in kept)
        for marker in sorted(damaged):
            if marker.step < oldest:  # as long as it is recent it is kept for people to look at
                folder = seen.folders.get(commits[marker].folder) if marker in commits else None
                deletable.append(Deletable("damaged", marker.step, marker, folder))
    referenced = {commit.folder for commit in commits.values()}
    doubtful = {marker.step for marker in unreadable}
    for folder in seen.folders.values():
        known = folder.key in referenced or folder.step in doubtful
        if not known and folder.attempt < attempt:
            # one without a readable age, which no writer of ours leaves, stays
            reserved = reserved_at(store, folder.key)
            if reserved is not None and now - reserved > ABANDONED_SECONDS:
                deletable.append(Deletable("abandoned", folder.step, None, folder))
    return deletable


def _verifies(store: ObjectStore, commit: Commit) -> bool:
    try:
        verify(store, commit)
    except Unverified:
        return False
    return True


def delete(store: ObjectStore, deletable: Deletable) -> None:
    """Delete what `find_deletable` found. May be repeated after a crash at any point. Raises StorageError."""
    if deletable.marker is not None:
        store.delete(deletable.marker.key)
    if deletable.folder is not None:
        _delete_folder(store, deletable.folder)
    if deletable.marker is not None and deletable.why == "damaged":
        store.delete(deletable.marker.quarantine_key)


def retain(store: ObjectStore, policy: Policy, *, attempt: int, now: float | None = None) -> None:
    """Delete expired commits and abandoned folders (see `find_deletable`)."""
    deletable = find_deletable(store, policy, attempt=attempt, now=now)
    for one in deletable:
        delete(store, one)
    if deletable:
        logger.info("deleted %s", ", ".join(f"step {one.step} ({one.why})" for one in deletable))


def _delete_folder(store: ObjectStore, folder: Folder) -> None:
    """Delete a folder's objects, the reservation last: as long as anything is there its age can be told."""
    *others, last = sorted(folder.sizes, key=lambda key: (key.endswith(RESERVATION), key))
    for key in others:
        store.delete(key)
    try:
        store.sweep(folder.key)
    except StorageError as error:  # not every service can list unfinished uploads
        logger.info("%s; the bucket's life-cycle rule for unfinished uploads has to remove them", error.message)
    store.delete(last)
