"""The part of a job that says what happens around training, and whether it trains at all."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from unimrg_api.fields import FieldRule, ShortUri, Spec
from unimrg_api.spec_benchmarks import READS_FILES, BenchmarkSpec, SpatialSpec, SuiteName, suite_benchmarks
from unimrg_api.unions import each_once


class TrainSpec(Spec):
    """The training itself."""

    mode: Literal["Always", "Never"] = "Always"
    """Whether the job trains. Never: only the evaluation runs, on the initial weights (`model.init`), e.g. to compare a
    published model with what is published about it."""


class EvaluateSpec(Spec):
    """The evaluation after training."""

    mode: Literal["Always", "OnSuccess", "Never"] = "OnSuccess"
    """When to evaluate: whatever became of the training, only after it succeeded, or not at all."""
    suite: SuiteName | None = None
    """Benchmarks that are run besides those of `benchmarks`; docs/method/evaluation.md lists them. An entry of
    `benchmarks` replaces the suite's of the same name."""
    benchmarks: Annotated[list[BenchmarkSpec], Field(max_length=12)] = Field(
        default=[BenchmarkSpec.model_construct(spatial=SpatialSpec.model_construct())]
    )
    """Benchmarks to run, each once; losses of held-out rows are measured without any."""
    files: ShortUri | None = None
    """Folder with the files of published benchmarks, which their owners publish: MMBench_DEV_EN.tsv, MMVP.tsv,
    HallusionBench.tsv, RealWorldQA.tsv, VSR-zeroshot.tsv, geneval/evaluation_metadata.jsonl,
    dpg_bench/dpg_bench.csv."""
    checkpoints: Literal["Chosen", "Kept"] = "Chosen"
    """Which checkpoints the benchmarks are put to: the newest, or with `training.earlyStop` the best, or besides it
    every other one that is still kept when training ends."""
    held_out_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Held-out rows over which each objective's loss is measured."""
    sample_images: Annotated[int, Field(ge=0, le=64)] = 4
    """Held-out images in the grid of samples, each with every map that the job trains. 0: no grid."""

    def all_benchmarks(self) -> list[tuple[str, BenchmarkSpec]]:
        """Return every benchmark that is run, those of the suite last, each with the field that asks for it."""
        entries = [(f"benchmarks[{index}]", entry) for index, entry in enumerate(self.benchmarks)]
        entries += [("suite", entry) for entry in suite_benchmarks(self.suite, self.benchmarks)]
        return [(f"spec.stages.evaluate.{place}", entry) for place, entry in entries]

    def reads_files(self) -> bool:
        """Whether any benchmark reads the folder `files`."""
        built_in = [entry.key for entry in self.benchmarks if entry.custom is None]
        return self.suite is not None or any(name in READS_FILES for name in built_in)

    rules = (
        each_once("benchmarks", BenchmarkSpec),
        FieldRule(
            "files",
            "is needed for the suite and for benchmarks that are published as files, and is absent",
            "name the folder that has their files; docs/method/evaluation.md says where they are from",
            lambda spec: spec.files is not None or not spec.reads_files(),
            "has(self.files) || (!has(self.suite) && !self.benchmarks.exists(one, "
            f"{' || '.join(f'has(one.{name})' for name in READS_FILES)}))",
        ),
    )


class StagesSpec(Spec):
    """What happens around training."""

    train: TrainSpec = TrainSpec.model_construct()
    """The training itself."""
    evaluate: EvaluateSpec = EvaluateSpec.model_construct()
    """The evaluation after training."""

    rules = (
        FieldRule(
            "evaluate.mode",
            "nothing would run: the job neither trains nor evaluates",
            "use OnSuccess, or stages.train.mode: Always",
            lambda stages: stages.train.mode != "Never" or stages.evaluate.mode != "Never",
            "self.train.mode != 'Never' || self.evaluate.mode != 'Never'",
        ),
    )
