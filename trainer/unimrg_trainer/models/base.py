"""The narrow waist between a model family and the loop: what a family must offer, and nothing about training.

A family turns branches into segments (its tokens), a packed plan plus images into a batch of tensors, and a batch
into one loss sum per row. It holds no training state.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from unimrg_trainer.objectives.base import Branch
from unimrg_trainer.packing.plan import Plan, Segment

Address = Callable[[str, int, str], np.random.Generator]
"""(objective, global row, purpose) → generator of this step's addressed randomness."""


class Batch(Protocol):
    """Tensors of one micro-step. Families define their own; the loop moves it and passes it on."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch: ...


class Family(Protocol):
    """One model family at one size."""

    name: str
    variant: str
    image_size: int

    def check_assets(self) -> None:
        """Raise UserError (INPUT_MISSING) for files that this size needs and that are not there; opens none."""
        ...

    def build(self) -> nn.Module:
        """Build the trainable module (no codec), initialised from torch's global generator, in float32, train mode.

        Its `forward(batch) -> Tensor [rows]` returns the *sum* of each row's loss over its units.
        """
        ...

    def frozen(self, objectives: Collection[str]) -> frozenset[str]:
        """Names of parameters that none of `objectives` can reach; the loop freezes and lists them (seams.md §8)."""
        ...

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Whether the published recipe applies weight decay to this parameter."""
        ...

    def lay_out(self, branch: Branch, hidden: int) -> tuple[tuple[Segment, ...], int]:
        """Turn a branch into segments (image 0, target 0) and the number of units of its loss."""
        ...

    def draw_hidden(self, generator: np.random.Generator) -> int:
        """Draw a cohort's number of hidden target tokens (its mask rate)."""
        ...

    def collate(self, plan: Plan, images: np.ndarray, targets: np.ndarray, address: Address) -> Batch:
        """Build the batch on the host.

        images uint8 [len(plan.images), S, S, 3]; targets uint8 [len(plan.targets), S, S, 3].
        """
        ...

    def generate(
        self,
        module: nn.Module,
        images: np.ndarray,
        prompt: str,
        *,
        seed: int,
        settings: Any,
        rows: Sequence[int],
        on_round: Callable[[int, int], None],
    ) -> np.ndarray:
        """Generate one image for each input image under one prompt. uint8 [B, S, S, 3] → uint8 [B, S, S, 3].

        Image i draws at (seed, rows[i]), however images are batched; `on_round(done, total)` may end it by raising.
        """
        ...

    def answer(
        self, module: nn.Module, images: np.ndarray, questions: Sequence[str], *, max_new_tokens: int
    ) -> list[str]:
        """Answer one question about each image, greedily. images uint8 [B, S, S, 3]."""
        ...
