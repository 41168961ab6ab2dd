"""The job: one file that a laptop and a cluster read alike, and what makes two jobs the same training.

`load.py` reads it and reports every violated rule with its line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from unimrg_api.digests import sha256_of
from unimrg_api.fields import FieldRule, Spec, Violation
from unimrg_api.part_rules import part_rules
from unimrg_api.spec_benchmarks import EMBEDDED, BenchmarkSpec
from unimrg_api.spec_data import DataSpec
from unimrg_api.spec_model import HarmonSpec, Method, ModelSpec, OpenUniSpec, ShowOSpec
from unimrg_api.spec_platform import (
    OBJECT_NAME_PATTERN,
    PROFILED_STEPS,
    CheckpointSpec,
    QueueSpec,
    RunPolicySpec,
    StorageSpec,
    StrategyName,
    TrackingSpec,
    TrainerSpec,
)
from unimrg_api.spec_stages import StagesSpec
from unimrg_api.spec_training import ObjectiveSpec, Recompute, SelectionSpec, TrainingSpec
from unimrg_api.unions import each_once

API_VERSION = "training.unimrg.dev/v1alpha1"
KIND = "UniMRGJob"
SWEEP_KIND = "UniMRGSweep"
"""Kind of the file that `unimrg sweep` takes."""

DIVIDING = ("FSDP2", "ZeRO3")
"""Strategies that leave each process with a part of the weights."""
ZERO = ("ZeRO1", "ZeRO2", "ZeRO3")
"""Strategies that are DeepSpeed's."""

NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAMESPACE_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_LABEL_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_ANNOTATIONS_BYTES = 256 << 10
_Text = Annotated[str, Field(max_length=_ANNOTATIONS_BYTES)]
_Texts = Annotated[dict[str, _Text], Field(max_length=_ANNOTATIONS_BYTES)]
"""Labels or annotations. API servers bound the bytes of annotations, and nothing narrower here refuses what a cluster
has accepted."""


class Metadata(Spec):
    """Name, labels and annotations of a job."""

    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=40)]
    """Lower-case letters, digits and dashes, from a letter on. At most 40 characters, so that the names of
    pods, which are longer, stay within Kubernetes' 63."""
    namespace: Annotated[str, Field(pattern=NAMESPACE_PATTERN, max_length=63)] | None = None
    """Namespace on a cluster."""
    labels: _Texts | None = None
    """Labels on a cluster."""
    annotations: _Texts | None = None
    """Annotations on a cluster."""

    def violations(self) -> Iterator[Violation]:
        """Labels and annotations are such as every cluster takes; its API server checks that without our help."""
        wrong = {
            "labels": [
                key
                for key, value in (self.labels or {}).items()
                if not _is_label_name(key) or (value and not _is_label_name(f"a/{value}"))
            ],
            "annotations": [key for key in self.annotations or {} if not _is_label_name(key.lower())],
        }
        for path, keys in wrong.items():
            if keys:
                yield Violation(path, f"{keys[0]!r} is no valid name, or its value is not valid", _LABEL_REMEDY)


_LABEL_REMEDY = "use at most 63 letters, digits, dashes, dots and underscores, with a letter or digit at both ends"


def _is_label_name(key: str) -> bool:
    """Whether this can be the name of a label: `name` or `domain/name`."""
    domain, slash, name = key.rpartition("/")
    right = len(domain) <= 253 and re.fullmatch(OBJECT_NAME_PATTERN[1:-1], domain) is not None
    return (right or not slash) and len(name) <= 63 and _LABEL_NAME.fullmatch(name) is not None


_EACH_ONCE = each_once("objectives", ObjectiveSpec, "!has(self.objectives) || {}")


def _method_rule(method: Method, message: str, remedy: str, right: Callable[[set[str]], bool], cel: str) -> FieldRule:
    """Return what a method asks of the objectives with a weight above zero, where each is named once.

    (`[value].all(wanted, …)` is how CEL gives a value the name `wanted`.)
    """

    def holds(spec: JobSpec) -> bool:
        wanted = {entry.key for entry in spec.objectives or () if float(entry.weight)}
        return spec.method != method or spec.objectives is None or not _EACH_ONCE.holds(spec) or right(wanted)

    key = ObjectiveSpec.key_in_cel("item")
    weighted = f"self.objectives.filter(item, !item.weight.matches('^[0.]+$')).map(item, {key})"
    passed = f"self.method != '{method}' || !has(self.objectives) || !({_EACH_ONCE.cel})"
    rule = f"{passed} || [{weighted}].all(wanted, {cel})"
    return FieldRule("objectives", f"method {method} {message}", remedy, holds, rule)


