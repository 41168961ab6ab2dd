"""Between the pieces of a strategy and the whole states of the checkpoint writer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from unimrg_trainer.checkpoint.state import LocalState, TensorInfo, TrainingState


@dataclass(frozen=True)
class WholeState:
    """Reads a state in memory like a checkpoint."""

    state: TrainingState

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in self.state.tensors.items()}

    def read(self, name: str, start: int = 0, count: int | None = None) -> Tensor:
        return self.state.tensors[name].reshape(-1)[start : None if count is None else start + count]


def gather_whole(local: LocalState, group: dist.ProcessGroup) -> TrainingState:
    """Return the whole state on every rank. A collective call."""
    states: list[LocalState] = [local] * dist.get_world_size(group)
    dist.all_gather_object(states, local, group=group)
    tensors: dict[str, Tensor] = {}
    for piece in (piece for state in states for piece in state.pieces):
        whole = tensors.setdefault(piece.name, torch.empty(piece.shape, dtype=piece.values.dtype))
        whole.view(-1)[piece.start : piece.start + len(piece.values)] = piece.values
    return TrainingState(local.step, tensors)
