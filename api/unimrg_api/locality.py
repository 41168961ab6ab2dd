"""What a cluster refuses although a laptop takes it: as problems with a remedy, and as rules for an API server.

Every function that finds problems stands beside the rule that is its twin.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from unimrg_api.errors import Problem
from unimrg_api.explain import show
from unimrg_api.fields import CelRule
from unimrg_api.job import JobSpec, UniMRGJob
from unimrg_api.spec_platform import MAXIMUM_GPUS, MAXIMUM_NODES, MAXIMUM_PROCESSES, mounted_in_cel

_UPWARDS = r"(^|/|%2[fF])([.]|%2[eE]){2}($|/|%2[fF])"
"""A part of a URI that leads out of its folder, in Python's and Go's regular expressions alike."""


def cluster_problems(job: UniMRGJob) -> list[Problem]:
    """Return everything that a cluster refuses about a job that is right by itself.

    Paths are those that an API server names for the same job.
    """
    spec = job.spec
    return [*_local_files(spec), *_read_only(spec), *_tracking(spec), *_processes(spec)]


def cluster_notes(job: UniMRGJob) -> list[str]:
    """Return one sentence for each reason why a job that is right runs on one machine only."""
    places: dict[tuple[str, str], list[str]] = {}
    for problem in cluster_problems(job):
        places.setdefault((problem.message, problem.remedy), []).append(problem.path)
    return [
        f"a cluster would refuse {', '.join(paths)}: {message}; {remedy}" for (message, remedy), paths in places.items()
    ]


def _uris(spec: JobSpec) -> Iterator[tuple[str, str]]:
    """Yield every URI of a job with its path; a list has one path, for that is what an API server names."""
    if spec.model.init is not None:
        yield "model.init", spec.model.init
    for source in spec.data.sources or ():
        if source.images is not None:
            yield "data.sources", source.images.uri
    for uri in spec.data.shards:
        yield "data.shards", uri
    yield "checkpoint.uri", spec.checkpoint.uri


_FILES_WORK = "a file:// URI works on a cluster only if it is absolute, without .., and below a volume's mountPath"
_FILES_REMEDY = "use s3://, or mount a PersistentVolumeClaim in spec.trainer.volumes and name a path on it"


def _local_files(spec: JobSpec) -> Iterator[Problem]:
    """A `file://` URI means the same in every pod only on a volume that all of them mount."""
    for path, uri in _uris(spec):
        mounted = any(_below(uri, volume.mount_path) for volume in spec.trainer.volumes)
        if uri.startswith("file://") and (not mounted or re.search(_UPWARDS, uri)):
            yield Problem(f"spec.{path}", show(uri), _FILES_WORK, _FILES_REMEDY)


def _local_file_rule(path: str, guard: str, uri: str) -> CelRule:
    volume = f"self.trainer.volumes.exists(volume, !{mounted_in_cel('volume')} || {_below_in_cel(uri, 'volume')})"
    right = f"!{uri}.startsWith('file://') || (!{uri}.matches('{_UPWARDS}') && {volume})"
    return CelRule(guard.format(right), path, f"{_FILES_WORK}: {_FILES_REMEDY}")


def _below(uri: str, mount_path: str) -> bool:
    return f"{uri}/".startswith(f"file://{mount_path}/")


def _below_in_cel(uri: str, volume: str) -> str:
    return f"({uri} + '/').startsWith('file://' + {volume}.mountPath + '/')"


_LOCAL_FILE_RULES = (
    _local_file_rule("model.init", "!has(self.model.init) || {}", "self.model.init"),
    _local_file_rule(
        "data.sources",
        "!has(self.data.sources) || self.data.sources.all(source, !has(source.images) || {})",
        "source.images.uri",
    ),
    _local_file_rule("data.shards", "self.data.shards.all(uri, {})", "uri"),
    _local_file_rule("checkpoint.uri", "{}", "self.checkpoint.uri"),
)


_READ_ONLY = "lies on a volume that is mounted for reading only, and is written to"
_READ_ONLY_REMEDY = "use another volume, or set its readOnly: Never"


def _read_only(spec: JobSpec) -> Iterator[Problem]:
    """What a job writes must not lie on a volume that it can only read."""
    written = {"checkpoint.uri"} | ({"data.shards"} if spec.data.sources is not None else set())
    for path, uri in _uris(spec):
        locked = any(_below(uri, volume.mount_path) for volume in spec.trainer.volumes if volume.read_only == "Always")
        if path in written and locked:
            yield Problem(f"spec.{path}", show(uri), _READ_ONLY, _READ_ONLY_REMEDY)


def _read_only_rule(path: str, guard: str, uri: str) -> CelRule:
    locked = f"volume.readOnly == 'Always' && {mounted_in_cel('volume')} && {_below_in_cel(uri, 'volume')}"
    right = f"!self.trainer.volumes.exists(volume, {locked})"
    return CelRule(guard.format(right), path, f"{_READ_ONLY}: {_READ_ONLY_REMEDY}")


_READ_ONLY_RULES = (
    _read_only_rule("checkpoint.uri", "{}", "self.checkpoint.uri"),
    _read_only_rule("data.shards", "!has(self.data.sources) || self.data.shards.all(uri, {})", "uri"),
)


_NO_SERVER = "a cluster needs a tracking server, for a file in a pod is gone with the pod"
_NO_SERVER_REMEDY = "give its address, e.g. http://mlflow:5000"


def _tracking(spec: JobSpec) -> Iterator[Problem]:
    """A SQLite file has no place in a pod."""
    uri = spec.tracking.mlflow.uri
    if uri is None or uri.startswith("sqlite:"):
        yield Problem("spec.tracking.mlflow.uri", "" if uri is None else show(uri), _NO_SERVER, _NO_SERVER_REMEDY)


_TRACKING_RULE = CelRule(
    "has(self.tracking.mlflow.uri) && !self.tracking.mlflow.uri.startsWith('sqlite:')",
    "tracking.mlflow.uri",
    f"{_NO_SERVER}: {_NO_SERVER_REMEDY}",
    "Required",
)


def _processes(spec: JobSpec) -> Iterator[Problem]:
    """Every process gets equally many whole cohorts. (`unimrg run` has its own number of processes.)"""
    processes, batch = spec.trainer.processes, spec.training.batch
    cohorts = batch.rows_per_objective // batch.cohort_rows
    if cohorts % processes:
        below = max(count for count in range(1, min(cohorts, processes) + 1) if cohorts % count == 0)
        yield Problem(
            "spec.training.batch.rowsPerObjective",
            str(batch.rows_per_objective),
            f"{cohorts} cohorts per objective (rowsPerObjective / cohortRows) cannot be dealt evenly to the "
            f"{processes} processes of spec.trainer",
            f"set rowsPerObjective: {processes * batch.cohort_rows}, or use {below} process{'es' if below > 1 else ''}",
        )


_BATCH, _TRAINER = "self.training.batch", "self.trainer"
_PROCESSES_RULE = CelRule(
    f"{_TRAINER}.nodes < 1 || {_TRAINER}.nodes > {MAXIMUM_NODES} "
    f"|| {_TRAINER}.gpusPerNode < 0 || {_TRAINER}.gpusPerNode > {MAXIMUM_GPUS} "
    f"|| {_TRAINER}.processesPerNode < 1 || {_TRAINER}.processesPerNode > {MAXIMUM_PROCESSES} "
    f"|| {_BATCH}.cohortRows < 1 || {_BATCH}.rowsPerObjective % {_BATCH}.cohortRows != 0 "
    f"|| ({_BATCH}.rowsPerObjective / {_BATCH}.cohortRows) % ({_TRAINER}.nodes "
    f"* ({_TRAINER}.gpusPerNode > 0 ? {_TRAINER}.gpusPerNode : {_TRAINER}.processesPerNode)) == 0",
    "training.batch.rowsPerObjective",
    "the cohorts of an objective (rowsPerObjective / cohortRows) cannot be dealt evenly to the processes of "
    "spec.trainer (nodes times gpusPerNode, or processesPerNode without GPUs): make them a multiple",
)

CLUSTER_RULES = (*_LOCAL_FILE_RULES, *_READ_ONLY_RULES, _TRACKING_RULE, _PROCESSES_RULE)
"""The twins of `cluster_problems`, about `spec`."""
