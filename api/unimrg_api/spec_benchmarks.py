"""The part of a job that says which benchmarks an evaluation has: one by one, or as a suite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from unimrg_api.fields import Spec, Uri
from unimrg_api.spec_maps import WeightsUri
from unimrg_api.unions import CustomSpec, OneOf

EntryUri = Annotated[Uri, Field(max_length=224)]
"""A URI of one of several entries with several URIs: an API server's budget for rules counts each of them."""
JudgeUri = Annotated[WeightsUri, Field(max_length=224)]
"""As `EntryUri`, or `hf://OWNER/NAME@COMMIT`."""
Limit = Annotated[int, Field(ge=1, le=1_000_000)]
ImagesPerPrompt = Annotated[int, Field(ge=1, le=64)]
RuleSet = Literal["Vk0020", "Vk202606"]
SuiteName = Literal["Quick", "Understanding", "Generation", "Paper"]


class SpatialSpec(Spec):
    """Questions about places, distances and order in held-out images."""

    questions: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Held-out questions to ask."""


class GeneratedMapsSpec(Spec):
    """Every map that the job trains, generated for held-out images and compared with the true one."""

    images: Annotated[int, Field(ge=1, le=1024)] = 64
    """Held-out images to generate maps of."""


class LimitedSpec(Spec):
    """A benchmark of which a part may be asked."""

    limit: Limit | None = None
    """Ask a fixed part alone: at most so many items, and never a part of what is scored together. Metrics are then
    named `dev/…`, for they are not the benchmark's. Absent: all."""


class AnswersSpec(LimitedSpec):
    """A benchmark of answers that are scored by rules as VLMEvalKit has them."""

    rule_set: RuleSet = "Vk0020"
    """How answers are read: as VLMEvalKit 0.0.20 does, or as it does since 2026-06-17. Scores of one are not comparable
    with those of the other."""


class PublishedTableSpec(AnswersSpec):
    """A published benchmark, a table of VLMEvalKit in the folder `files`."""

    any_file: bool = False
    """Take another file than the published one, whose MD5 is known; results say so."""


class TsvSpec(AnswersSpec):
    """A table of one's own in VLMEvalKit's form: tab-separated, with index, image, question, answer, and options."""

    file: EntryUri
    """The table."""
    kind: Literal["MultipleChoice", "YesNo"]
    """What its questions ask for: the letter of an option, or yes or no."""


class GenEvalSpec(LimitedSpec):
    """GenEval: objects, counts, colours and places in images generated from 553 short prompts."""

    images_per_prompt: ImagesPerPrompt = 4
    """Images of each prompt; the published tables of Harmon and Show-o have 12, those of OpenUni 4."""
    detector: JudgeUri | None = None
    """Weights of the object detector, a folder in the form of transformers' Mask2FormerForUniversalSegmentation.
    Absent: images are written and not scored."""
    colours: JudgeUri | None = None
    """Weights of the model that names colours, a folder in the form of transformers' CLIPModel. Absent: prompts about
    colours are not scored."""


class DpgBenchSpec(LimitedSpec):
    """DPG-Bench: questions about images generated from 1065 long prompts."""

    images_per_prompt: ImagesPerPrompt = 4
    """Images of each prompt."""
    judge: JudgeUri | None = None
    """Weights of the model that answers the questions, a folder in a form of transformers. Absent: images are written
    and not scored."""
    reference_compat: bool = False
    """Repeat the defects of the published script (docs/method/evaluation.md), for comparisons with its scores."""


class OutOfDomainDepthSpec(LimitedSpec):
    """Depth of images that are unlike those trained on, compared with that of a model made for it."""

    images: EntryUri
    """Folder of images."""
    weights: JudgeUri
    """The model that says what is true: as `data.maps.depth.depthAnything.weights`."""


