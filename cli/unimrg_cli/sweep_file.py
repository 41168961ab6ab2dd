"""Reads a sweep's file: the jobs that follow from it, each checked as if it had a file of its own."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimrg_api.errors import JobError, Problem, UserError
from unimrg_api.fields import path_of, resolve_uri
from unimrg_api.introspection import Location, format_location, parse_location
from unimrg_api.job import SWEEP_KIND, UniMRGJob
from unimrg_api.load import is_sweep, job_of, parse_job, read_document, read_model
from unimrg_api.locality import cluster_problems
from unimrg_api.spec_platform import TRACKING_PATTERN
from unimrg_api.sweep import SEED, SweptJob, UniMRGSweep
from unimrg_api.yaml_source import Document
from unimrg_cli.check import placed, stands_at
from unimrg_cli.inputs import missing_inputs
from unimrg_trainer.tracking.settings import sqlite_path, sqlite_uri


@dataclass(frozen=True)
class PlannedJob:
    """A job of a sweep."""

    name: str
    labels: Mapping[str, str]
    """The label of its value, by the path of each field that varies."""
    job: UniMRGJob
    value: dict[str, Any]
    """The same as plain values, without defaults, every path absolute."""

    @property
    def uri(self) -> str:
        """Prefix of its run."""
        return self.job.spec.checkpoint.uri

    def write(self, folder: Path) -> Path:
        """Write its file into a folder and return it."""
        file = folder / f"{self.name}.json"
        file.write_text(json.dumps(self.value, indent=2))
        return file


@dataclass(frozen=True)
class Sweep:
    """A sweep with its jobs."""

    name: str
    jobs: list[PlannedJob]
    axes: list[str]
    """The path of each field that varies."""

    @property
    def compared(self) -> list[str]:
        """What varies but for the seed, over which results are averaged."""
        return [path for path in self.axes if path != SEED]


def load_sweep(file: Path, document: Document | None = None) -> Sweep:
    """Read a sweep's file, unless its document is given, and the job's that it names.

    Raises JobError with all problems of the first file that has any, or of the first job that follows and is wrong.
    """
    document = document or read_document(file)
    if document.value is not None and not is_sweep(document):
        raise UserError(
            f"{file} is no sweep: its kind is not {SWEEP_KIND}", remedy=f"`unimrg run {file}` or `unimrg submit {file}`"
        )
    sweep = read_model(UniMRGSweep, document, file)
    base_file = stands_at(file).resolve().parent / sweep.spec.job
    base = read_document(base_file)
    if base.problems or not isinstance(base.value, dict) or is_sweep(base):
        job_of(base, base_file)
    jobs = []
    for one in sweep.jobs(base.value):
        try:
            jobs.append(_planned(one, base, base_file))
        except JobError as error:
            if found := _of_values(error.problems, one, sweep):
                raise JobError(placed(found, document), source=str(file)) from None
            raise
    return Sweep(sweep.metadata.name, jobs, [axis.path for axis in sweep.spec.matrix])


def _of_values(problems: list[Problem], one: SweptJob, sweep: UniMRGSweep) -> list[Problem]:
    """Return the problems of a job that its values of the matrix have, at their places in the sweep."""
    places: dict[Location, Location] = {}
    for index, axis in enumerate(sweep.spec.matrix):
        labels = [label for label, _ in axis.named()]
        place: Location = ("spec", "matrix", index, "values", labels.index(one.labels[axis.path]))
        places[parse_location(axis.path)] = place
    found = []
    for problem in problems:
        location = parse_location(problem.path)
        for path, place in places.items():
            if location[: len(path)] == path:
                message = f"as {problem.path} of {one.name}: {problem.message}"
                remedy = problem.remedy.replace(f"{location[-1]}: ", "")
                path_of_value = format_location((*place, *location[len(path) :]))
                found.append(dataclasses.replace(problem, path=path_of_value, message=message, remedy=remedy))
    return found


def refuse_on_a_cluster(sweep: Sweep, file: Path) -> None:
    """Raise JobError with what a cluster refuses of the first job that it refuses."""
    for job in sweep.jobs:
        problems = cluster_problems(job.job)
        if problems:
            raise JobError(problems, source=f"{file} as {job.name}")


def missing(sweep: Sweep) -> JobError | None:
    """Return an error that names what the jobs need and what is not on this machine."""
    for one in sweep.jobs:
        problems = missing_inputs(Document(one.value), Path("/"))
        if problems:
            return JobError(problems, source=one.name)
    return None


def _planned(one: SweptJob, base: Document, file: Path) -> PlannedJob:
    """Check a job, whose problems are shown at the lines of the file that it varies, and make its paths absolute."""
    varied = [parse_location(path) for path in one.labels]
    kept = {
        place: position
        for place, position in base.positions.items()
        if not any(place[: len(path)] == path for path in varied)
    }
    source = Path(f"{file} as {one.name}")
    job_of(Document(one.value, kept), source)
    folder = file.parent
    value: dict[str, Any] = _absolute(one.value, folder)
    mlflow = value["spec"].setdefault("tracking", {}).setdefault("mlflow", {})
    database = sqlite_path(mlflow.get("uri", ""), folder)
    checkpoint = value["spec"]["checkpoint"]["uri"]
    if database is None and "uri" not in mlflow and checkpoint.startswith("file://"):
        database = path_of(checkpoint).parent / "mlflow.db"  # one for all jobs, which are shown together
    if database is not None and re.search(TRACKING_PATTERN, sqlite_uri(database)):
        mlflow["uri"] = sqlite_uri(database)
    return PlannedJob(one.name, one.labels, parse_job(value), value)


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {name: _absolute(item, folder) for name, item in value.items()}
    if isinstance(value, list):
        return [_absolute(item, folder) for item in value]
    return resolve_uri(value, folder) if isinstance(value, str) and value.startswith("file://") else value
