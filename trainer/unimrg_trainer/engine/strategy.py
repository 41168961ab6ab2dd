"""How a step is spread over processes: what the loop needs from a strategy, and plain data parallelism.

Every strategy gets exactly one forward and one backward per micro-step, with the rows of all objectives, so that data
parallel and sharded strategies both work.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unimrg_api.spec_training import Precision
from unimrg_trainer.models.base import Batch

PARAMETER_DTYPES = {"FP32": torch.float32, "BF16": torch.float32, "FP64": torch.float64}
"""Parameter dtype by precision (master weights); BF16 computes in bfloat16 over float32 weights."""


class StepModule(nn.Module):
    """The module that a strategy wraps: one forward over all rows of a micro-step."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, row_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return (this rank's weighted loss, the loss sum of each row [rows])."""
        sums = self.model(batch)
        return (sums * row_weights.to(sums.dtype)).sum(), sums.detach()


class Strategy(Protocol):
    """How gradients are computed and reduced over ranks."""

    def forward_backward(self, batch: Batch, row_weights: Tensor, *, sync_gradients: bool) -> Tensor:
        """Run one prepared micro-step; return each row's loss sum [rows].

        `sync_gradients` is True for the last micro-step: only then are gradients reduced over ranks.
        """
        ...

    def clip(self, max_norm: float) -> Tensor:
        """Clip the complete gradient to `max_norm`; return its norm before, on the device."""
        ...


class DataParallel:
    """torch's DistributedDataParallel: every process holds the whole model."""

    name = "ddp"

    def __init__(self, model: nn.Module, precision: Precision, device: torch.device) -> None:
        self.world_size = dist.get_world_size()
        self.device = device
        self.precision = precision
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.wrapped = DistributedDataParallel(
            StepModule(model), device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
        )

    def forward_backward(self, batch: Batch, row_weights: Tensor, *, sync_gradients: bool) -> Tensor:
        row_weights = row_weights.to(self.device, non_blocking=True)
        with nullcontext() if sync_gradients else self.wrapped.no_sync():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "BF16"):
                loss, sums = self.wrapped(batch, row_weights)
            # the weights already normalize over all ranks: undo the averaging of DistributedDataParallel
            (loss * self.world_size).backward()
        return cast(Tensor, sums)

    def clip(self, max_norm: float) -> Tensor:
        norm: Tensor = nn.utils.clip_grad_norm_(self.parameters, max_norm)
        return norm