class BenchmarkSpec(OneOf):
    """One benchmark with its settings."""

    members = (
        "spatial", "generatedMaps", "mmbench", "mmvp", "hallusionBench", "realWorldQa", "vsr", "tsv", "genEval",
        "dpgBench", "outOfDomainDepth", "custom",
    )  # fmt: skip

    spatial: SpatialSpec | None = None
    """Questions about places, distances and order in held-out images."""
    generated_maps: GeneratedMapsSpec | None = None
    """Every map that the job trains, generated for held-out images and compared with the true one."""
    mmbench: PublishedTableSpec | None = None
    """MMBench, English, development split: 1164 multiple-choice questions, each with its options in every rotation."""
    mmvp: PublishedTableSpec | None = None
    """MMVP: 150 pairs of images that encoders take for alike."""
    hallusion_bench: PublishedTableSpec | None = None
    """HallusionBench: 951 yes/no questions about illusions, charts and edited images."""
    real_world_qa: PublishedTableSpec | None = None
    """RealWorldQA: 765 multiple-choice questions about photographs."""
    vsr: PublishedTableSpec | None = None
    """Visual Spatial Reasoning, zero-shot test split: 1222 yes/no questions about where things are."""
    tsv: TsvSpec | None = None
    """A table of one's own in VLMEvalKit's form."""
    gen_eval: GenEvalSpec | None = None
    """GenEval."""
    dpg_bench: DpgBenchSpec | None = None
    """DPG-Bench."""
    out_of_domain_depth: OutOfDomainDepthSpec | None = None
    """Depth of images that are unlike those trained on."""
    custom: CustomSpec | None = None
    """A benchmark of an installed package, from the entry-point group `unimrg.benchmarks`."""


READS_FILES = ("mmbench", "mmvp", "hallusionBench", "realWorldQa", "vsr", "genEval", "dpgBench")
"""Benchmarks that read the folder `files`."""
EMBEDDED = ("spatial", "generatedMaps")
"""Benchmarks that need nothing but the job's data."""
BENCHMARK_URIS = (
    "tsv.file",
    "genEval.detector",
    "genEval.colours",
    "dpgBench.judge",
    "outOfDomainDepth.images",
    "outOfDomainDepth.weights",
)
"""Every URI of a benchmark, from `spec.stages.evaluate.benchmarks[…]` on."""

_ANSWERS: dict[str, dict[str, Any]] = {name: {} for name in ("mmbench", "mmvp", "hallusionBench", "realWorldQa", "vsr")}
SUITES: dict[str, dict[str, dict[str, Any]]] = {
    "Quick": {"mmvp": {}, "hallusionBench": {"limit": 300}, "vsr": {"limit": 300}},
    "Understanding": _ANSWERS,
    "Generation": {"genEval": {}, "dpgBench": {}},
    "Paper": {**_ANSWERS, "genEval": {"imagesPerPrompt": 12}, "dpgBench": {}},
}
"""Suite → benchmark → its settings."""


_QUESTIONS = {"mmbench": 4329, "mmvp": 300, "hallusionBench": 951, "realWorldQa": 765, "vsr": 1222}
_PROMPTS = {"genEval": 553, "dpgBench": 1065}


def requests_of(entry: BenchmarkSpec, maps: int) -> int | None:
    """Return how many answers or images a benchmark asks for at most, in a job that learns so many maps; None: not
    known."""
    name, settings = entry.selected()
    if entry.custom is not None:
        return None
    whole = {
        "spatial": settings.get("questions"),
        "generatedMaps": maps * settings.get("images", 0),
        **_QUESTIONS,
        **{one: prompts * settings.get("imagesPerPrompt", 0) for one, prompts in _PROMPTS.items()},
    }
    limits = [number for number in (whole.get(name), settings.get("limit")) if number is not None]
    return min(limits, default=None)


def suite_benchmarks(suite: str | None, given: Sequence[BenchmarkSpec]) -> list[BenchmarkSpec]:
    """Return the benchmarks that a suite adds to those that are `given`, which replace its own of the same name."""
    known = {entry.key for entry in given}
    settings = SUITES[suite] if suite is not None else {}
    return [BenchmarkSpec.model_validate({name: one}) for name, one in settings.items() if name not in known]
