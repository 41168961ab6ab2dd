"""What a checkpoint holds: full-precision tensors by canonical name, in pieces that ranks hold, and the step.

Names are `model/<name>` for weights, `exp_avg/<name>` and `exp_avg_sq/<name>` for AdamW's moments, whatever
strategy trained them, so that each can go on from another's checkpoint; `guard/<name>` for the numeric guard's memory,
`data/<name>` for what became of the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, get_args

import torch
from torch import Tensor

from unimrg_trainer.checkpoint.manifest import Dtype

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's two tensors beside each trained weight."""

GROUPS = ("model", *MOMENTS, "guard", "data")
"""What the part of a tensor's name before the first slash may be."""

DTYPES: dict[Dtype, torch.dtype] = {name: getattr(torch, name) for name in get_args(Dtype)}

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Piece:
    """A run of consecutive elements (row-major) of one tensor, in host memory."""

    name: str
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    start: int
    """Index of the run's first element in the flattened tensor."""
    values: Tensor
    """The run itself: 1-D, on the CPU."""


@dataclass(frozen=True)
class LocalState:
    """What one rank holds of the state after `step` finished optimiser steps.

    The pieces of all ranks cover every tensor exactly once. A tensor without elements has one empty piece.
    """

    step: int
    pieces: list[Piece]

    def problem(self) -> str | None:
        """Return what keeps this state from being saved, None if nothing does."""
        if self.step < 0:
            return f"the step is {self.step}"
        for piece in self.pieces:
            group, _, rest = piece.name.partition("/")
            if group not in GROUPS or not rest:
                return f"{piece.name!r} is no canonical name; they begin with {', '.join(f'{g}/' for g in GROUPS)}"
            values = piece.values
            if values.device.type != "cpu" or values.layout is not torch.strided or values.ndim != 1:
                return f"{piece.name} is not a dense vector in host memory"
            if values.dtype not in DTYPE_NAMES:
                return f"{piece.name} has type {values.dtype}; known are {', '.join(DTYPES)}"
        return None


@dataclass(frozen=True)
class TensorInfo:
    """Shape and type of a whole tensor of a checkpoint."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class StateReader(Protocol):
    """A checkpoint as a strategy reads it: each rank what it needs, no collective calls."""

    @property
    def step(self) -> int:
        """Finished optimiser steps."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by canonical name."""
        ...

    def read(self, name: str, start: int = 0, count: int | None = None) -> Tensor:
        """Return `count` elements [count] from index `start` of the flattened tensor (to its end if None).

        On the CPU, in the checkpoint's type, verified against the digests of the manifest.
        """
        ...
