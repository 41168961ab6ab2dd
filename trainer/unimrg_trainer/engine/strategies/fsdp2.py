"""torch's fully sharded data parallelism (FSDP2): each process holds some rows of every parameter.

Whole parameters exist only while their block computes. In BF16 they are gathered in bfloat16 and gradients are reduced
in float32; what is kept, exported and updated is float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from unimrg_api.errors import UserError
from unimrg_api.spec_training import Precision
from unimrg_trainer.checkpoint.state import MOMENTS
from unimrg_trainer.engine.recompute import blocks
from unimrg_trainer.engine.strategies.base import Fragment, MakeOptimizer, StepModule, Strategy
from unimrg_trainer.models.base import Batch


class FullyShardedDataParallel(Strategy):
    """Rank 0's weights are broadcast when it is built. Raises UserError for a parameter without dimensions."""

    name = "FSDP2"
    forward_waits = True

    def __init__(
        self, model: nn.Module, make_optimizer: MakeOptimizer, precision: Precision, device: torch.device
    ) -> None:
        super().__init__(model, precision, device)
        scalar = next((name for name, shape in self.shapes.items() if not shape), None)
        if scalar is not None:
            raise UserError(
                f"spec.trainer.strategy FSDP2 divides parameters by their rows, and {scalar} of the model is a single "
                "number without dimensions",
                remedy="give it the shape [1] in the model, or use spec.trainer.strategy: ZeRO1",
            )
        # one tensor, and below one block, at a time: no device ever holds the whole model
        for tensor in [*model.parameters(), *model.buffers()]:
            there = tensor.detach().to(device)
            dist.broadcast(there, 0)
            tensor.detach().copy_(there)
        low = torch.bfloat16 if precision == "BF16" else None
        # inputs stay as they are: autocast chooses the type of each operation, as under the other strategies
        policy = MixedPrecisionPolicy(low, torch.float32 if low else None, cast_forward_inputs=False)
        mesh = init_device_mesh(device.type, (self.world_size,))
        if low is not None and device.type == "cpu":
            _one_type_for_norms(model)
        for block in blocks(model):  # moves its tensors to the device, and keeps its share of them
            fully_shard(block, mesh=mesh, mp_policy=policy)
        self.wrapped = StepModule(model)
        self._sharded: FSDPModule = fully_shard(self.wrapped, mesh=mesh, mp_policy=policy)
        self.optimizer = make_optimizer(model)
        self.reset_moments()

    def forward_backward(self, batch: Batch, row_weights: Tensor, *, sync_gradients: bool) -> Tensor:
        self._sharded.set_is_last_backward(sync_gradients)
        self._sharded.set_requires_gradient_sync(sync_gradients)
        loss, sums = self._forward(batch, row_weights)
        torch.autograd.backward(loss)
        return sums

    def row_sums(self, batch: Batch) -> Tensor:
        sums = super().row_sums(batch)
        self._sharded.reshard()  # the outermost parameters otherwise wait for a backward
        return sums

    def clip(self, max_norm: float) -> Tensor:
        norm = nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], max_norm)
        return cast(DTensor, norm).full_tensor()

    def fragments(self) -> Iterator[Fragment]:
        for name, parameter in self.model.named_parameters():
            shape = self.shapes[name]
            state = self.optimizer.state[parameter] if name in self.trained else {}
            # torch.chunk's division: all shards but the last ones have as many rows
            rows = -(-shape[0] // self.world_size)
            start = min(self.rank * rows, shape[0]) * torch.Size(shape[1:]).numel()
            yield Fragment(
                name, shape, start, _local(parameter), {moment: _local(state[moment]) for moment in MOMENTS if state}
            )


def _local(tensor: Tensor) -> Tensor:
    """Return this rank's rows of a sharded tensor, as a view [n]."""
    return cast(DTensor, tensor.detach()).to_local().view(-1)


def _one_type_for_norms(model: nn.Module) -> None:
    """Make each LayerNorm read its weight's type: the CPU's kernel, other than CUDA's under autocast, takes no two."""

    def cast_input(norm: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        weight = norm.weight
        return tuple(a.to(weight.dtype) for a in arguments) if isinstance(weight, Tensor) else arguments

    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(cast_input)
