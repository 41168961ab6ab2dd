"""What the families' batches and modules have in common: how a batch is moved, and evaluation for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn


def index_tensor(values: np.ndarray | Sequence[int]) -> Tensor:
    """Return integers as a tensor that indexes: int64."""
    return torch.from_numpy(np.asarray(values, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class TensorBatch:
    """Base of the batches: tensors, alone or in tuples, batches, and plain values that stay on the host."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Move to `device`. Floats become `dtype`, but never less than float32: noising and losses need it."""
        floating = torch.promote_types(dtype, torch.float32)

        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                target = floating if value.is_floating_point() else value.dtype
                return value.to(device, non_blocking=True).to(target)  # a copy here is not pinned
            if isinstance(value, TensorBatch):
                return value.to(device, dtype)
            return tuple(move(part) for part in value) if isinstance(value, tuple) else value

        return replace(self, **{field.name: move(getattr(self, field.name)) for field in fields(self)})

    def pin_memory(self) -> Self:
        """Copy to page-locked memory, from which a GPU is filled without waiting."""

        def pin(value: Any) -> Any:
            if isinstance(value, Tensor | TensorBatch):
                return value.pin_memory()
            return tuple(pin(part) for part in value) if isinstance(value, tuple) else value

        return replace(self, **{field.name: pin(getattr(self, field.name)) for field in fields(self)})


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Have the module in evaluation mode within the block; afterwards it is as it was."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
