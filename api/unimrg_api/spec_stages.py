"""The part of a job that says what happens around training; today that is the evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from unimrg_api.fields import Spec
from unimrg_api.unions import CustomSpec, OneOf, each_once


class SpatialSpec(Spec):
    """Questions about places, distances and order in held-out images."""

    questions: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Held-out questions to ask."""


class GeneratedMapsSpec(Spec):
    """Every map that the job trains, generated for held-out images and compared with the true one."""

    images: Annotated[int, Field(ge=1, le=1024)] = 64
    """Held-out images to generate maps of."""


class BenchmarkSpec(OneOf):
    """One benchmark with its settings."""

    members = ("spatial", "generatedMaps", "custom")

    spatial: SpatialSpec | None = None
    """Questions about places, distances and order in held-out images."""
    generated_maps: GeneratedMapsSpec | None = None
    """Every map that the job trains, generated for held-out images and compared with the true one."""
    custom: CustomSpec | None = None
    """A benchmark of an installed package, from the entry-point group `unimrg.benchmarks`."""


class EvaluateSpec(Spec):
    """The evaluation after training."""

    mode: Literal["Always", "OnSuccess", "Never"] = "OnSuccess"
    """When to evaluate: whatever became of the training, only after it succeeded, or not at all."""
    benchmarks: Annotated[list[BenchmarkSpec], Field(max_length=16)] = Field(
        default=[BenchmarkSpec.model_construct(spatial=SpatialSpec.model_construct())]
    )
    """Benchmarks to run, each once; losses of held-out rows are measured without any."""
    held_out_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Held-out rows over which each objective's loss is measured."""
    sample_images: Annotated[int, Field(ge=0, le=64)] = 4
    """Held-out images in the grid of samples, each with every map that the job trains. 0: no grid."""

    rules = (each_once("benchmarks", BenchmarkSpec),)


class StagesSpec(Spec):
    """What happens around training."""

    evaluate: EvaluateSpec = EvaluateSpec.model_construct()
    """The evaluation after training."""