def _last_profile(spec: JobSpec) -> int:
    """Return the last step from which on all profiled ones are taken; below 1 where training has fewer."""
    return spec.training.resolved_stop_step() - PROFILED_STEPS + 1


def _profile_advice(spec: JobSpec) -> str:
    last = _last_profile(spec)
    return f"use at most {last}" if last > 0 else f"leave it out, or train {PROFILED_STEPS} steps"


class JobSpec(Spec):
    """What a job wants."""

    suspend: bool = False
    """Whether a cluster runs nothing of the job. Setting it lets what runs save a checkpoint within
    `checkpoint.graceSeconds` and end; unsetting it starts a new attempt, which goes on from there. May be changed."""
    image: Annotated[str, Field(pattern=r"^[!-~]+$", max_length=512)] | None = None
    """Container image. Absent: the one that the cluster's site profile names. `unimrg run` needs none."""
    backend: Literal["PyTorchJob", "JobSet"] | None = None
    """What a cluster makes of a stage with a pod on every node. PyTorchJob needs Kubeflow's Training Operator, JobSet
    the controller of that name. Absent: what the site profile says, PyTorchJob unless it says otherwise."""
    queue: QueueSpec | None = None
    """A queue of Kueue to wait in. Absent: nothing waits for quota. `unimrg run` has none."""
    model: ModelSpec
    """The model that is trained."""
    method: Method = "UniMRG"
    """SFT (understanding only), RecA (and reconstruction of the image), or UniMRG (and its depth and segmentation)."""
    objectives: Annotated[list[ObjectiveSpec], Field(min_length=1, max_length=8)] | None = None
    """Objectives and their weights, each once. Absent: those of `method`, each with weight 1."""
    training: TrainingSpec = TrainingSpec.model_construct()
    """How the model is trained."""
    trainer: TrainerSpec = TrainerSpec.model_construct()
    """The processes that train."""
    data: DataSpec = DataSpec.model_construct()
    """What is trained on."""
    storage: StorageSpec = StorageSpec.model_construct()
    """The object store behind `s3://`."""
    checkpoint: CheckpointSpec
    """Where and when the state of training is kept."""
    tracking: TrackingSpec = TrackingSpec.model_construct()
    """Where losses and scores are recorded."""
    stages: StagesSpec = StagesSpec.model_construct()
    """What happens around training."""
    run_policy: RunPolicySpec = RunPolicySpec.model_construct()
    """When an attempt is given up."""

    def resolved_objectives(self) -> dict[str, float]:
        """Return the weight of each objective, in the order of the job or of the method's recipe."""
        if self.objectives is None:
            return {name: float(weight) for name, weight in self.model.recipe(self.method).items()}
        return {objective.key: float(objective.weight) for objective in self.objectives}

    def selection(self) -> SelectionSpec | None:
        """Return the metric that selects checkpoints; None: the held-out loss does, or nothing."""
        return None if self.training.early_stop is None else self.training.early_stop.benchmark

    def resolved_recompute(self) -> Recompute:
        """Return which activations are computed again in the backward."""
        return self.training.recompute or ("Nothing" if self.model.published is None else "Blocks")

    def resolved_strategy(self, processes: int | None = None) -> StrategyName:
        """Return how training is spread over `processes`, those of the job unless said (docs/method/strategies.md)."""
        trainer = self.trainer
        if trainer.strategy is not None:
            return trainer.strategy
        alone = (trainer.processes if processes is None else processes) == 1
        if alone or trainer.gpus_per_node == 0 or self.model.published is None or self.training.precision == "FP64":
            return "DDP"
        return "ZeRO1" if trainer.nodes == 1 else "FSDP2"

    @property
    def trains(self) -> bool:
        """Whether anything is trained; otherwise the initial weights are evaluated."""
        return self.stages.train.mode == "Always"

    rules = (
        _EACH_ONCE,
        FieldRule(
            "data.shards",
            "there is no data to train on, or no prefix for what data.sources describe",
            "name the prefix of a data set, e.g. [s3://bucket/data]",
            lambda spec: bool(spec.data.shards) or (not spec.trains and spec.data.sources is None),
            "size(self.data.shards) > 0 || (self.stages.train.mode == 'Never' && !has(self.data.sources))",
        ),
        FieldRule(
            "stages.evaluate.benchmarks",
            "nothing would be evaluated: the job does not train, and has no data that these could ask about",
            "name a suite or a benchmark that brings its own questions, or data.shards",
            lambda spec: (
                spec.trains
                or bool(spec.data.shards)
                or any(entry.key not in EMBEDDED for _, entry in spec.stages.evaluate.all_benchmarks())
            ),
            "self.stages.train.mode != 'Never' || size(self.data.shards) > 0 || has(self.stages.evaluate.suite) || "
            f"self.stages.evaluate.benchmarks.exists(one, {' && '.join(f'!has(one.{name})' for name in EMBEDDED)})",
        ),
        FieldRule(
            "training.earlyStop.benchmark.name",
            "no entry of stages.evaluate.benchmarks has this name",
            "name one that is, and give it a limit, for it is asked many times",
            lambda spec: (
                (selection := spec.selection()) is None
                or any(entry.key == selection.name for entry in spec.stages.evaluate.benchmarks)
            ),
            "!has(self.training.earlyStop) || !has(self.training.earlyStop.benchmark) || "
            f"self.stages.evaluate.benchmarks.exists(one, {BenchmarkSpec.key_in_cel('one')} == "
            "self.training.earlyStop.benchmark.name)",
        ),
        FieldRule(
            "training.earlyStop.benchmark",
            "a benchmark within training needs the whole weights in every process, and several nodes may divide them",
            "set trainer.strategy to DDP, ZeRO1 or ZeRO2, or leave benchmark out, for the held-out loss",
            lambda spec: (
                spec.selection() is None
                or (
                    spec.trainer.strategy not in DIVIDING
                    if spec.trainer.strategy is not None
                    else spec.trainer.nodes == 1 or spec.trainer.gpus_per_node == 0
                )
            ),
            "!has(self.training.earlyStop) || !has(self.training.earlyStop.benchmark) || (has(self.trainer.strategy) ? "
            f"!(self.trainer.strategy in {list(DIVIDING)}) : self.trainer.nodes == 1 || self.trainer.gpusPerNode == 0)",
        ),
        FieldRule(
            "trainer.strategy",
            "DeepSpeed's ZeRO keeps weights and moments in float32, and training.precision is FP64",
            "use DDP or FSDP2, or another precision",
            lambda spec: spec.training.precision != "FP64" or (spec.trainer.strategy or "") not in ZERO,
            "self.training.precision != 'FP64' || !has(self.trainer.strategy) || "
            "!self.trainer.strategy.startsWith('ZeRO')",
        ),
        FieldRule(
            "training.composition",
            "PackedFlex needs GPUs (trainer.gpusPerNode) and a precision other than FP64",
            "use Packed, which takes what there is",
            lambda spec: (
                spec.training.composition != "PackedFlex"
                or (spec.trainer.gpus_per_node > 0 and spec.training.precision != "FP64")
            ),
            "self.training.composition != 'PackedFlex' || "
            "(self.trainer.gpusPerNode > 0 && self.training.precision != 'FP64')",
        ),
        FieldRule(
            "training.batch.imageSharing",
            "this family has no use for All: its questions and maps read an image differently, so nothing is shared",
            "use Generation",
            lambda spec: (
                spec.training.batch.image_sharing != "All" or (spec.model.openuni is None and spec.model.showo is None)
            ),
            "self.training.batch.imageSharing != 'All' || (!has(self.model.openuni) && !has(self.model.showo))",
        ),
        FieldRule(
            "training.earlyStop.everySteps",
            "there is no checkpoint of every step that is measured",
            "use a multiple of checkpoint.everySteps",
            lambda spec: (
                spec.training.early_stop is None
                or spec.training.early_stop.every_steps % spec.checkpoint.every_steps == 0
            ),
            "!has(self.training.earlyStop) || self.checkpoint.everySteps < 1 || "
            "self.training.earlyStop.everySteps % self.checkpoint.everySteps == 0",
        ),
        *part_rules("Harmon", "harmon", HarmonSpec),
        *part_rules("OpenUni", "openuni", OpenUniSpec),
        *part_rules("Show-o", "showo", ShowOSpec),
        FieldRule(
            "trainer.diagnostics.profileStep",
            f"training ends before {PROFILED_STEPS} steps from there on are taken",
            f"use at most training.stopStep (or schedule.totalSteps) - {PROFILED_STEPS - 1}",
            lambda spec: (step := spec.trainer.diagnostics.profile_step) is None or step <= _last_profile(spec),
            "!has(self.trainer.diagnostics.profileStep) || "
            f"self.trainer.diagnostics.profileStep + {PROFILED_STEPS - 1} <= "
            "(has(self.training.stopStep) ? self.training.stopStep : self.training.schedule.totalSteps)",
            advice=_profile_advice,
        ),
        _method_rule(
            "SFT",
            "learns Understanding and nothing else",
            "leave objectives out, or use another method",
            lambda wanted: wanted == {"Understanding"},
            "wanted == ['Understanding']",
        ),
        _method_rule(
            "RecA",
            "learns Pixel, with or without Understanding, and nothing else",
            "leave objectives out, or use another method",
            lambda wanted: "Pixel" in wanted and wanted <= {"Understanding", "Pixel"},
            "'Pixel' in wanted && wanted.all(name, name in ['Understanding', 'Pixel'])",
        ),
        _method_rule(
            "UniMRG",
            "needs Understanding and at least one map (Pixel, Depth, Segmentation) with a weight above zero",
            "add what is missing, or use method: SFT or RecA",
            lambda wanted: "Understanding" in wanted and len(wanted) > 1,
            "'Understanding' in wanted && size(wanted) > 1",
        ),
    )


