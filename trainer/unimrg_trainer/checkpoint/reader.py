"""Reads and verifies commits as far as that takes no tensors; needs no torch."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, computed_field
from pydantic.alias_generators import to_camel

from unimrg_api.commits import ROOT
from unimrg_api.errors import UserError
from unimrg_trainer.checkpoint.commit import Commit, read_marker, read_markers
from unimrg_trainer.checkpoint.layout import Marker, read_listing
from unimrg_trainer.checkpoint.manifest import Manifest, Unverified, parse_manifest
from unimrg_trainer.checkpoint.objects import VerifiedObjects
from unimrg_trainer.storage.base import NotFound, ObjectStore, StorageError

logger = logging.getLogger(__name__)


class CommitReport(BaseModel):
    """A commit as `unimrg ckpt ls` shows it; what cannot be read because it is damaged is None."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    step: int
    """Optimiser steps finished."""
    generation: int
    """How many commits of the step were quarantined before it."""
    attempt: int | None = None
    created: str | None = None
    """When, UTC in ISO 8601."""
    reason: str | None = None
    bytes: int = 0
    """Size of the objects that its manifest names."""
    marker: str
    """Key of its commit marker."""
    manifest: str | None = None
    """Key of its manifest."""
    finding: str | None = None
    """What is wrong with it; None: all objects have their sizes (`ls`), or their digests too (`verify`)."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def sizes_verified(self) -> bool:
        """Whether every object is there with its size."""
        return self.finding is None


def list_commits(store: ObjectStore) -> list[Commit]:
    """Return all commits with a readable marker that nobody quarantined, newest first."""
    commits, unreadable = read_markers(store, read_listing(store.list(ROOT)).candidates())
    for finding in unreadable.values():
        logger.warning("passing over a commit marker: %s", finding)
    return list(commits.values())


def inspect_commits(store: ObjectStore) -> list[CommitReport]:
    """Return every commit that nobody quarantined, newest first, each with what is wrong with it. Changes nothing."""
    return _inspect_all(store, read_listing(store.list(ROOT)).candidates())


def inspect_quarantined(store: ObjectStore) -> list[CommitReport]:
    """Return the quarantined commits, newest first, each with why it was quarantined. Changes nothing."""
    reports = []
    for marker in sorted(read_listing(store.list(ROOT)).quarantined, reverse=True):
        try:
            finding = json.loads(store.get(marker.quarantine_key))["finding"]
        except (NotFound, ValueError, KeyError, TypeError):
            finding = f"{marker.quarantine_key} does not say why"
        reports.append(
            CommitReport(
                step=marker.step, generation=marker.generation, marker=marker.key, finding=f"quarantined: {finding}"
            )
        )
    return reports


def verify_bytes(store: ObjectStore, step: int | None, progress: Callable[[int], None]) -> list[CommitReport]:
    """Read every byte of the commits (of one step) that nobody quarantined, and return what is wrong with each.

    Calls `progress` with the bytes read since. Changes nothing.
    """
    markers = read_listing(store.list(ROOT)).candidates()
    return _inspect_all(store, [one for one in markers if step in (None, one.step)], progress)


def _inspect_all(
    store: ObjectStore, markers: list[Marker], progress: Callable[[int], None] | None = None
) -> list[CommitReport]:
    """Inspect each commit; leave out those that retention deleted meanwhile."""
    reports = (_inspect(store, marker, progress) for marker in markers)
    return [one for one in reports if one.finding is None or store.size(one.marker) is not None]


def _inspect(store: ObjectStore, marker: Marker, progress: Callable[[int], None] | None = None) -> CommitReport:
    known: dict[str, Any] = {"step": marker.step, "generation": marker.generation, "marker": marker.key}
    try:
        commit = read_marker(store, marker)
        known |= {"attempt": commit.attempt, "manifest": commit.manifest_key}
        manifest = read_manifest(store, commit)
        known |= {"created": manifest.created, "reason": manifest.reason, "bytes": manifest.total_bytes}
        _check_sizes(store, commit, manifest)
        if progress is not None:
            VerifiedObjects(store, commit.folder, manifest).verify(progress)
    except StorageError:
        raise
    except (Unverified, UserError) as finding:
        known["finding"] = str(finding)
    return CommitReport(**known)


def read_manifest(store: ObjectStore, commit: Commit) -> Manifest:
    """Return a commit's manifest, checked against the marker's digest.

    Raises Unverified if it is missing or damaged, UserError for an unknown schema version, StorageError if
    the store cannot be read now.
    """
    content = get_verifiable(store, commit.manifest_key)
    if hashlib.sha256(content).hexdigest() != commit.manifest_sha256:
        raise Unverified(f"{commit.manifest_key} is not what {commit.key} names")
    manifest = parse_manifest(content, commit.manifest_key)
    if manifest.step != commit.step:
        raise Unverified(f"{commit.manifest_key} is of step {manifest.step}")
    return manifest


def verify(store: ObjectStore, commit: Commit) -> Manifest:
    """Check marker → manifest → presence and size of every object, without reading tensors.

    Raises like `read_manifest`.
    """
    manifest = read_manifest(store, commit)
    _check_sizes(store, commit, manifest)
    return manifest


def _check_sizes(store: ObjectStore, commit: Commit, manifest: Manifest) -> None:
    sizes = dict(store.list(commit.folder))
    for name, entry in manifest.objects.items():
        size = sizes.get(commit.folder + name)
        if size is None:
            raise Unverified(f"{commit.folder}{name} is missing")
        if size != entry.size:
            raise Unverified(f"{commit.folder}{name} has {size} bytes instead of {entry.size}")


def get_verifiable(store: ObjectStore, key: str) -> bytes:
    """Return an object that a commit needs. Raises Unverified if it is missing."""
    try:
        return store.get(key)
    except NotFound as error:
        raise Unverified(f"{key} is missing") from error
