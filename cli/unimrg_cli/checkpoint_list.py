"""Lists the committed checkpoints of a run from its JSON objects: no tensor is read and torch is not needed."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from unimrg_api.commits import ROOT
from unimrg_trainer.checkpoint.layout import Listing, Marker, folder_of, read_listing
from unimrg_trainer.storage.base import NotFound, ObjectStore


class Checkpoint(BaseModel):
    """One commit. What its marker or manifest does not say (they may be damaged) is None."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    step: int
    """Optimiser steps finished."""
    generation: int
    """How many commits of the step were quarantined before it."""
    attempt: int | None = None
    """Attempt that wrote it."""
    created: str | None = None
    """When, UTC in ISO 8601."""
    reason: str | None = None
    """Why it was written."""
    bytes: int = 0
    """Size of all its objects."""
    marker: str
    """Key of its commit marker."""
    manifest: str | None = None
    """Key of its manifest."""
    finding: str | None = None
    """What is wrong with it; None: all objects are there with the sizes that the manifest names."""

    @property
    def sizes_verified(self) -> bool:
        """Whether every object is there with its size. Digests are verified when a checkpoint is loaded."""
        return self.finding is None


def list_checkpoints(store: ObjectStore) -> list[Checkpoint]:
    """Return every commit that is not quarantined, newest first."""
    seen = read_listing(store.list(ROOT))
    return [_read(store, seen, marker) for marker in seen.candidates()]


def _read(store: ObjectStore, seen: Listing, marker: Marker) -> Checkpoint:
    row = Checkpoint(step=marker.step, generation=marker.generation, marker=marker.key)
    named = json_object(store, marker.key).get("manifest")
    folder = folder_of(named) if isinstance(named, str) else None
    if folder is None or folder.step != marker.step:
        return row.model_copy(update={"finding": "the commit marker names no manifest of its step"})
    held = seen.folders.get(folder.key)
    sizes = held.sizes if held is not None else {}
    row = row.model_copy(update={"attempt": folder.attempt, "manifest": named, "bytes": sum(sizes.values())})
    manifest = json_object(store, str(named))
    objects = manifest.get("objects")
    if not isinstance(objects, dict):
        return row.model_copy(update={"finding": "the manifest is missing or damaged"})
    known = {name: manifest[name] for name in ("created", "reason") if isinstance(manifest.get(name), str)}
    return row.model_copy(update={**known, "finding": _compare(objects, sizes, folder.key)})


def _compare(objects: dict[str, Any], sizes: dict[str, int], folder: str) -> str | None:
    for name, entry in sorted(objects.items()):
        expected = entry.get("size") if isinstance(entry, dict) else None
        size = sizes.get(f"{folder}{name}")
        if size is None:
            return f"{name} is missing"
        if size != expected:
            return f"{name} has {size} bytes, and the manifest says {expected}"
    return None


def json_object(store: ObjectStore, key: str) -> dict[str, Any]:
    """Return the JSON object under a key; empty if it is missing or damaged."""
    try:
        value = json.loads(store.get(key))
    except (NotFound, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
