"""What the families' batches and modules have in common: how a batch is moved, and evaluation for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class TensorBatch:
    """Base of the batches: tensors, and plain values that stay on the host."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Move to `device`. Floats become `dtype`, but never less than float32: noising and losses need it."""
        floating = torch.promote_types(dtype, torch.float32)
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                target = floating if value.is_floating_point() else value.dtype
                moved[field.name] = value.to(device, target, non_blocking=True)
        return replace(self, **moved)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Have the module in evaluation mode within the block; afterwards it is as it was."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
