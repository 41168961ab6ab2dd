"""The interface between a model family and everything around it: training, evaluation and benchmarks.

A family decides what one training sequence is (its tokens, attention, masks, image sizes, noise) and how a batch is
computed. The engine sees rows with an objective, a number and a count of loss terms, and one loss sum for each.
A family holds no training state; everything random that it does is drawn from the generators that it is given.

    plan(objective, tasks of one cohort) → rows → collate(rows of a micro-step, on the host) → batch
    prepare(batch, device) → module(batch) → loss sum of each row
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.models.common.assets import Asset
from unimrg_trainer.models.common.encodings import Reading
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest, PromptStyle
from unimrg_trainer.models.weights import Layout
from unimrg_trainer.objectives.base import Objective, Task
from unimrg_trainer.packing.composition import Composition

RngFor = Callable[[str, int, str], np.random.Generator]
"""(objective, global row, purpose) → a generator of this optimiser step. What belongs to a cohort is drawn with the
cohort's first global row (docs/method/randomness.md)."""

OnRound = Callable[[int, int], None]
"""Called as (rounds done, rounds in all) before every round of generating; it may end the work by raising."""

Batch = Any
"""The tensors of one micro-step, of a type that only their family knows."""


@dataclass(frozen=True, eq=False)
class Row:
    """One training sequence. Families subclass it and add what they collate from."""

    objective: str
    global_row: int
    loss_terms: int
    """Number of terms in the row's loss sum, e.g. labelled tokens: the loss of a cohort is the sum over its rows,
    divided by the number of their terms."""


class Family(Protocol):
    """One model family, configured. Built from the settings of its member of `spec.model`."""

    name: str
    variant: str
    """Name of the size, for reports."""
    prompt_style: PromptStyle
    """How benchmarks end their questions to it."""
    assets: Path
    """Folder of the needed files; `engine/choices.py` sets it to where the job says."""

    def needed_files(self) -> Sequence[Asset]:
        """Return the files that this model needs besides its weights: tokenizers, frozen encoders."""
        ...

    def build(self) -> nn.Module:
        """Build the trainable module, initialised from torch's global generator, in float32 and train mode.

        Frozen encoders are no part of it. `module(prepared batch) -> Tensor [rows]` returns the *sum* of each row's
        loss over its terms.
        """
        ...

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Return the model's parts, which a job may freeze or give a learning rate of their own: prefixes of names of
        parameters, by part. Every parameter is in one, that of its longest prefix."""
        ...

    def frozen(self, objectives: Collection[Objective]) -> frozenset[str]:
        """Names of parameters that the loss of none of `objectives` reaches; they are not trained."""
        ...

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Whether weight decay applies to this parameter."""
        ...

    def encoder_file(self) -> Asset | None:
        """Return the weights of the frozen encoder that `encode` runs; None: it has none besides this code."""
        ...

    def reading(self, map: ImageMap | None) -> Reading:
        """Return what rows read of a sample's pictures: those that learn `map`, or (None) those that answer.

        Rows take from `sample.encodings` what is there, and otherwise make it from image and maps. A family that
        nothing can be encoded for ahead of training returns `Reading()`.
        """
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Run the frozen encoder on squares for one encoder of `reading`: uint8 [B, S, S, 3], B ≥ 1 → [B, *shape] in
        its type, on the device of `images`.

        `prepare` calls it too, and an image's result does not depend on the others: what was encoded before is what it
        would be now.
        """
        ...

    def plan(self, objective: str, tasks: Sequence[tuple[int, Task]], rng: RngFor) -> list[Row]:
        """Return one row for each (global row, task) of one cohort, in order; draws what the cohort shares."""
        ...

    def collate(self, rows: Sequence[Row], rng: RngFor, composition: Composition) -> Batch:
        """Build a micro-step's batch on the host; called ahead of time, from several threads.

        The composition changes how fast its losses are computed, not what they are; a family may know one alone.
        """
        ...

    def prepare(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> Batch:
        """Move a collated batch to `device` and run frozen encoders there, without gradient.

        Called outside autocast. Floats become `dtype`, the type of the module's weights.
        """
        ...

    def preview(self, batch: Batch) -> list[tuple[np.ndarray | None, np.ndarray | None]]:
        """Return (conditioning image, target) of each row of a prepared batch, uint8 [H, W, 3], each decoded from what
        the loss sees; None where the row has none."""
        ...

    def layouts(self) -> Sequence[Layout]:
        """Return the published files that this model's weights, and those of its frozen encoders, come in."""
        ...

    def answer(
        self,
        module: nn.Module,
        requests: Sequence[AnswerRequest],
        *,
        max_new_tokens: int,
        on_token: Callable[[], None] = lambda: None,
    ) -> list[str]:
        """Answer each request greedily. The module is used in evaluation mode, and left as it was.

        `on_token` is called before every further token of all answers; it may end the work by raising.
        """
        ...

    def generate(
        self, module: nn.Module, requests: Sequence[GenerateRequest], *, on_round: OnRound = lambda done, total: None
    ) -> list[np.ndarray]:
        """Generate an image for each request, uint8 [H, W, 3]; results do not depend on how requests are batched."""
        ...


FamilyFactory = Callable[[Mapping[str, Any]], Family]
"""(settings: the JSON of the family's member of `spec.model`, or of `custom.settings`) → family.
Raises UserError for settings that the family does not take."""
