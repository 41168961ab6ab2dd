"""torch's DistributedDataParallel: every process holds the whole model, its gradient and its moments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unimrg_api.spec_training import Precision
from unimrg_trainer.checkpoint.state import MOMENTS
from unimrg_trainer.engine.strategies.base import Fragment, MakeOptimizer, StepModule, Strategy
from unimrg_trainer.models.base import Batch


class DataParallel(Strategy):
    """Rank 0's weights are broadcast when it is built."""

    name = "DDP"
    wrapped: DistributedDataParallel

    def __init__(
        self, model: nn.Module, make_optimizer: MakeOptimizer, precision: Precision, device: torch.device
    ) -> None:
        super().__init__(model, precision, device)
        self.wrapped = DistributedDataParallel(
            StepModule(model.to(device)),
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
        self.optimizer = make_optimizer(model)
        self.reset_moments()

    def forward_backward(self, batch: Batch, row_weights: Tensor, *, sync_gradients: bool) -> Tensor:
        with nullcontext() if sync_gradients else self.wrapped.no_sync():
            loss, sums = self._forward(batch, row_weights)
            torch.autograd.backward(loss)
        return sums

    def clip(self, max_norm: float) -> Tensor:
        norm: Tensor = nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], max_norm)
        return norm

    def fragments(self) -> Iterator[Fragment]:
        for name, parameter in self.model.named_parameters():
            state = self.optimizer.state[parameter] if name in self.trained else {}
            yield Fragment(
                name,
                self.shapes[name],
                0,
                parameter.detach().view(-1),
                {moment: state[moment].view(-1) for moment in MOMENTS if state},
                replicated=True,
            )
