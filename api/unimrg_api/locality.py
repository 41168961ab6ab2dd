"""What a cluster refuses although a laptop takes it: as problems with a remedy, and as rules for an API server."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from unimrg_api.errors import Problem
from unimrg_api.explain import show
from unimrg_api.fields import FieldRule
from unimrg_api.introspection import parse_location, value_at
from unimrg_api.job import JobSpec, UniMRGJob
from unimrg_api.spec_benchmarks import BENCHMARK_URIS
from unimrg_api.spec_maps import PRODUCERS
from unimrg_api.spec_platform import MAXIMUM_GPUS, MAXIMUM_NODES, MAXIMUM_PROCESSES, mounted_in_cel
from unimrg_api.spec_sources import SOURCE_URIS

_UPWARDS = r"(^|/|%2[fF])([.]|%2[eE]){2}($|/|%2[fF])"
"""A part of a URI that leads out of its folder, in Python's and Go's regular expressions alike."""


def cluster_problems(job: UniMRGJob) -> list[Problem]:
    """Return everything that a cluster refuses about a job that is right by itself.

    Paths are those that an API server names for the same job.
    """
    found = [rule.violation(job.spec) for rule in CLUSTER_RULES if not rule.holds(job.spec)]
    values = job.spec.model_dump(mode="json", by_alias=True, exclude_none=True) if found else {}
    shown = [value_at(values, parse_location(item.path)) for item in found]
    return [
        Problem(f"spec.{item.path}", "" if value is None else show(value), item.message, item.remedy)
        for item, value in zip(found, shown, strict=True)
    ]


def cluster_notes(job: UniMRGJob) -> list[str]:
    """Return one sentence for each reason why a job that is right runs on one machine only."""
    places: dict[tuple[str, str], list[str]] = {}
    for problem in cluster_problems(job):
        places.setdefault((problem.message, problem.remedy), []).append(problem.path)
    return [
        f"a cluster would refuse {', '.join(paths)}: {message}; {remedy}" for (message, remedy), paths in places.items()
    ]


def _below(uri: str, mount_path: str) -> bool:
    return f"{uri}/".startswith(f"file://{mount_path}/")


def _is_found(spec: JobSpec, uri: str) -> bool:
    """Whether a URI means the same in every pod: in an object store, or on a volume that all of them mount."""
    mounted = any(_below(uri, volume.mount_path) for volume in spec.trainer.volumes)
    return not uri.startswith("file://") or (mounted and not re.search(_UPWARDS, uri))


def _is_writable(spec: JobSpec, uri: str) -> bool:
    return not any(_below(uri, volume.mount_path) and volume.read_only == "Always" for volume in spec.trainer.volumes)


def _uri_rules(
    path: str, uris: Callable[[JobSpec], Iterable[str]], guard: str, uri: str
) -> tuple[FieldRule, FieldRule]:
    """Return the rules for files at a path and for what is written there; in CEL, `guard` asks {} of each `uri`."""
    mounted, below = mounted_in_cel("volume"), f"({uri} + '/').startsWith('file://' + volume.mountPath + '/')"
    found = f"!{uri}.matches('{_UPWARDS}') && self.trainer.volumes.exists(volume, !{mounted} || {below})"
    locked = f"self.trainer.volumes.exists(volume, volume.readOnly == 'Always' && {mounted} && {below})"
    return (
        FieldRule(
            path,
            "a file:// URI works on a cluster only if it is absolute, without .., and below a volume's mountPath",
            "use s3://, or mount a PersistentVolumeClaim in spec.trainer.volumes and name a path on it",
            lambda spec: all(_is_found(spec, item) for item in uris(spec)),
            guard.format(f"!{uri}.startsWith('file://') || ({found})"),
        ),
        FieldRule(
            path,
            "lies on a volume that is mounted for reading only, and is written to",
            "use another volume, or set its readOnly: Never",
            lambda spec: all(_is_writable(spec, item) for item in uris(spec)),
            guard.format(f"!{locked}"),
        ),
    )


_SHARDS = _uri_rules("data.shards", lambda spec: spec.data.shards, "self.data.shards.all(uri, {})", "uri")
_PREPARED = _uri_rules(
    "data.shards",
    lambda spec: [] if spec.data.sources is None else spec.data.shards,
    "!has(self.data.sources) || self.data.shards.all(uri, {})",
    "uri",
)
_INIT = _uri_rules(
    "model.init",
    lambda spec: [] if spec.model.init is None else [spec.model.init],
    "!has(self.model.init) || {}",
    "self.model.init",
)
_ASSETS = _uri_rules(
    "model.assets",
    lambda spec: [] if spec.model.assets is None else [spec.model.assets],
    "!has(self.model.assets) || {}",
    "self.model.assets",
)


def _source_rules(uri: str) -> FieldRule:
    """Return the rule for one of SOURCE_URIS."""
    names = uri.split(".")
    present = " && ".join(f"has(source.{'.'.join(names[: count + 1])})" for count in range(len(names)))

    def uris(spec: JobSpec) -> Iterable[str]:
        values = (source.model_dump(by_alias=True, exclude_none=True) for source in spec.data.sources or ())
        return [found for value in values if (found := value_at(value, tuple(names))) is not None]

    guard = f"!has(self.data.sources) || self.data.sources.all(source, !({present}) || {{}})"
    return _uri_rules("data.sources", uris, guard, f"source.{uri}")[0]


def _benchmark_rule(uri: str) -> FieldRule:
    """Return the rule for one of BENCHMARK_URIS."""
    names = uri.split(".")

    def uris(spec: JobSpec) -> Iterable[str]:
        entries = spec.stages.evaluate.benchmarks
        values = (entry.model_dump(by_alias=True, exclude_none=True) for entry in entries)
        return [found for value in values if (found := value_at(value, tuple(names))) is not None]

    present = f"has(one.{names[0]}) && has(one.{uri})"
    guard = f"self.stages.evaluate.benchmarks.all(one, !({present}) || {{}})"
    return _uri_rules("stages.evaluate.benchmarks", uris, guard, f"one.{uri}")[0]


def _weights_rule(place: str) -> FieldRule:
    """Return the rule for the weights of a model that makes maps, by its place below `spec.data.maps`."""

    def uris(spec: JobSpec) -> list[str]:
        models = {} if spec.data.maps is None else spec.data.maps.models()
        return [models[place].weights] if place in models else []

    path, (name, _, _) = f"data.maps.{place}.weights", place.partition(".")
    present = f"has(self.data.maps) && has(self.data.maps.{name}) && has(self.data.maps.{place})"
    return _uri_rules(path, uris, f"!({present}) || {{}}", f"self.{path}")[0]


_BENCHMARK_FILES = _uri_rules(
    "stages.evaluate.files",
    lambda spec: [] if spec.stages.evaluate.files is None else [spec.stages.evaluate.files],
    "!has(self.stages.evaluate.files) || {}",
    "self.stages.evaluate.files",
)
_CHECKPOINT = _uri_rules("checkpoint.uri", lambda spec: [spec.checkpoint.uri], "{}", "self.checkpoint.uri")


def _cohorts(spec: JobSpec) -> int:
    return spec.training.batch.rows_per_objective // spec.training.batch.cohort_rows


def _even_split(spec: JobSpec) -> str:
    cohorts, processes = _cohorts(spec), spec.trainer.processes
    below = max(count for count in range(1, min(cohorts, processes) + 1) if cohorts % count == 0)
    return (
        f"there are {cohorts} cohorts and {processes} processes: set rowsPerObjective: "
        f"{processes * spec.training.batch.cohort_rows}, or use {below} process{'es' if below > 1 else ''}"
    )


_BATCH, _TRAINER = "self.training.batch", "self.trainer"

CLUSTER_RULES = (
    *(files for files, _ in (_INIT, _ASSETS, _SHARDS, _BENCHMARK_FILES, _CHECKPOINT)),
    *map(_source_rules, SOURCE_URIS),
    *map(_benchmark_rule, BENCHMARK_URIS),
    *map(_weights_rule, PRODUCERS),
    *(written for _, written in (_CHECKPOINT, _PREPARED)),
    FieldRule(
        "tracking.mlflow.uri",
        "a cluster needs a tracking server, for a file in a pod is gone with the pod",
        "give its address, e.g. http://mlflow:5000",
        lambda spec: not (spec.tracking.mlflow.uri or "sqlite:").startswith("sqlite:"),
        "has(self.tracking.mlflow.uri) && !self.tracking.mlflow.uri.startsWith('sqlite:')",
    ),
    FieldRule(
        "training.batch.rowsPerObjective",
        "the cohorts of an objective (rowsPerObjective / cohortRows) cannot be dealt evenly to the processes",
        "make them a multiple of spec.trainer's nodes times gpusPerNode (processesPerNode without GPUs)",
        lambda spec: not spec.trains or _cohorts(spec) % spec.trainer.processes == 0,
        f"self.stages.train.mode == 'Never' || {_TRAINER}.nodes < 1 || {_TRAINER}.nodes > {MAXIMUM_NODES} "
        f"|| {_TRAINER}.gpusPerNode < 0 || {_TRAINER}.gpusPerNode > {MAXIMUM_GPUS} "
        f"|| {_TRAINER}.processesPerNode < 1 || {_TRAINER}.processesPerNode > {MAXIMUM_PROCESSES} "
        f"|| {_BATCH}.cohortRows < 1 || {_BATCH}.rowsPerObjective % {_BATCH}.cohortRows != 0 "
        f"|| ({_BATCH}.rowsPerObjective / {_BATCH}.cohortRows) % ({_TRAINER}.nodes "
        f"* ({_TRAINER}.gpusPerNode > 0 ? {_TRAINER}.gpusPerNode : {_TRAINER}.processesPerNode)) == 0",
        advice=_even_split,
    ),
)
"""What a cluster asks of a job's `spec` beyond its own rules. `unimrg run` has its own number of processes."""
