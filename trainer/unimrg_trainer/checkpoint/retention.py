"""Removes checkpoints that are no longer needed, and what killed writers left. For rank 0 only.

The marker goes first, so that no half-deleted checkpoint is ever committed. The tracking spool lies
elsewhere and is never touched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from unimrg_api.commits import ROOT
from unimrg_trainer.checkpoint.commit import Commit, read_marker, reserved_at
from unimrg_trainer.checkpoint.layout import RESERVATION, Folder, Listing, Marker, read_listing
from unimrg_trainer.checkpoint.manifest import Unverified
from unimrg_trainer.storage.base import ObjectStore, StorageError

logger = logging.getLogger(__name__)

NEVER_DELETED = 2
"""The newest commits that stay whatever the job says: the newest may turn out damaged when it is read."""

ABANDONED_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Policy:
    """Which commits stay: the `keep_last` newest (at least two), of every `keep_every` steps the first, the best."""

    keep_last: int
    keep_every: int | None = None


def superfluous(commits: Iterable[Commit], policy: Policy) -> list[Commit]:
    """Return the commits to delete, oldest first. The best is the one with the lowest score, if any has one."""
    ordered = sorted(commits, key=lambda commit: commit.marker)
    kept = set(ordered[-max(policy.keep_last, NEVER_DELETED) :])
    if policy.keep_every is not None:
        windows = groupby(ordered, key=lambda commit: commit.step // (policy.keep_every or 1))
        kept |= {next(commits_in_window) for number, commits_in_window in windows if number}
    scored = [commit for commit in ordered if commit.score is not None]
    if scored:
        kept.add(min(scored, key=lambda commit: (commit.score, -commit.step)))
    return [commit for commit in ordered if commit not in kept]


def retain(store: ObjectStore, policy: Policy, *, attempt: int, now: float | None = None) -> list[str]:
    """Delete superfluous commits and abandoned folders; return the deleted folders.

    `attempt` is the live one: its folders, and those of later ones, are never taken for abandoned. `now` is
    in seconds since 1970. May be repeated after a crash at any point. Raises StorageError.
    """
    now = time.time() if now is None else now
    seen = read_listing(store.list(ROOT))
    commits, unreadable = _read_markers(store, seen)
    good = [commit for commit in commits.values() if commit.marker not in seen.quarantined]
    doomed = superfluous(good, policy)
    kept = [commit for commit in good if commit not in doomed]
    deleted: list[str] = []
    for commit in doomed:
        store.delete(commit.key)
        deleted += _delete_folder(store, seen.folders.get(commit.folder))
    if len(kept) >= NEVER_DELETED:
        oldest = min(commit.step for commit in kept)
        deleted += _delete_quarantined(store, seen, commits, unreadable, oldest)
    referenced = {commit.folder for commit in commits.values()}
    doubtful = {marker.step for marker in unreadable}
    for folder in seen.folders.values():
        known = folder.key in referenced or folder.step in doubtful
        if not known and folder.attempt < attempt:
            reserved = reserved_at(
                store, folder.key
            )  # one without a readable age, which no writer of ours leaves, stays
            if reserved is not None and now - reserved > ABANDONED_SECONDS:
                deleted += _delete_folder(store, folder)
    if deleted:
        logger.info("deleted %d checkpoint folders: %s", len(deleted), ", ".join(deleted))
    return deleted


def _read_markers(store: ObjectStore, seen: Listing) -> tuple[dict[Marker, Commit], set[Marker]]:
    commits, unreadable = {}, set()
    for marker in seen.committed:
        try:
            commits[marker] = read_marker(store, marker)
        except Unverified:
            unreadable.add(marker)
    return commits, unreadable


def _delete_quarantined(
    store: ObjectStore, seen: Listing, commits: dict[Marker, Commit], unreadable: set[Marker], oldest: int
) -> list[str]:
    """Delete quarantined and unreadable commits that are older than every commit that is kept."""
    deleted: list[str] = []
    for marker in sorted(seen.quarantined | unreadable):
        if marker.step >= oldest:
            continue
        store.delete(marker.key)
        if marker in commits:
            deleted += _delete_folder(store, seen.folders.get(commits[marker].folder))
        store.delete(marker.quarantine_key)
    return deleted


def _delete_folder(store: ObjectStore, folder: Folder | None) -> Sequence[str]:
    """Delete a folder's objects, the reservation last: as long as anything is there its age can be told."""
    if folder is None:
        return []
    *others, last = sorted(folder.sizes, key=lambda key: (key.endswith(RESERVATION), key))
    for key in others:
        store.delete(key)
    try:
        store.sweep(folder.key)
    except StorageError as error:  # not every service can list unfinished uploads
        logger.info("%s; the bucket's life-cycle rule for unfinished uploads has to remove them", error.message)
    store.delete(last)
    return [folder.key]
