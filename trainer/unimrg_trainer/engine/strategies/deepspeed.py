"""DeepSpeed's ZeRO: optimiser state (stage 1), gradients (2) and weights (3) divided among processes.

The only file that imports deepspeed, which takes seconds. DeepSpeed sees a float32 model and computes no norm, clips
nothing and schedules nothing: BF16 is autocast, as under DDP, and the rest is done here. State is read and written as
the fragments of each parameter that this rank's float32 partition holds.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unimrg_api.spec_platform import StrategyName
from unimrg_api.spec_training import Precision
from unimrg_trainer.checkpoint.state import MOMENTS
from unimrg_trainer.engine.strategies.base import Fragment, MakeOptimizer, StepModule, Strategy
from unimrg_trainer.models.base import Batch

logger = logging.getLogger(__name__)

STAGES: dict[StrategyName, int] = {"ZeRO1": 1, "ZeRO2": 2, "ZeRO3": 3}

BUCKET_ELEMENTS = 50_000_000
"""Elements that are reduced or gathered at once; 200 MB in float32."""


class ZeRO(Strategy):
    """One of the three stages. Rank 0's weights are broadcast when it is built."""

    def __init__(
        self,
        name: StrategyName,
        model: nn.Module,
        make_optimizer: MakeOptimizer,
        precision: Precision,
        device: torch.device,
    ) -> None:
        super().__init__(model, precision, device)
        self.name = name
        self.stage = STAGES[name]
        self.forward_waits = self.stage == 3
        deepspeed = _import_deepspeed(device)
        model.to(device)
        config = engine_config(self.stage)
        if self.rank == 0:
            logger.info("DeepSpeed %s: %s", deepspeed.__version__, json.dumps(config))
        if self.stage == 3:  # it divides the weights before it would broadcast them
            for tensor in model.parameters():
                dist.broadcast(tensor.detach(), 0)
        self.optimizer = make_optimizer(model)
        self._engine, *_ = deepspeed.initialize(
            model=StepModule(model), optimizer=self.optimizer, config=config, dist_init_required=False
        )
        self.wrapped = self._engine
        self._zero = self._engine.optimizer
        self.reset_moments()

    def forward_backward(self, batch: Batch, row_weights: Tensor, *, sync_gradients: bool) -> Tensor:
        self._engine.set_gradient_accumulation_boundary(sync_gradients)
        loss, sums = self._forward(batch, row_weights)
        self._engine.backward(loss)
        return sums

    @torch.no_grad()
    def clip(self, max_norm: float) -> Tensor:
        own = [gradient for group in self._zero.averaged_gradients.values() for gradient in group]
        squares = torch.stack(torch._foreach_norm(own)).square().sum()
        dist.all_reduce(squares)
        norm = squares.sqrt()
        # a step that is not finite is skipped, but what no later gradient overwrites, such as padding, must stay finite
        torch._foreach_mul_(own, (max_norm / (norm + 1e-6)).clamp(max=1.0).nan_to_num(nan=1.0))
        return norm

    def fragments(self) -> Iterator[Fragment]:
        for name, parameter in self.model.named_parameters():
            if name not in self.trained:
                yield self._frozen(name, parameter)
            elif (own := self._own(parameter)) is not None:
                start, flat, first, count = own
                state = self.optimizer.state[flat]
                yield Fragment(
                    name,
                    self.shapes[name],
                    start,
                    flat.detach()[first : first + count],
                    {moment: state[moment][first : first + count] for moment in MOMENTS},
                )

    def close(self) -> None:
        self._engine.destroy()

    def _own(self, parameter: Any) -> tuple[int, Tensor, int, int] | None:
        """Return (first element of the parameter here, the float32 partition, the same element there, how many).

        None if this rank's partition holds nothing of the parameter.
        """
        if self.stage == 3:
            group, first, count = self._zero.grad_position[self._zero.get_param_id(parameter)]
            start = min(self.rank * count, parameter.ds_numel)  # the last partitions are padded
            return start, self._partitions()[group], first, min(count, parameter.ds_numel - start)
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        held = mapping.hp_fragment_address
        flat = self._partitions()[mapping.param_group_index]
        return mapping.lp_fragment_address.start, flat, held.start, held.numel

    def _frozen(self, name: str, parameter: Any) -> Fragment:
        if self.stage < 3:
            return Fragment(name, self.shapes[name], 0, parameter.detach().view(-1), replicated=True)
        count = parameter.ds_tensor.numel()
        start = min(self.rank * count, parameter.ds_numel)
        own = parameter.ds_tensor.detach()[: min(count, parameter.ds_numel - start)]
        return Fragment(name, self.shapes[name], start, own)

    def _optimised(self) -> list[Tensor]:
        return list(self._partitions())

    def _partitions(self) -> Sequence[Tensor]:
        """Return this rank's float32 partitions, one for each group of the optimiser, or several in stage 3."""
        held = (
            self._zero.fp32_partitioned_groups_flat if self.stage == 3 else self._zero.single_partition_of_fp32_groups
        )
        partitions: Sequence[Tensor] = held
        return partitions

    def _apply(self) -> None:
        self._engine.step()

    def _refresh_weights(self) -> None:
        """Copy the float32 partitions into the weights that the module computes with."""
        if self.stage < 3:
            self._zero.update_lp_params()
        else:
            for group in range(len(self._zero.fp16_groups)):
                self._zero._reassign_or_swap_out_partitioned_parameters(group)


def engine_config(stage: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration, with every setting whose default has changed between its releases."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # only for its own counts of samples
        "gradient_accumulation_steps": 1,  # the loop marks the boundary
        "managed_gradient_accumulation": True,
        "gradient_clipping": 0.0,  # ours, by a norm that stays on the device
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": False},
        "zero_allow_untested_optimizer": True,  # torch's AdamW, so that nothing is compiled
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": False,  # gradients are reduced in one order
            "contiguous_gradients": True,
            "round_robin_gradients": False,
            "reduce_scatter": True,
            "reduce_bucket_size": BUCKET_ELEMENTS,
            "allgather_partitions": True,
            "allgather_bucket_size": BUCKET_ELEMENTS,
            **({"compute_grad_norm": False} if stage < 3 else {"stage3_param_persistence_threshold": 0}),
        },
    }


def _import_deepspeed(device: torch.device) -> Any:
    """Import it for this device, without operators that would be compiled at first use."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")  # it insists; launchers set it
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.WARNING)
    # it calls what torch has renamed, in every step
    warnings.filterwarnings("ignore", "`torch.distributed.*is deprecated", FutureWarning)
    # a shared-memory all-reduce for CPUs that needs a C++ compiler and half a minute
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed()  # takes the process group that exists
    return deepspeed
