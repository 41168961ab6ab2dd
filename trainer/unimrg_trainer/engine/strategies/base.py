"""What every strategy shares: the module that it wraps, autocast, the optimiser step, and state as local fragments.

A strategy owns the wrapped module and the optimiser. Each micro-step is one forward and one backward with the rows of
all objectives, so that every trained parameter takes part on every rank in the same order (docs/method/strategies.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unimrg_api.errors import UserError
from unimrg_api.spec_platform import StrategyName
from unimrg_api.spec_training import Precision
from unimrg_trainer.checkpoint.state import MOMENTS, LocalState, Piece, StateReader
from unimrg_trainer.checkpoint.writer import assign_to_ranks
from unimrg_trainer.engine.optimizer import set_learning_rate
from unimrg_trainer.models.base import Batch

PARAMETER_DTYPES = {"FP32": torch.float32, "BF16": torch.float32, "FP64": torch.float64}
"""Parameter dtype by precision (master weights); BF16 computes in bfloat16 over float32 weights."""

MakeOptimizer = Callable[[nn.Module], torch.optim.AdamW]
"""Builds a fused AdamW over the trainable parameters of a module, whole or sharded."""


class StepModule(nn.Module):
    """The module that a strategy wraps: one forward over all rows of a micro-step."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, row_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return (this rank's weighted loss, the loss sum of each row [rows])."""
        sums = self.model(batch)
        return (sums * row_weights.to(sums.dtype)).sum(), sums.detach()


@dataclass(frozen=True)
class Fragment:
    """A run of consecutive elements of one parameter as this rank holds it: views [n] that may be written to."""

    name: str
    shape: tuple[int, ...]
    """Shape of the whole parameter."""
    start: int
    """Index of the run's first element in the flattened parameter."""
    weights: Tensor
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    """By name (`MOMENTS`); empty for a frozen parameter."""
    replicated: bool = False
    """Whether every rank holds the same fragment; one of them exports it."""


