"""The tensors of a commit, for a strategy that wants some of them, or a part of each (`state.StateReader`)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.checkpoint.manifest import Manifest
from unimrg_trainer.checkpoint.objects import VerifiedObjects
from unimrg_trainer.checkpoint.state import DTYPES, TensorInfo
from unimrg_trainer.storage.base import ObjectStore


class CommitReader:
    """Reads ranges of a commit's tensors; what it returns agrees with the digests of the manifest.

    Besides what it returns it holds at most FETCH_BYTES and KEPT_CHUNKS chunks (`objects`) in memory.
    """

    def __init__(self, store: ObjectStore, commit: Commit, manifest: Manifest) -> None:
        self.step = manifest.step
        self.on_read: Callable[[], None] = lambda: None
        """Called with every piece that was read."""
        self.tensors = {
            name: TensorInfo(tuple(entry.shape), DTYPES[entry.dtype]) for name, entry in manifest.tensors.items()
        }
        self._manifest = manifest
        self._objects = VerifiedObjects(store, commit.folder, manifest)

    def read(self, name: str, start: int = 0, count: int | None = None) -> Tensor:
        """Return elements [count] of a flattened tensor (`state.StateReader.read`).

        Raises Unverified if what is stored is not what was written, StorageError if it cannot be read now.
        """
        info, total = self.tensors[name], math.prod(self.tensors[name].shape)
        end = total if count is None else start + count
        if not 0 <= start <= end <= total:
            raise ValueError(f"{name} has {total} elements, asked for {start} to {end}")
        result = torch.empty(end - start, dtype=info.dtype)
        target = result.view(torch.uint8).numpy().data
        size = info.dtype.itemsize
        for piece in self._manifest.tensors[name].pieces:
            first, last = max(start, piece.start), min(end, piece.start + piece.count)
            if first < last:
                place = piece.offset + (first - piece.start) * size
                self._objects.read_into(piece.object, place, target[(first - start) * size : (last - start) * size])
                self.on_read()
        return result

    def read_whole(self, name: str) -> Tensor:
        """Return a whole tensor in its shape. Raises like `read`."""
        return self.read(name).view(self.tensors[name].shape)