class UniMRGJob(Spec):
    """A training of a unified multimodal model."""

    api_version: Literal["training.unimrg.dev/v1alpha1"]
    """Version of this format."""
    kind: Literal["UniMRGJob"]
    """Kind of the object."""
    metadata: Metadata
    """Name, labels and annotations of the job."""
    spec: JobSpec
    """What the job wants."""

    def training_digest(self, data_digest: str) -> str:
        """Return the digest of what makes two jobs the same training on the data with `data_digest`."""
        return sha256_of(self.trained_values(data_digest))

    def trained_values(self, data_digest: str) -> dict[str, Any]:
        """Return what makes two jobs the same training on the data with `data_digest`, by field.

        It covers model, data, objectives, batch, cohorts, optimiser, schedule, parts, what a spike is, precision and
        seed, by value ("1e-5" and "0.00001" are the same); not the micro-batch, the composition, the stop step, or
        anything about where it runs. A prefix holds one digest only, see `checkpoint.uri`. Two fields are in it only
        where they are set: a metric that selects checkpoints, whose scores do not compare with losses, and that nothing
        is trained.
        """
        spec, training = self.spec, self.spec.training
        further: dict[str, Any] = {}
        if (selection := spec.selection()) is not None:
            further["earlyStop"] = {"benchmark": selection.model_dump(by_alias=True)}
        if not spec.trains:
            further["stages"] = {"train": spec.stages.train.model_dump(by_alias=True)}
        objectives = {name: weight for name, weight in spec.resolved_objectives().items() if weight}
        return {
            "model": {**spec.model.training_settings(), "init": spec.model.init},
            "data": data_digest,
            "objectives": objectives,
            "batch": training.batch.model_dump(by_alias=True, exclude={"micro_batch_rows"}),
            "optimizer": {name: float(value) for name, value in training.optimizer.model_dump(by_alias=True).items()},
            "schedule": training.schedule.model_dump(by_alias=True),
            "parts": {p.name: scale for p in training.parts if (scale := float(p.learning_rate_scale)) != 1},
            "guard": training.guard.spikes(),
            "precision": training.precision,
            "prompts": training.prompts,
            "seed": training.seed,
            **further,
        }
