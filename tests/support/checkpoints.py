"""Training states in memory and the checkpointer that the checkpoint tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unimrg_trainer.checkpoint.agreement import Agreement
from unimrg_trainer.checkpoint.checkpointer import Checkpointer
from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.checkpoint.retention import Policy
from unimrg_trainer.checkpoint.state import LocalState, Piece, StateReader
from unimrg_trainer.checkpoint.writer import Origin
from unimrg_trainer.engine.strategies.selfcheck import MemoryReader
from unimrg_trainer.storage import ObjectStore

CONFIG_DIGEST = "c" * 64


class SingleProcess:
    """The agreement of one process with itself."""

    rank = 0
    world_size = 1

    def gather(self, value: Any) -> list[Any]:
        return [value]


@dataclass(frozen=True)
class Whole:
    """A state that one process holds: whole tensors by canonical name."""

    step: int
    tensors: dict[str, Tensor]

    def reader(self) -> MemoryReader:
        return MemoryReader([self.local()])

    def local(self, rank: int = 0, world_size: int = 1) -> LocalState:
        """The pieces of one of several ranks: of each tensor a run of elements, as equal as they can be."""
        pieces = []
        for name, tensor in self.tensors.items():
            flat = tensor.reshape(-1)
            start, end = (flat.numel() * index // world_size for index in (rank, rank + 1))
            if end > start or (rank == 0 and not flat.numel()):
                pieces.append(Piece(name, tuple(tensor.shape), start, flat[start:end]))
        return LocalState(self.step, pieces)


def read_whole(reader: StateReader) -> Whole:
    """Everything that a reader has."""
    return Whole(reader.step, {name: reader.read(name).view(info.shape) for name, info in reader.tensors.items()})


def joined(state: LocalState) -> Whole:
    """The state of a process that holds every tensor as one piece."""
    return Whole(state.step, {piece.name: piece.values.view(piece.shape) for piece in state.pieces})


def loaded_by(keeper: Checkpointer) -> tuple[Commit, Whole] | None:
    """What a checkpointer finds, read as a whole."""
    found: list[Whole] = []
    commit = keeper.load_newest(lambda reader: found.append(read_whole(reader)))
    return None if commit is None else (commit, found[-1])


def small_whole(step: int) -> Whole:
    """Weights and moments of three parameters, different at every step and the same in every process."""
    generator = torch.Generator().manual_seed(step)
    shapes = {"head.weight": (5, 3), "head.bias": (5,), "scale": ()}
    tensors = {
        f"{group}/{name}": torch.randn(shape, generator=generator)
        for group in ("model", "exp_avg", "exp_avg_sq")
        for name, shape in shapes.items()
    }
    return Whole(step, tensors)


def small_state(step: int, rank: int = 0, world_size: int = 1) -> LocalState:
    """A rank's pieces of `small_whole`."""
    return small_whole(step).local(rank, world_size)


def checkpointer(
    store: ObjectStore,
    *,
    attempt: int = 1,
    keep_last: int = 100,
    keep_every: int | None = None,
    agreement: Agreement | None = None,
    training_digest: str = CONFIG_DIGEST,
    tick: Callable[[], None] = lambda: None,
) -> Checkpointer:
    return Checkpointer(
        store,
        Origin("job-uid", attempt, "ddp", training_digest, "d" * 64),
        retention=Policy(keep_last, keep_every),
        agreement=agreement or SingleProcess(),
        tick=tick,
    )


def assert_same(found: Whole, expected: Whole) -> None:
    """Equal to the last bit: names, types, shapes, contents and step."""
    assert found.step == expected.step
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        other = found.tensors[name]
        assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape), name
        assert other.contiguous().view(-1).view(torch.uint8).equal(tensor.contiguous().view(-1).view(torch.uint8)), name


def loads(store: ObjectStore, step: int) -> None:
    """Assert that the newest checkpoint is that of `step`, bit for bit."""
    loaded = loaded_by(checkpointer(store))
    assert loaded is not None
    assert loaded[0].step == step
    assert_same(loaded[1], small_whole(step))
