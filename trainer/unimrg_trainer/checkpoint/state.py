"""What a checkpoint holds: full-precision tensors by canonical name, and the step.

Names are `model/<name>` for weights, `exp_avg/<name>` and `exp_avg_sq/<name>` for AdamW's moments, whatever
strategy trained them, so that each can go on from another's checkpoint; `guard/<name>` for the numeric guard's memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch

from unimrg_trainer.checkpoint.manifest import Dtype

GROUPS = ("model", "exp_avg", "exp_avg_sq", "guard")
"""What the part of a tensor's name before the first slash may be."""

DTYPES: dict[Dtype, torch.dtype] = {name: getattr(torch, name) for name in get_args(Dtype)}

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TrainingState:
    """A snapshot in host memory; the caller does not change it while it is being saved.

    `step` counts finished optimiser steps. `tensors` are dense, of any shape, none sharing memory with
    another.
    """

    step: int
    tensors: dict[str, torch.Tensor]

    def problem(self) -> str | None:
        """Return what keeps this state from being saved, None if nothing does."""
        if self.step < 0:
            return f"the step is {self.step}"
        for name, tensor in self.tensors.items():
            group, _, rest = name.partition("/")
            if group not in GROUPS or not rest:
                return f"{name!r} is no canonical name; they begin with {', '.join(f'{g}/' for g in GROUPS)}"
            if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
                return f"{name} is not a dense tensor in host memory"
            if tensor.dtype not in DTYPE_NAMES:
                return f"{name} has type {tensor.dtype}; known are {', '.join(DTYPES)}"
        return None
