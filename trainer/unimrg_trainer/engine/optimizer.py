"""AdamW with a parameter group for each learning rate, with and without weight decay."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unimrg_api.spec_training import OptimizerSpec


def build_optimizer(
    module: nn.Module,
    settings: OptimizerSpec,
    decays: Callable[[str, Tensor], bool],
    rate_scale: Callable[[str], float] = lambda name: 1.0,
) -> torch.optim.AdamW:
    """Return AdamW over the trained parameters of `module`; `decays(name, parameter)` is the family's rule.

    `rate_scale(name)` is the factor of a parameter's learning rate; a group holds it for `set_learning_rate`.
    """
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((rate_scale(name), decays(name, parameter)), []).append(parameter)
    decay = float(settings.weight_decay)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay if decayed else 0.0, "rate_scale": scale}
            for (scale, decayed), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
        ],
        lr=0.0,  # set before every step from the schedule
        betas=(float(settings.beta1), float(settings.beta2)),
        eps=float(settings.epsilon),
        fused=True,  # one kernel for all parameters, on CPUs too
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the schedule's rate, times the factor of each group."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_scale"]
