"""The sweep: one job's file and what varies, from which follow jobs with names, labels and prefixes of their own."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field

from unimrg_api.cluster import SWEEP_LABEL
from unimrg_api.fields import Spec, Violation
from unimrg_api.introspection import Location, parse_location, schema_at
from unimrg_api.job import NAME_PATTERN, UniMRGJob

SEED = "spec.training.seed"
"""The axis over which results are averaged."""
NAME_LENGTH = 40
"""What the name of a job may have."""
MOST_JOBS = 256
_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


class SweepMetadata(Spec):
    """Name of a sweep."""

    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=24)]
    """Lower-case letters, digits and dashes, from a letter on. Jobs are called NAME-LABEL-LABEL, with at most 40
    characters."""


class AxisSpec(Spec):
    """One thing that varies: a field of the job and the values that it takes."""

    path: Annotated[str, Field(max_length=256)]
    """The field, as in a problem's message: spec.method, spec.objectives, spec.training.seed, …"""
    values: Annotated[list[Any], Field(min_length=1, max_length=64)]
    """What the field holds in each job, as it would be written there."""
    labels: Annotated[list[Annotated[str, Field(pattern=_LABEL, max_length=24)]], Field(max_length=64)] | None = None
    """A short name for each value, for the jobs' names and the table. Absent: the value itself, where it is one word or
    number; a seed 7 is s7."""

    def named(self) -> list[tuple[str, Any]]:
        """Return (label, value) of each value."""
        return list(zip(self.labels or map(self._label, self.values), self.values, strict=True))

    def _label(self, value: Any) -> str:
        text = re.sub(r"[^a-z0-9]+", "-", str(value).lower()).strip("-")
        return f"s{text}" if self.path == SEED else text

    def violations(self) -> Iterator[Violation]:
        """The field exists and may vary; every value has a label, and no two the same."""
        location = parse_location(self.path)
        if location[:1] != ("spec",) or schema_at(UniMRGJob, location) is None or len(location) < 2:
            yield Violation("path", "a job's spec has no such field", "docs/reference/job.md lists them")
        elif location == ("spec", "checkpoint", "uri"):
            yield Violation("path", "each job of a sweep has a prefix of its own anyway", "leave this axis out")
        if self.labels is not None and len(self.labels) != len(self.values):
            yield Violation("labels", f"there are {len(self.labels)} for {len(self.values)} values", "name each value")
        elif self.labels is None and any(isinstance(value, list | dict) for value in self.values):
            yield Violation("values", "lists and mappings have no short names", "give labels: [NAME, …], one for each")
        elif len({label for label, _ in self.named()}) < len(self.values):
            yield Violation("values", "two values have the same name", "give labels: [NAME, …], all different")


class SweepSpec(Spec):
    """What a sweep consists of."""

    job: Annotated[str, Field(min_length=1, max_length=1024)]
    """The job's file, from the folder of this one. Its data is prepared once, for all jobs that need the same."""
    matrix: Annotated[list[AxisSpec], Field(min_length=1, max_length=8)]
    """What varies; there is a job for every combination of values."""

    def violations(self) -> Iterator[Violation]:
        """No field varies twice, and there are not too many jobs."""
        first: dict[str, int] = {}
        for index, axis in enumerate(self.matrix):
            if (other := first.setdefault(axis.path, index)) != index:
                message = f"{axis.path} varies in matrix[{other}] already"
                yield Violation(f"matrix[{index}].path", message, f"put all its values into matrix[{other}]")
        if math.prod(len(axis.values) for axis in self.matrix) > MOST_JOBS:
            yield Violation("matrix", f"a sweep has at most {MOST_JOBS} jobs", "make several sweeps of it")


class UniMRGSweep(Spec):
    """Several jobs that differ in few fields. It is a file for `unimrg sweep`, not an object of a cluster."""

    api_version: Literal["training.unimrg.dev/v1alpha1"]
    """Version of this format."""
    kind: Literal["UniMRGSweep"]
    """Kind of the file."""
    metadata: SweepMetadata
    """Name of the sweep."""
    spec: SweepSpec
    """What it consists of."""

    def violations(self) -> Iterator[Violation]:
        """The names of all jobs are short enough."""
        longest = max((name for name, _ in self._cells()), key=len)
        if len(longest) > NAME_LENGTH:
            message = f"the job {longest} would have {len(longest)} characters, and a job's name at most {NAME_LENGTH}"
            yield Violation("metadata.name", message, "shorten it, or give the matrix shorter labels")

    def _cells(self) -> Iterator[tuple[str, dict[str, tuple[str, Any]]]]:
        """Yield the name of each job, and label and value of each of its fields that vary."""
        for cell in product(*(axis.named() for axis in self.spec.matrix)):
            name = "-".join([self.metadata.name, *(label for label, _ in cell)])
            yield name, {axis.path: one for axis, one in zip(self.spec.matrix, cell, strict=True)}

    def jobs(self, base: dict[str, Any]) -> list[SweptJob]:
        """Return the jobs, from the plain values of the job that they vary.

        Each keeps its checkpoints under `checkpoint.uri`/SWEEP/LABELS of that job, and has the label by which a cluster
        and MLflow know the sweep.
        """
        found = []
        for name, cell in self._cells():
            value = deepcopy(base)
            for path, (_, wanted) in cell.items():
                _put(value, parse_location(path), deepcopy(wanted))
            metadata = value.setdefault("metadata", {})
            metadata["name"] = name
            metadata["labels"] = {**(metadata.get("labels") or {}), SWEEP_LABEL: self.metadata.name}
            checkpoint = (value.get("spec") or {}).get("checkpoint")
            if isinstance(checkpoint, dict) and isinstance(checkpoint.get("uri"), str):
                place = f"{self.metadata.name}/{name.removeprefix(f'{self.metadata.name}-')}"
                checkpoint["uri"] = f"{checkpoint['uri'].rstrip('/')}/{place}"
            found.append(SweptJob(name, {path: label for path, (label, _) in cell.items()}, value))
        return found


@dataclass(frozen=True)
class SweptJob:
    """One job of a sweep, not yet checked."""

    name: str
    labels: dict[str, str]
    """The label of its value, by the path of each field that varies."""
    value: dict[str, Any]
    """The job as plain values."""


def _put(value: Any, location: Location, wanted: Any) -> None:
    """Set a field of plain values; mappings on the way to it are made, what is of another kind is left alone."""
    *parents, last = location
    for part in parents:
        if isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif isinstance(value, dict):
            value = value.setdefault(str(part), {})
    if isinstance(value, dict):
        value[str(last)] = wanted
    elif isinstance(value, list) and isinstance(last, int) and last < len(value):
        value[last] = wanted
