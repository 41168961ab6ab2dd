"""Finished blocks of results in the run's store, so that nothing is asked twice, after a kill or for another benchmark.

A block lies under the digest of all that its results depend on: the weights, and what it asks, images included. So it
is found at any number of ranks, and never for other weights, questions or settings (docs/method/evaluation.md).
"""

from __future__ import annotations

import io
import json
import logging
import zipfile
import zlib
from collections.abc import Collection, Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from unimrg_trainer.evaluation.benchmarks.base import Item, Result
from unimrg_trainer.models.requests import AnswerRequest
from unimrg_trainer.storage.base import ObjectStore, StorageError

logger = logging.getLogger(__name__)

FOLDER = "results/blocks/"
_DAMAGED = (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class StoredBlocks:
    """The blocks of one set of weights. A store that fails costs time after the next kill, and no results."""

    def __init__(self, store: ObjectStore, weights: str) -> None:
        """`weights` is their digest, and that of how they answer and generate."""
        self.weights = weights
        self._folder = folder_of(weights)
        self._store = store
        self._there: set[str] | None = None

    def find(self, digest: str, count: int) -> list[Result] | None:
        """Return the results of a block of `count` items; None if it was not finished, or cannot be read."""
        try:
            if self._there is None:
                self._there = {key for key, _ in self._store.list(self._folder)}
            key = self._folder + digest
            results = _decoded(self._store.get(key)) if key in self._there else None
        except (StorageError, *_DAMAGED) as error:
            logger.warning("a finished block of results cannot be read, and is asked again: %s", error)
            return None
        return results if results is not None and len(results) == count else None

    def keep(self, digest: str, results: Sequence[Result]) -> None:
        """Keep the results of a block."""
        try:
            self._store.put(self._folder + digest, _encoded(results))
        except StorageError as error:
            logger.warning("a finished block of results is not kept, and is asked again after a restart: %s", error)


def folder_of(weights: str) -> str:
    """Return where the blocks of these weights lie: what else there is can go once they are evaluated."""
    return f"{FOLDER}{sha256(weights.encode()).hexdigest()[:16]}/"


def remove_others(store: ObjectStore, weights: Collection[str]) -> None:
    """Remove the blocks of other weights than these, which were evaluated last."""
    kept = tuple(map(folder_of, weights))
    try:
        for key, _ in store.list(FOLDER):
            if not key.startswith(kept):
                store.delete(key)
    except StorageError as error:
        logger.warning("blocks of results that are not needed any more remain in %s: %s", store.uri, error)


def block_digest(subject: str, items: Sequence[Item], settings: Any, *, reduced: bool) -> str:
    """Return the digest of what the results of `items` depend on.

    `subject` is the digest of the weights and of how they generate, `settings` what else the benchmark says, as JSON;
    for `reduced` images also what the items are judged by.
    """
    digest = sha256(json.dumps([subject, settings, reduced]).encode())
    for item in items:
        request = item.request
        fields: list[Any] = [type(request).__name__, request.prompt]
        if not isinstance(request, AnswerRequest):
            fields += [request.seed, request.row, request.size]
        if reduced:
            fields += [item.key, repr(item.truth), repr(sorted(item.attributes.items()))]
        image = request.image
        fields.append(None if image is None else list(image.shape))
        digest.update(json.dumps(fields).encode())
        if image is not None:
            digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _encoded(results: Sequence[Result]) -> bytes:
    if not any(isinstance(result, np.ndarray) for result in results):
        return json.dumps(list(results)).encode()
    file = io.BytesIO()
    np.savez_compressed(file, *results)
    return file.getvalue()


def _decoded(content: bytes) -> list[Result]:
    if content[:1] == b"[":
        found: list[Result] = json.loads(content)
        return found
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return [arrays[f"arr_{number}"] for number in range(len(arrays.files))]
