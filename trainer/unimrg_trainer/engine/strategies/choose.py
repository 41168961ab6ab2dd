"""The strategy of a job, built by name."""

from __future__ import annotations

import torch
from torch import nn

from unimrg_api.spec_platform import StrategyName
from unimrg_api.spec_training import Precision
from unimrg_trainer.engine.strategies.base import MakeOptimizer, Strategy


def build_strategy(
    name: StrategyName, model: nn.Module, make_optimizer: MakeOptimizer, precision: Precision, device: torch.device
) -> Strategy:
    """Wrap `model`, which is whole and whose frozen parameters are marked, for `device`. A collective call.

    What lies in memory there of a model on the host is what the strategy keeps there.
    """
    if name == "DDP":
        from unimrg_trainer.engine.strategies.ddp import DataParallel

        return DataParallel(model, make_optimizer, precision, device)
    if name == "FSDP2":
        from unimrg_trainer.engine.strategies.fsdp2 import FullyShardedDataParallel

        return FullyShardedDataParallel(model, make_optimizer, precision, device)
    from unimrg_trainer.engine.strategies.deepspeed import ZeRO

    return ZeRO(name, model, make_optimizer, precision, device)
