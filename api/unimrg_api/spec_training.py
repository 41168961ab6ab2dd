"""The part of a job that says how the model is trained: objectives, batch, optimiser, schedule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from unimrg_api.fields import FieldRule, Fraction, PositiveRate, Rate, Spec, Weight
from unimrg_api.spec_model import ObjectiveName
from unimrg_api.unions import CUSTOM_PATTERN, CustomName, OneOf

Precision = Literal["FP32", "BF16", "FP64"]
Composition = Literal["Packed", "PackedGrouped", "PackedFlex", "Official"]
ImageSharing = Literal["Generation", "All"]
Recompute = Literal["Nothing", "FeedForward", "Blocks"]
Prompts = Literal["Listed", "Canonical"]

METRIC_PATTERN = r"^[A-Za-z0-9_. :/-]+$"
MAXIMUM_STEPS = 10_000_000
MAXIMUM_ROWS = 65_536


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
    image_sharing: ImageSharing = "Generation"
    """Which rows of a step are about the same images. `Generation`: those of all maps, as published; questions come in
    an order of their own. `All`: each question is about an image that the step generates too, so that packed rows read
    it once; images that are not square are padded to a square. It needs a question about every image, and a family
    whose questions and maps can share an image, as Harmon's."""

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
    """Learning rate over time: linear warm-up, then as `kind` says."""

    kind: Literal["Cosine", "Constant"] = "Cosine"
    """After the warm-up: half a cosine down to zero at `totalSteps`, as published, or the peak throughout."""
    warmup_steps: Annotated[int, Field(ge=0, le=MAXIMUM_STEPS)] = 25
    """Optimiser steps until the learning rate reaches its peak."""
    total_steps: Annotated[int, Field(ge=1, le=MAXIMUM_STEPS)] = 2500
    """Optimiser steps of the whole schedule; at its end the cosine is zero."""

    rules = (
        FieldRule(
            "warmupSteps",
            "the warm-up does not end within the schedule",
            "use at most totalSteps, or raise that",
            lambda schedule: schedule.warmup_steps <= schedule.total_steps,
            "self.warmupSteps <= self.totalSteps",
        ),
    )


class PartSpec(Spec):
    """A part of the model that learns at a rate of its own, or not at all."""

    name: Annotated[str, Field(pattern=CUSTOM_PATTERN, max_length=63)]
    """A part of the model's family, e.g. LanguageModel; docs/families.md lists them, and so does the refusal of any
    other name."""
    learning_rate_scale: Weight
    """Factor of the learning rate for this part, as a decimal string. "0" freezes it: it has no gradients and no
    optimiser state."""


class GuardSpec(Spec):
    """Which steps are skipped: those whose loss or gradient norm is not finite and, where asked for, spikes.

    A skipped step changes no weight and no moment; schedule and data go on.
    """

    skip_budget: Annotated[int, Field(ge=0, le=MAXIMUM_STEPS)] = 10
    """Steps of the whole training that may be skipped; one more ends it (exit code 82)."""
    spike_threshold: PositiveRate | None = None
    """Robust standard deviations (of the median absolute deviation) above the median of the last `spikeWindow` steps,
    beyond which a loss or gradient norm is a spike, as a decimal string; "6" is usual. Absent: none, as published."""
    spike_window: Annotated[int, Field(ge=8, le=4096)] = 128
    """Steps that a spike is compared with; before there are so many, nothing is a spike."""

    def spikes(self) -> list[float]:
        """Return what decides which steps are trained; the budget only decides when training is given up."""
        return [] if self.spike_threshold is None else [float(self.spike_threshold), self.spike_window]


class SelectionSpec(Spec):
    """A metric of a benchmark; more is better."""

    name: CustomName
    """The benchmark: one of `stages.evaluate.benchmarks`, asked as it says there."""
    metric: Annotated[str, Field(pattern=METRIC_PATTERN, max_length=128)]
    """Its metric, by the name that results give it, e.g. acc or acc_question."""


