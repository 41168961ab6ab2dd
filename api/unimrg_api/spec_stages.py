"""The part of a job that says what happens around training; today that is the evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from unimrg_api.fields import LIST_TYPE, CelRule, Rate, Spec, Violation

Benchmark = Literal["Spatial"]


class SamplesSpec(Spec):
    """The grid of generated images."""

    images: Annotated[int, Field(ge=0, le=64)] = 4
    """Images in the grid, each in every representation. 0: no grid."""
    steps: Annotated[int, Field(ge=1, le=1024)] = 32
    """Autoregressive steps in which an image's tokens are filled in."""
    diffusion_steps: Annotated[int, Field(ge=1, le=1000)] = 100
    """Denoising steps for each token."""
    guidance: Rate = "3.0"
    """Scale of classifier-free guidance, as a decimal string. "1" is none."""


class EvaluateSpec(Spec):
    """The evaluation after training."""

    mode: Literal["Always", "OnSuccess", "Never"] = "OnSuccess"
    """When to evaluate: whatever became of the training, only after it succeeded, or not at all."""
    benchmarks: Annotated[list[Benchmark], Field(max_length=16, json_schema_extra={LIST_TYPE: "set"})] = Field(
        default=["Spatial"]
    )
    """Benchmarks to run. `Spatial` asks about places, distances and order in held-out scenes."""
    held_out_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Held-out rows over which each objective's loss is measured."""
    questions: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Questions of each benchmark."""
    samples: SamplesSpec = SamplesSpec()
    """The grid of generated images."""

    def violations(self) -> Iterator[Violation]:
        """Names are unique, and an evaluation has something to run."""
        for index, name in enumerate(self.benchmarks):
            if name in self.benchmarks[:index]:
                message = f"the benchmark {name} is named twice"
                yield Violation(f"benchmarks[{index}]", message, "name each once", frozenset({"benchmarks"}))
        if self.mode != "Never" and not self.benchmarks:
            yield Violation(
                "benchmarks",
                f"the evaluation (mode {self.mode}) has no benchmark",
                "name one, e.g. [Spatial], or set mode: Never",
                frozenset({"benchmarks", "mode"}),
            )

    cel = (
        CelRule(
            "self.mode == 'Never' || size(self.benchmarks) > 0",
            "benchmarks",
            "the evaluation has no benchmark: name one, e.g. [Spatial], or set mode: Never",
            "Required",
        ),
    )


class StagesSpec(Spec):
    """What happens around training."""

    evaluate: EvaluateSpec = EvaluateSpec()
    """The evaluation after training."""
