"""The job: one file that a laptop and a cluster read alike, and what makes two jobs the same training.

`load.py` reads it and reports every violated rule with its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from unimrg_api.digests import sha256_of
from unimrg_api.fields import CelRule, Spec, Violation, path_of, resolve_uri
from unimrg_api.spec_platform import (
    OBJECT_NAME_PATTERN,
    CheckpointSpec,
    DataSpec,
    ImagesSpec,
    RunPolicySpec,
    ScenesSpec,
    SecretSpec,
    SourceSpec,
    StorageSpec,
    TrackingSpec,
    TrainerSpec,
)
from unimrg_api.spec_stages import SpatialSpec, StagesSpec
from unimrg_api.spec_training import (
    RECIPES,
    HarmonSamplingSpec,
    HarmonSpec,
    Method,
    ModelSpec,
    ObjectiveSpec,
    OptimizerSpec,
    Precision,
    TrainingSpec,
)
from unimrg_api.unions import CustomSpec, repeated, repeated_rule

__all__ = [
    "API_VERSION",
    "KIND",
    "CustomSpec",
    "HarmonSamplingSpec",
    "HarmonSpec",
    "ImagesSpec",
    "JobSpec",
    "Metadata",
    "Method",
    "OptimizerSpec",
    "Precision",
    "RunPolicySpec",
    "ScenesSpec",
    "SecretSpec",
    "SourceSpec",
    "SpatialSpec",
    "StorageSpec",
    "UniMRGJob",
    "path_of",
    "resolve_uri",
]

API_VERSION = "training.unimrg.dev/v1alpha1"
KIND = "UniMRGJob"

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
        for key, value in (self.labels or {}).items():
            if not _is_label_name(key):
                yield Violation("labels", f"{key!r} is not a valid label name", _LABEL_REMEDY, frozenset({"labels"}))
            if value and not (_LABEL_NAME.fullmatch(value) and len(value) <= 63):
                message = f"the label {key} cannot have the value {value[:63]!r}"
                yield Violation("labels", message, _LABEL_REMEDY, frozenset({"labels"}))
        annotations = self.annotations or {}
        for key in annotations:
            if not _is_label_name(key.lower()):
                message = f"{key!r} is not a valid annotation name"
                yield Violation("annotations", message, _LABEL_REMEDY, frozenset({"annotations"}))
        size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
        if size > _ANNOTATIONS_BYTES:
            message = f"all annotations have {size} bytes, and at most {_ANNOTATIONS_BYTES} are allowed"
            yield Violation("annotations", message, "shorten them", frozenset({"annotations"}))


_LABEL_REMEDY = "use at most 63 letters, digits, dashes, dots and underscores, with a letter or digit at both ends"


def _is_label_name(key: str) -> bool:
    """Whether this can be the name of a label: `name` or `domain/name`."""
    domain, slash, name = key.rpartition("/")
    right = len(domain) <= 253 and re.fullmatch(OBJECT_NAME_PATTERN[1:-1], domain) is not None
    return (right or not slash) and len(name) <= 63 and _LABEL_NAME.fullmatch(name) is not None


_METHOD_FAULTS: dict[Method, tuple[str, str]] = {
    "SFT": (
        "method SFT learns Understanding and nothing else",
        "leave objectives out, or use another method",
    ),
    "RecA": (
        "method RecA learns Pixel, with or without Understanding, and nothing else",
        "leave objectives out, or use another method",
    ),
    "UniMRG": (
        "method UniMRG needs Understanding and at least one map (Pixel, Depth, Segmentation) with a weight above zero",
        "add what is missing, or use method: SFT or RecA",
    ),
}
"""For each method: what is wrong with objectives that are not its own, and the remedy."""

_NAME = "(has(ENTRY.name) ? ENTRY.name : has(ENTRY.custom) ? ENTRY.custom : '')"
_WANTED = f"self.objectives.filter(item, !item.weight.matches('^[0.]+$')).map(item, {_NAME.replace('ENTRY', 'item')})"
"""In CEL: the names of the objectives with a weight above zero."""
_EACH_ONCE = repeated_rule("objectives", _NAME)
_LISTED_TWICE = f"!{_EACH_ONCE.rule}"


def _method_rule(method: Method, right: str) -> CelRule:
    """Return the twin of `_method_fault` for one method; like it, it passes where another rule fails.

    (`[value].all(name, …)` is how CEL gives a value a name.)
    """
    passed = f"self.method != '{method}' || !has(self.objectives) || {_LISTED_TWICE}"
    rule = f"{passed} || [{_WANTED}].all(wanted, size(wanted) == 0 || ({right}))"
    return CelRule(rule, "objectives", ": ".join(_METHOD_FAULTS[method]))


class JobSpec(Spec):
    """What a job wants."""

    image: Annotated[str, Field(pattern=r"^[!-~]+$", max_length=512)] | None = None
    """Container image. Absent: the one that the cluster's site profile names. `unimrg run` needs none."""
    model: ModelSpec
    """The model that is trained."""
    method: Method = "UniMRG"
    """SFT (understanding only), RecA (and reconstruction of the image), or UniMRG (and its depth and
    segmentation)."""
    objectives: Annotated[list[ObjectiveSpec], Field(min_length=1, max_length=8)] | None = None
    """Objectives and their weights, each once. Absent: those of `method`, each with weight 1."""
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
        return {objective.key: float(objective.weight) for objective in self.objectives}

    def violations(self) -> Iterator[Violation]:
        """Objectives are unique, not all without weight, and those of the method."""
        if self.objectives is None:
            return
        names = [objective.key for objective in self.objectives]
        places = [f"objectives[{index}]{field}" for index in range(len(names)) for field in ("", ".name", ".weight")]
        every = frozenset({"objectives", *places})
        yield from repeated("objectives", names, every)
        weights = self.resolved_objectives()
        if not any(float(objective.weight) for objective in self.objectives):
            yield Violation(
                "objectives",
                "the weights of all objectives are zero: there is nothing to learn",
                'give at least one of them a weight above zero, e.g. weight: "1"',
                every,
            )
        elif len(set(names)) == len(names):
            fault = _method_fault(self.method, {name for name, weight in weights.items() if weight})
            if fault is not None:
                yield Violation("objectives", *fault, every | {"method"})

    cel = (
        repeated_rule("objectives", _NAME, "!has(self.objectives) || {}"),
        CelRule(
            f"!has(self.objectives) || {_LISTED_TWICE} || size({_WANTED}) > 0",
            "objectives",
            "the weights of all objectives are zero: there is nothing to learn",
        ),
        _method_rule("SFT", "wanted == ['Understanding']"),
        _method_rule("RecA", "'Pixel' in wanted && wanted.all(name, name in ['Understanding', 'Pixel'])"),
        _method_rule("UniMRG", "'Understanding' in wanted && size(wanted) > 1"),
    )


def _method_fault(method: Method, wanted: set[str]) -> tuple[str, str] | None:
    """Return why these objectives (with a weight above zero) are not those of a method, and the remedy."""
    right = {
        "SFT": wanted == {"Understanding"},
        "RecA": "Pixel" in wanted and wanted <= {"Understanding", "Pixel"},
        "UniMRG": "Understanding" in wanted and len(wanted) > 1,
    }
    return None if right[method] else _METHOD_FAULTS[method]


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
        """Return the digest of what makes two jobs the same training on the data with `data_digest`.

        It covers model, data, objectives, batch, cohorts, optimiser, schedule, precision and seed, by value
        ("1e-5" and "0.00001" are the same); not the micro-batch, the stop step, or anything about where it
        runs. A prefix holds one digest only, see `checkpoint.uri`.
        """
        spec, training = self.spec, self.spec.training
        objectives = {name: weight for name, weight in spec.resolved_objectives().items() if weight}
        content: dict[str, Any] = {
            "model": {**spec.model.training_settings(), "init": spec.model.init},
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