class EarlyStopSpec(Spec):
    """Ends training once a measurement does not get better any more; the best checkpoint is kept, and evaluated.

    It is the loss of the evaluation, over `stages.evaluate.heldOutRows` rows, or a benchmark's metric; all ranks
    measure it together.
    """

    every_steps: Annotated[int, Field(ge=1, le=MAXIMUM_STEPS)]
    """Optimiser steps between two measurements: a multiple of `checkpoint.everySteps`, so that what was measured can be
    kept."""
    patience: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Measurements in a row that are worse than the best one, after which training ends."""
    benchmark: SelectionSpec | None = None
    """What is measured. Absent: the loss on held-out rows. A benchmark has to have a `limit`, or few questions."""

    def measured(self, score: float) -> str:
        """Return what a checkpoint's score, the lowest of all, says to people."""
        if self.benchmark is None:
            return f"held-out loss {score:.4g}, the lowest"
        return f"{self.benchmark.name} {self.benchmark.metric} {-score:.4g}, the highest"


class TrainingSpec(Spec):
    """How the model is trained."""

    batch: BatchSpec = BatchSpec.model_construct()
    """Rows of a step."""
    optimizer: OptimizerSpec = OptimizerSpec.model_construct()
    """AdamW's numbers."""
    schedule: ScheduleSpec = ScheduleSpec.model_construct()
    """Learning rate over time."""
    parts: Annotated[list[PartSpec], Field(max_length=16)] = Field(default=[])
    """Parts of the model with a learning rate of their own, or frozen, each once. All others train at the schedule's
    rate, as published."""
    guard: GuardSpec = GuardSpec.model_construct()
    """Which steps are skipped: with a loss or gradient that is non-finite or a spike."""
    stop_step: Annotated[int, Field(ge=1, le=MAXIMUM_STEPS)] | None = None
    """Optimiser step after which training ends. Absent: `schedule.totalSteps`. Less than that stops within
    the schedule, as the paper does, which reports step 1000 of 2500."""
    prompts: Prompts = "Listed"
    """What asks for a map in training. `Listed`: a wording drawn from the map's list, or, for its share of the rows, a
    request that names nothing, for guidance. `Canonical`: always the one that inference uses, which a run of few steps
    learns sooner; guidance then has nothing to compare with."""
    precision: Precision = "BF16"
    """Number format of the computation; weights and optimiser state are at least FP32."""
    composition: Composition = "Packed"
    """How the rows of a forward are laid out; up to rounding and dropout it changes nothing else. `Packed`: in one
    sequence, rows of one image share its tokens; `PackedGrouped` on CPUs, `PackedFlex` on GPUs, which are two ways to
    compute attention. `Official`: every row a sequence of its own, as published."""
    recompute: Recompute | None = None
    """Activations that are computed again in the backward instead of being held: those of the feed-forward networks,
    or all of every block. It changes nothing else. Absent: `Blocks` for published sizes, as published, `Nothing` for
    others."""
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 42
    """Root of all randomness: initial weights, order, masks, noise, dropout."""

    early_stop: EarlyStopSpec | None = None
    """When to end before `stopStep`. Absent: never."""

    def resolved_stop_step(self) -> int:
        """Return the optimiser step after which training ends."""
        return self.schedule.total_steps if self.stop_step is None else self.stop_step

    rules = (
        FieldRule(
            "parts",
            "two entries have the same name",
            "name each once",
            lambda training: len({part.name for part in training.parts}) == len(training.parts),
            "self.parts.all(one, self.parts.exists_one(other, other.name == one.name))",
        ),
        FieldRule(
            "stopStep",
            "training would stop beyond the schedule",
            "use at most schedule.totalSteps, or raise that",
            lambda training: training.resolved_stop_step() <= training.schedule.total_steps,
            "!has(self.stopStep) || self.stopStep <= self.schedule.totalSteps",
        ),
    )
