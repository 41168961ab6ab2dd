"""The job: one file that a laptop and a cluster read alike, and what makes two jobs the same training.

The rules hold wherever a job is made; `load.py` turns their breach into words with a place in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from unimrg_api.digests import sha256_of
from unimrg_api.fields import Spec, Violation, path_of, resolve_uri
from unimrg_api.spec_platform import (
    CheckpointSpec,
    DataSpec,
    MlflowSpec,
    RunPolicySpec,
    ScenesSpec,
    SecretSpec,
    SourceSpec,
    StorageSpec,
    TrackingSpec,
    TrainerSpec,
    VolumeSpec,
)
from unimrg_api.spec_stages import EvaluateSpec, SamplesSpec, StagesSpec
from unimrg_api.spec_training import (
    RECIPES,
    BatchSpec,
    Method,
    ModelSpec,
    ObjectiveName,
    ObjectiveSpec,
    OptimizerSpec,
    Precision,
    ScheduleSpec,
    TrainingSpec,
    Variant,
)

__all__ = [
    "API_VERSION",
    "KIND",
    "BatchSpec",
    "CheckpointSpec",
    "DataSpec",
    "EvaluateSpec",
    "JobSpec",
    "Metadata",
    "Method",
    "MlflowSpec",
    "ModelSpec",
    "ObjectiveName",
    "ObjectiveSpec",
    "OptimizerSpec",
    "Precision",
    "RunPolicySpec",
    "SamplesSpec",
    "ScenesSpec",
    "ScheduleSpec",
    "SecretSpec",
    "SourceSpec",
    "StagesSpec",
    "StorageSpec",
    "TrackingSpec",
    "TrainerSpec",
    "TrainingSpec",
    "UniMRGJob",
    "Variant",
    "VolumeSpec",
    "path_of",
    "resolve_uri",
]

API_VERSION = "training.unimrg.dev/v1alpha1"
KIND = "UniMRGJob"

_MapKey = Annotated[str, Field(min_length=1, max_length=317)]


class Metadata(Spec):
    """Name and marks of a job."""

    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
    """Lower-case letters, digits and dashes, from a letter on. At most 40 characters, so that the names of
    pods, which are longer, stay within Kubernetes' 63."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)] | None = None
    """Namespace on a cluster."""
    labels: Annotated[dict[_MapKey, Annotated[str, Field(max_length=63)]], Field(max_length=64)] | None = None
    """Labels on a cluster."""
    annotations: Annotated[dict[_MapKey, Annotated[str, Field(max_length=65_536)]], Field(max_length=64)] | None = None
    """Annotations on a cluster."""


class JobSpec(Spec):
    """What a job wants."""

    image: Annotated[str, Field(pattern=r"^\S+$", max_length=512)] | None = None
    """Container image. Absent: the one that the cluster's site profile names. `unimrg run` needs none."""
    model: ModelSpec
    """The model that is trained."""
    method: Method = "UniMRG"
    """SFT (understanding only), RecA (and reconstruction of the image), or UniMRG (and its depth and
    segmentation)."""
    objectives: Annotated[list[ObjectiveSpec], Field(min_length=1, max_length=8)] | None = None
    """Objectives and their weights. Absent: those of `method`, each with weight 1."""
    training: TrainingSpec = TrainingSpec()
    """How the model is trained."""
    trainer: TrainerSpec = TrainerSpec()
    """The processes that train."""
    data: DataSpec
    """What is trained on."""
    storage: StorageSpec = StorageSpec()
    """The object store behind `s3://`."""
    checkpoint: CheckpointSpec
    """Where and when the state of training is kept."""
    tracking: TrackingSpec = TrackingSpec()
    """Where losses and scores are recorded."""
    stages: StagesSpec = StagesSpec()
    """What happens around training."""
    run_policy: RunPolicySpec = RunPolicySpec()
    """When an attempt is given up."""

    def resolved_objectives(self) -> dict[str, float]:
        """Return the weight of each objective, in the order of the job or of the method's recipe."""
        if self.objectives is None:
            return {name: float(weight) for name, weight in RECIPES[self.method].items()}
        return {objective.name: float(objective.weight) for objective in self.objectives}

    def violations(self) -> Iterator[Violation]:
        """Objectives are unique, not all without weight, and those of the method."""
        if self.objectives is None:
            return
        names = [objective.name for objective in self.objectives]
        every = {f"objectives[{index}].{field}" for index in range(len(names)) for field in ("name", "weight")}
        for index, name in enumerate(names):
            first = names.index(name)
            if first < index:
                yield Violation(
                    f"objectives[{index}].name",
                    f"the objective {name} is listed twice (first in objectives[{first}])",
                    "list each objective once and put its whole weight there",
                    frozenset({f"objectives[{first}].name", f"objectives[{index}].name"}),
                )
        weights = self.resolved_objectives()
        if not any(float(objective.weight) for objective in self.objectives):
            yield Violation(
                "objectives",
                "the weights of all objectives are zero: there is nothing to learn",
                'give at least one of them a weight above zero, e.g. weight: "1"',
                frozenset({"objectives", *every}),
            )
        elif len(set(names)) == len(names):
            fault = _method_fault(self.method, {name for name, weight in weights.items() if weight})
            if fault is not None:
                yield Violation("objectives", *fault, frozenset({"objectives", "method", *every}))


def _method_fault(method: Method, wanted: set[str]) -> tuple[str, str] | None:
    """Return why these objectives (with a weight above zero) are not those of a method, and the remedy."""
    if method == "SFT" and wanted != {"Understanding"}:
        return "method SFT learns Understanding and nothing else", "leave objectives out, or use another method"
    if method == "RecA" and ("Pixel" not in wanted or wanted - {"Understanding", "Pixel"}):
        return (
            "method RecA learns Pixel, with or without Understanding, and nothing else",
            "leave objectives out, or use another method",
        )
    if method == "UniMRG" and ("Understanding" not in wanted or len(wanted) < 2):
        return (
            "method UniMRG needs Understanding and at least one of Pixel, Depth, Segmentation with a weight above zero",
            "add what is missing, or use method: SFT or RecA",
        )
    return None


class UniMRGJob(Spec):
    """A training of a unified multimodal model."""

    api_version: Literal["training.unimrg.dev/v1alpha1"]
    """Version of this format."""
    kind: Literal["UniMRGJob"]
    """Kind of the object."""
    metadata: Metadata
    """Name and marks of the job."""
    spec: JobSpec
    """What the job wants."""

    def training_digest(self, data_digest: str) -> str:
        """Return the digest of what makes two jobs the same training on the data with `data_digest`.

        It covers model, data, objectives, batch, cohorts, optimiser, schedule, precision and seed, by value
        ("1e-5" and "0.00001" are the same); not the micro-batch, the stop step, or anything about where it
        runs. A prefix holds one digest only, see `checkpoint.uri`.
        """
        spec, training = self.spec, self.spec.training
        objectives = {name: weight for name, weight in spec.resolved_objectives().items() if weight}
        content: dict[str, Any] = {
            "model": {
                "name": spec.model.name,
                "variant": spec.model.variant,
                "init": spec.model.init,
                "dropout": float(spec.model.dropout),
            },
            "data": data_digest,
            "objectives": objectives,
            "batch": {
                "rowsPerObjective": training.batch.rows_per_objective,
                "cohortRows": training.batch.cohort_rows,
            },
            "optimizer": {name: float(value) for name, value in training.optimizer.model_dump(by_alias=True).items()},
            "schedule": training.schedule.model_dump(by_alias=True),
            "precision": training.precision,
            "seed": training.seed,
        }
        return sha256_of(content)
