"""The two ends of a commit's life: a place is reserved first, one conditional write comes last.

    reserve → write → agree → publish

What is written between the two is visible to nobody. The commit exists from the instant at which the marker does: a
process killed before it leaves garbage, one killed after it leaves a whole checkpoint, and of two writers of the same
step one loses by name. Only the marker needs a conditional write: nobody else writes below a reserved folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from unimrg_api.commits import step_folder
from unimrg_api.digests import canonical_json
from unimrg_trainer.checkpoint.layout import MANIFEST, RESERVATION, Marker, attempt_folder, folder_of, read_listing
from unimrg_trainer.checkpoint.manifest import SCHEMA_VERSION, CheckpointError, Manifest, Unverified, read_json
from unimrg_trainer.storage.base import NotFound, ObjectStore, put_once


class CommitConflict(CheckpointError):  # noqa: N818 - named after what happened
    """Another writer has committed the same step; its commit stands, and the next attempt goes on from it."""


@dataclass(frozen=True)
class Commit:
    """A commit marker that was read. What it names may still turn out to be damaged."""

    step: int
    generation: int
    attempt: int
    manifest_key: str
    manifest_sha256: str
    score: float | None = None
    """How good the weights are on held-out data, the lower the better; None: not measured."""
    misses: int = 0
    """Measurements of the training up to here that came after the one with the lowest score."""

    @property
    def marker(self) -> Marker:
        return Marker(self.step, self.generation)

    @property
    def key(self) -> str:
        """Key of the marker below the run's prefix: what a record names the checkpoint by."""
        return self.marker.key

    @property
    def folder(self) -> str:
        """Where its objects lie, with a trailing slash."""
        return self.manifest_key.removesuffix(MANIFEST)


def best_first(commits: Iterable[Commit]) -> list[Commit]:
    """Return those with a score, the lowest first, of equal ones the newest; then the others, the newest first."""
    return sorted(commits, key=lambda one: (math.inf if one.score is None else one.score, -one.step, -one.generation))


def reserve(store: ObjectStore, step: int, attempt: int) -> tuple[Marker, str]:
    """Return the marker to write for `step`, and a folder that belongs to this writer; proves that we may write.

    Raises CommitConflict if the step has a commit that nobody quarantined.
    """
    seen = read_listing(store.list(step_folder(step)))
    standing = seen.candidates()
    if standing:
        raise _conflict(store, standing[0])
    used = [known.generation for known in seen.committed | seen.quarantined]
    marker = Marker(step, max(used, default=-1) + 1)
    folder = attempt_folder(step, attempt, os.urandom(4).hex())
    # The age of this object decides when the folder is garbage.
    store.put(folder + RESERVATION, canonical_json({"attempt": attempt, "created": time.time()}).encode())
    return marker, folder


def reserved_at(store: ObjectStore, folder: str) -> float | None:
    """When a folder was reserved, in seconds since 1970; None if that cannot be read."""
    try:
        created = json.loads(store.get(folder + RESERVATION))["created"]
    except (NotFound, ValueError, KeyError, TypeError):
        return None
    return float(created) if isinstance(created, int | float) else None


def publish(
    store: ObjectStore, marker: Marker, folder: str, manifest: Manifest, score: float | None = None, misses: int = 0
) -> Commit:
    """Write the manifest, look once more whether all its objects are there, and write the marker.

    Raises CommitConflict if another writer was faster, CheckpointError if an object is not what was written.
    """
    content = canonical_json(manifest.model_dump(mode="json")).encode()
    manifest_key = folder + MANIFEST
    digest = hashlib.sha256(content).hexdigest()
    store.put(manifest_key, content)
    sizes = dict(store.list(folder))
    expected = {folder + name: entry.size for name, entry in manifest.objects.items()}
    for key, size in {**expected, manifest_key: len(content)}.items():
        if sizes.get(key) != size:
            raise CheckpointError(f"{key} was written with {size} bytes, and the store has {sizes.get(key)}")
    commit = Commit(marker.step, marker.generation, manifest.attempt, manifest_key, digest, score, misses)
    if not put_once(store, commit.key, marker_bytes(commit)):
        raise _conflict(store, commit.marker)
    return commit


def read_marker(store: ObjectStore, marker: Marker) -> Commit:
    """Read what a marker names.

    Raises Unverified if it is gone or damaged, UserError for an unknown schema version.
    """
    try:
        content = store.get(marker.key)
    except NotFound as error:
        raise Unverified(f"{marker.key} is missing") from error
    value = read_json(content, marker.key)
    key, digest, score = value.get("manifest"), value.get("sha256"), value.get("score")
    folder = folder_of(key) if isinstance(key, str) else None
    if folder is None or folder.step != marker.step or not isinstance(digest, str):
        raise Unverified(f"{marker.key} names no manifest of its step")
    measured = float(score) if isinstance(score, int | float) else None
    misses = value.get("misses", 0)
    if not isinstance(misses, int):
        raise Unverified(f"{marker.key} counts no measurements")
    return Commit(marker.step, marker.generation, folder.attempt, str(key), digest, measured, misses)


def read_markers(
    store: ObjectStore, markers: Iterable[Marker]
) -> tuple[dict[Marker, Commit], dict[Marker, Unverified]]:
    """Read what each marker names; return the commits, and what is wrong with the markers that cannot be read.

    Both in the order of `markers`. Raises UserError for an unknown schema version.
    """
    commits, unreadable = dict[Marker, Commit](), dict[Marker, Unverified]()
    for marker in markers:
        try:
            commits[marker] = read_marker(store, marker)
        except Unverified as finding:
            unreadable[marker] = finding
    return commits, unreadable


def marker_bytes(commit: Commit) -> bytes:
    """The content of a commit marker."""
    value: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "manifest": commit.manifest_key,
        "sha256": commit.manifest_sha256,
    }
    if commit.score is not None:
        value["score"] = commit.score
    if commit.misses:
        value["misses"] = commit.misses
    return canonical_json(value).encode()


def _conflict(store: ObjectStore, marker: Marker) -> CommitConflict:
    try:
        writer = f"attempt {read_marker(store, marker).attempt}"
    except Unverified:
        writer = "another writer"
    return CommitConflict(
        f"step {marker.step} is committed already, by {writer} ({store.uri}/{marker.key})",
        remedy="stop the other writer, if it still runs; the next attempt goes on from that commit",
    )
