"""AdamW with two parameter groups: with and without weight decay, as in the published recipe."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unimrg_api.spec_training import OptimizerSpec


def build_optimizer(
    module: nn.Module, settings: OptimizerSpec, decays: Callable[[str, Tensor], bool]
) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters of `module`; `decays(name, parameter)` is the family's rule."""
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups[decays(name, parameter)].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": float(settings.weight_decay)},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=0.0,  # set before every step from the schedule
        betas=(float(settings.beta1), float(settings.beta2)),
        eps=float(settings.epsilon),
        fused=True,  # one kernel for all parameters, on CPUs too
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
