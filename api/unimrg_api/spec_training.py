"""The part of a job that says what is trained and how: model, method, objectives, optimiser, schedule."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from unimrg_api.fields import FieldRule, Fraction, PositiveRate, Rate, Spec, Uri, Weight
from unimrg_api.unions import CustomName, CustomSpec, OneOf

Method = Literal["SFT", "RecA", "UniMRG"]
ObjectiveName = Literal["Understanding", "Pixel", "Depth", "Segmentation"]
Precision = Literal["FP32", "BF16", "FP64"]
Variant = Literal["Tiny", "0.5B", "1.5B"]
ShowOVariant = Literal["Tiny", "VQ-256", "VQ-512", "CLIP-256", "CLIP-512"]

MAXIMUM_STEPS = 10_000_000
MAXIMUM_ROWS = 65_536

RECIPES: dict[Method, dict[ObjectiveName, str]] = {
    "SFT": {"Understanding": "1"},
    # Where understanding and generation share parameters, RecA keeps the understanding loss.
    "RecA": {"Understanding": "1", "Pixel": "1"},
    "UniMRG": {"Understanding": "1", "Pixel": "1", "Depth": "1", "Segmentation": "1"},
}
"""Objectives and weights of each method, where the family has no recipe of its own."""


class HarmonSamplingSpec(Spec):
    """How images are generated. No part of what is trained."""

    steps: Annotated[int, Field(ge=1, le=1024)] = 32
    """Autoregressive steps in which an image's tokens are filled in, when it is generated from an image."""
    text_steps: Annotated[int, Field(ge=1, le=1024)] = 64
    """The same when it is generated from text alone."""
    diffusion_steps: Annotated[int, Field(ge=1, le=1000)] = 100
    """Denoising steps for each token."""
    guidance: Rate = "3.0"
    """Scale of classifier-free guidance, as a decimal string. "1" is none."""
    guidance_schedule: Literal["Constant", "Linear"] = "Constant"
    """`Linear`: from no guidance to that scale, with the share of tokens that are filled in."""


class HarmonSpec(Spec):
    """Harmon: one language model, and a masked autoregressive encoder and decoder of continuous image tokens."""

    licence: ClassVar[str] = (
        "Harmon's published weights: NTU S-Lab License 1.0, non-commercial use only (docs/families.md)"
    )
    """What a user of the published weights must know, in one line."""

    variant: Variant
    """Size. `Tiny` has the published architecture with small numbers and trains on a laptop."""
    dropout: Fraction = "0.1"
    """Share of activations that dropout zeroes in the masked autoregressive encoder and decoder.
    The published value is "0.1"; "0" makes losses independent of how the batch is split."""
    sampling: HarmonSamplingSpec = HarmonSamplingSpec()
    """How images are generated."""


class ShowOSamplingSpec(Spec):
    """How images are generated. No part of what is trained."""

    steps: Annotated[int, Field(ge=1, le=1024)] = 50
    """Rounds in which an image's codes are filled in."""
    guidance: Rate = "5"
    """Scale of classifier-free guidance, as a decimal string: scores are (1 + guidance) · with − guidance · without
    the prompt. "0" is none."""
    temperature: Rate = "1"
    """Noise in the order in which codes are kept, as a decimal string."""


class ShowOSpec(Spec):
    """Show-o: one language model that predicts text and the masked codes of images."""

    licence: ClassVar[str] = (
        "Show-o's code is Apache-2.0 and Phi-1.5's weights are MIT; see the repository of the weights for their terms."
    )

    variant: ShowOVariant
    """Size of generated images, and what images are understood through: their codes (`VQ`) or CLIP's vision tower.
    `Tiny` has the published architecture with CLIP and small numbers, and trains on a laptop."""
    sampling: ShowOSamplingSpec = ShowOSamplingSpec()
    """How images are generated."""


class OpenUniSamplingSpec(Spec):
    """How images are generated. No part of what is trained."""

    steps: Annotated[int, Field(ge=1, le=999)] = 20
    """Steps of the solver."""
    guidance: Rate = "4.5"
    """Scale of classifier-free guidance, as a decimal string. "1" is none."""


class OpenUniSpec(Spec):
    """OpenUni: InternVL3's language model, whose states at learned queries condition the diffusion transformer SANA."""

    licence: ClassVar[str] = (
        "OpenUni's published weights: NTU S-Lab License 1.0, non-commercial use only (docs/method/openuni.md)"
    )
    """What a user of the published weights must know, in one line."""

    recipes: ClassVar[dict[Method, dict[ObjectiveName, str]]] = {"RecA": {"Pixel": "1"}}
    """Its understanding shares no parameter with generation that RecA trains: the language model stays as it is."""

    variant: Literal["Tiny", "B-512", "L-512"]
    """Size; `L-512` is OpenUni-3.6B. `Tiny` has the published architecture with small numbers, and a vision tower
    without training."""
    sampling: OpenUniSamplingSpec = OpenUniSamplingSpec()
    """How images are generated."""