class Strategy(ABC):
    """Computes gradients over all ranks and applies them. Every rank makes the same calls in the same order.

    Subclasses set `wrapped` and `optimizer` in their constructor, then call `reset_moments`.
    """

    name: StrategyName
    forward_waits: bool = False
    """Whether a forward waits for weights that other ranks hold."""
    wrapped: nn.Module
    optimizer: torch.optim.AdamW

    def __init__(self, model: nn.Module, precision: Precision, device: torch.device) -> None:
        self.model = model
        self.precision = precision
        self.device = device
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self._weights_imported = False
        self.trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    @abstractmethod
    def forward_backward(self, batch: Batch, row_weights: Tensor, *, sync_gradients: bool) -> Tensor:
        """Run one prepared micro-step; return each row's loss sum [rows].

        `sync_gradients` is True for the last micro-step of a step: only then are gradients reduced over ranks.
        """

    @abstractmethod
    def clip(self, max_norm: float) -> Tensor:
        """Clip the complete gradient to `max_norm`; return its norm before, a scalar on the device."""

    @abstractmethod
    def fragments(self) -> Iterator[Fragment]:
        """Yield what this rank holds of every parameter. No collective calls."""

    def step(self, rate: float, skip: Tensor | None = None) -> None:
        """Apply the gradient at learning rate `rate`, and clear it.

        Where `skip` (a scalar on the device, the same on every rank) is true, weights and moments stay as they are,
        and the step counts all the same. The host does not wait for it.
        """
        set_learning_rate(self.optimizer, rate)
        if skip is None:
            self._apply()
            return
        skipped = skip.to(torch.float32)
        self._apply_unless(skipped)
        # fused AdamW does not count a step that it skips; the schedule and the checkpoint's name do
        torch._foreach_add_(self._step_counts(), skipped)

    def discard(self) -> None:
        """Throw the gradient away, as an optimiser step that is skipped: all memory of a step has been used."""
        self._apply_unless(torch.ones((), device=self.device))

    @torch.no_grad()
    def row_sums(self, batch: Batch) -> Tensor:
        """Return each row's loss sum [rows], without dropout or gradients. Every rank makes equally many calls."""
        self.wrapped.eval()
        _, sums = self._forward(batch, torch.zeros(()))
        self.wrapped.train()
        return sums

    def export_state(self, step: int) -> LocalState:
        """Copy this rank's share of weights and moments to the host; later steps do not change it.

        Frozen parameters are included: a checkpoint is a whole model.
        """
        cuda = self.device.type == "cuda"
        pieces = []
        owners = self._owners()
        for fragment in self.fragments():
            if fragment.replicated and owners[fragment.name] != self.rank:
                continue
            if not fragment.weights.numel() and (0 not in fragment.shape or self.rank):
                continue  # nothing of it is here; a tensor without elements is rank 0's
            for group, values in {"model": fragment.weights, **fragment.moments}.items():
                copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=cuda)
                copy.copy_(values.detach(), non_blocking=cuda)
                pieces.append(Piece(f"{group}/{fragment.name}", fragment.shape, fragment.start, copy))
        if cuda:
            torch.cuda.synchronize()
        return LocalState(step, pieces)

    @torch.no_grad()
    def import_state(self, reader: StateReader) -> None:
        """Overwrite weights, moments and AdamW's step count; reads only what this rank holds.

        No collective calls: if reading fails on one rank, all of them can import another checkpoint. Raises UserError
        if the checkpoint does not fit the model, before anything is overwritten.
        """
        check_same_model(self.shapes, self.trained, reader)
        for fragment in self.fragments():
            for group, values in {"model": fragment.weights, **fragment.moments}.items():
                values.copy_(reader.read(f"{group}/{fragment.name}", fragment.start, values.numel()))
        for count in self._step_counts():
            count.fill_(reader.step)
        self._weights_imported = True

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Free what the strategy holds beyond the module. No collective calls."""

    def reset_moments(self) -> None:
        """Allocate AdamW's moments now rather than at the first step, so that a state can be imported into them."""
        for tensor in self._optimised():
            state = self.optimizer.state[tensor]
            for moment in MOMENTS:
                if moment not in state:
                    state[moment] = torch.zeros_like(tensor, memory_format=torch.preserve_format)
            # on the tensor's device: the fused kernel reads it there
            state["step"] = torch.zeros((), dtype=torch.float32, device=tensor.device)

    def _forward(self, batch: Batch, row_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return (the loss to differentiate, each row's loss sum [rows])."""
        if self._weights_imported:
            self._refresh_weights()
            self._weights_imported = False
        row_weights = row_weights.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "BF16"):
            loss, sums = self.wrapped(batch, row_weights)
        # the weights already normalise over all ranks: undo the averaging over ranks that every strategy does
        return loss * self.world_size, sums

    def _apply(self) -> None:
        """Run the optimiser and clear the gradient."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _apply_unless(self, skipped: Tensor) -> None:
        # what torch.amp.GradScaler tells a fused optimiser about a step to skip
        self.optimizer.found_inf = skipped  # type: ignore[attr-defined]
        try:
            self._apply()
        finally:
            del self.optimizer.found_inf  # type: ignore[attr-defined]

    def _refresh_weights(self) -> None:  # noqa: B027 - most have no other copies
        """Bring other copies of the weights up to date after an import. A collective call."""

    def _optimised(self) -> list[Tensor]:
        """Return the tensors that the optimiser updates."""
        return [tensor for group in self.optimizer.param_groups for tensor in group["params"]]

    def _step_counts(self) -> list[Tensor]:
        return [state["step"] for state in self.optimizer.state.values()]

    def _owners(self) -> dict[str, int]:
        """Return which rank exports each parameter that all of them hold: dealt by size."""
        sizes = {name: torch.Size(shape).numel() for name, shape in self.shapes.items()}
        return {name: rank for rank, names in enumerate(assign_to_ranks(sizes, self.world_size)) for name in names}


def check_same_model(shapes: Mapping[str, tuple[int, ...]], trained: set[str], reader: StateReader) -> None:
    """Raise UserError if the checkpoint's tensors are not those of a model with these shapes and trained parameters."""
    wanted = {f"model/{name}": shape for name, shape in shapes.items()}
    wanted |= {f"{moment}/{name}": shapes[name] for moment in MOMENTS for name in trained}
    found = {name: info.shape for name, info in reader.tensors.items() if name in wanted or name.startswith("model/")}
    different = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if different:
        name = next((name for name in different if name.startswith("model/")), different[0])
        shown = name.removeprefix("model/")
        raise UserError(
            f"the checkpoint of step {reader.step} does not fit the model: {len(different)} tensors differ, e.g. "
            f"{shown} is {found.get(name, 'absent')} there and {wanted.get(name, 'absent')} here",
            remedy="resume with the version of unimrg that wrote it, or give another spec.checkpoint.uri",
        )


@torch.no_grad()
def import_weights(module: nn.Module, reader: StateReader) -> None:
    """Overwrite every parameter of a whole module with the checkpoint's weights.

    Raises UserError if they do not fit the model, e.g. after a change of the software or of the family.
    """
    check_same_model({name: tuple(p.shape) for name, p in module.named_parameters()}, set(), reader)
    for name, parameter in module.named_parameters():
        parameter.copy_(reader.read(f"model/{name}").view(parameter.shape))
