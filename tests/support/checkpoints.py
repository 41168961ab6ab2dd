"""Small training states and the checkpointer that the checkpoint tests share."""

from __future__ import annotations

from typing import Any

import torch

from unimrg_trainer.checkpoint.agreement import Agreement
from unimrg_trainer.checkpoint.checkpointer import Checkpointer
from unimrg_trainer.checkpoint.state import TrainingState
from unimrg_trainer.checkpoint.writer import Origin
from unimrg_trainer.storage import ObjectStore

CONFIG_DIGEST = "c" * 64


class SingleProcess:
    """The agreement of one process with itself."""

    rank = 0
    world_size = 1

    def gather(self, value: Any) -> list[Any]:
        return [value]


def small_state(step: int) -> TrainingState:
    """Weights and moments of three parameters, different at every step and the same in every process."""
    generator = torch.Generator().manual_seed(step)
    shapes = {"head.weight": (5, 3), "head.bias": (5,), "scale": ()}
    tensors = {
        f"{group}/{name}": torch.randn(shape, generator=generator)
        for group in ("model", "exp_avg", "exp_avg_sq")
        for name, shape in shapes.items()
    }
    return TrainingState(step, tensors)


def checkpointer(
    store: ObjectStore,
    *,
    attempt: int = 1,
    keep_last: int = 100,
    agreement: Agreement | None = None,
    training_digest: str = CONFIG_DIGEST,
) -> Checkpointer:
    return Checkpointer(
        store,
        Origin("job-uid", attempt, "ddp", training_digest, "d" * 64),
        keep_last=keep_last,
        agreement=agreement or SingleProcess(),
    )


def assert_same(found: TrainingState, expected: TrainingState) -> None:
    """Equal to the last bit: names, types, shapes, contents and step."""
    assert found.step == expected.step
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        other = found.tensors[name]
        assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape), name
        assert other.contiguous().view(-1).view(torch.uint8).equal(tensor.contiguous().view(-1).view(torch.uint8)), name


def loads(store: ObjectStore, step: int) -> None:
    """Assert that the newest checkpoint is that of `step`, bit for bit."""
    loaded = checkpointer(store).load_newest()
    assert loaded is not None
    assert loaded[0].step == step
    assert_same(loaded[1], small_state(step))