class ModelSpec(OneOf):
    """The model that is trained: first weights, and exactly one family with its settings."""

    members = ("harmon", "openuni", "showo", "custom")

    init: Uri | None = None
    """First weights: a .safetensors file, or a folder of them. Absent: drawn from `training.seed`."""
    harmon: HarmonSpec | None = None
    """The family Harmon."""
    openuni: OpenUniSpec | None = None
    """The family OpenUni."""
    showo: ShowOSpec | None = None
    """The family Show-o."""
    custom: CustomSpec | None = None
    """A family of an installed package, from the entry-point group `unimrg.families`. Its setting `sampling`, if it
    has one, says how it generates and is no part of what is trained."""

    def family(self) -> tuple[str, dict[str, Any]]:
        """Return the name of the family and its settings as JSON."""
        return self.selected()

    def recipe(self, method: Method) -> dict[ObjectiveName, str]:
        """Return the objectives and weights of a method for the chosen family."""
        own: dict[Method, dict[ObjectiveName, str]] = getattr(getattr(self, self._given()[0]), "recipes", {})
        return own.get(method, RECIPES[method])

    def training_settings(self) -> dict[str, Any]:
        """Return what of the family's settings makes two jobs the same training, decimal strings by value."""
        name, settings = self.family()
        settings = {key: value for key, value in settings.items() if key != "sampling"}
        if self.harmon is not None:
            settings["dropout"] = float(self.harmon.dropout)
        return {"family": name, "settings": settings}


class ObjectiveSpec(OneOf):
    """One thing to learn, and how much it counts."""

    members = ("name", "custom")

    name: ObjectiveName | None = None
    """Understanding (answer a question), or the map to generate from the image's own embedding; Pixel is the image."""
    custom: CustomName | None = None
    """A map of an installed package to generate, from the entry-point group `unimrg.maps`."""
    weight: Weight
    """Factor of this objective's loss, as a decimal string. "0" leaves the objective out."""

    @property
    def key(self) -> str:
        """Name of the objective, built-in or custom."""
        return self.name or self.custom or ""

    @classmethod
    def key_in_cel(cls, entry: str) -> str:
        """Return `key` of the variable `entry` in CEL."""
        return f"(has({entry}.name) ? {entry}.name : has({entry}.custom) ? {entry}.custom : '')"


class BatchSpec(Spec):
    """How many rows an optimiser step has, and how they are grouped."""

    rows_per_objective: Annotated[int, Field(ge=1, le=MAXIMUM_ROWS)] = 16
    """Rows of each objective per optimiser step, over all processes. A multiple of `cohortRows`."""
    cohort_rows: Annotated[int, Field(ge=1, le=MAXIMUM_ROWS)] = 16
    """Rows that share one mask rate and one mean: the micro-batch of the reference. Part of what is trained,
    while `microBatchRows` is not."""
    micro_batch_rows: Annotated[int, Field(ge=1, le=MAXIMUM_ROWS)] = 16
    """Rows of each objective per forward pass and process. Less needs less memory and changes nothing else."""

    def _multiples(self) -> str:
        below = self.rows_per_objective - self.rows_per_objective % self.cohort_rows
        nearest = sorted({max(self.cohort_rows, below), below + self.cohort_rows})
        return f"use a multiple of cohortRows, e.g. {' or '.join(map(str, nearest))}"

    rules = (
        FieldRule(
            "rowsPerObjective",
            "the rows of an objective cannot be dealt in whole cohorts",
            "use a multiple of cohortRows",
            lambda batch: batch.rows_per_objective % batch.cohort_rows == 0,
            "self.cohortRows < 1 || self.rowsPerObjective % self.cohortRows == 0",
            advice=_multiples,
        ),
    )


class OptimizerSpec(Spec):
    """AdamW. The defaults are the published recipe."""

    learning_rate: PositiveRate = "1e-5"
    """Learning rate after the warm-up."""
    beta1: Fraction = "0.9"
    """Decay of the running mean of gradients."""
    beta2: Fraction = "0.95"
    """Decay of the running mean of squared gradients."""
    epsilon: PositiveRate = "1e-8"
    """Added to the denominator of an update."""
    weight_decay: Rate = "0.02"
    """Decoupled weight decay, on the parameters that the model's recipe decays."""
    clip_norm: PositiveRate = "1.0"
    """Gradients are scaled down to this norm."""


class ScheduleSpec(Spec):
    """Learning rate over time: linear warm-up, then half a cosine down to zero."""

    warmup_steps: Annotated[int, Field(ge=0, le=MAXIMUM_STEPS)] = 25
    """Optimiser steps until the learning rate reaches its peak."""
    total_steps: Annotated[int, Field(ge=1, le=MAXIMUM_STEPS)] = 2500
    """Optimiser steps of the whole schedule; at its end the learning rate is zero."""

    rules = (
        FieldRule(
            "warmupSteps",
            "the warm-up does not end within the schedule",
            "use at most totalSteps, or raise that",
            lambda schedule: schedule.warmup_steps <= schedule.total_steps,
            "self.warmupSteps <= self.totalSteps",
        ),
    )


class TrainingSpec(Spec):
    """How the model is trained."""

    batch: BatchSpec = BatchSpec()
    """Rows of a step."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """AdamW's numbers."""
    schedule: ScheduleSpec = ScheduleSpec()
    """Learning rate over time."""
    stop_step: Annotated[int, Field(ge=1, le=MAXIMUM_STEPS)] | None = None
    """Optimiser step after which training ends. Absent: `schedule.totalSteps`. Less than that stops within
    the schedule, as the paper does, which reports step 1000 of 2500."""
    precision: Precision = "BF16"
    """Number format of the computation; weights and optimiser state are at least FP32."""
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 42
    """Root of all randomness: initial weights, order, masks, noise, dropout."""

    def resolved_stop_step(self) -> int:
        """Return the optimiser step after which training ends."""
        return self.schedule.total_steps if self.stop_step is None else self.stop_step

    rules = (
        FieldRule(
            "stopStep",
            "training would stop beyond the schedule",
            "use at most schedule.totalSteps, or raise that",
            lambda training: training.resolved_stop_step() <= training.schedule.total_steps,
            "!has(self.stopStep) || self.stopStep <= self.schedule.totalSteps",
        ),
    )
