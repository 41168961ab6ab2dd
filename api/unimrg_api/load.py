"""From a file, or plain values, to a job; and everything that is wrong with it, at once."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unimrg_api.digests import canonical_json
from unimrg_api.errors import JobError, Problem, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.explain import Finding, null_finding, to_finding, to_problem
from unimrg_api.fields import RULE_ERROR, Violation
from unimrg_api.introspection import Location, placeholder, view_at
from unimrg_api.job import UniMRGJob
from unimrg_api.yaml_source import Document, Position, read_yaml

SPEC_BYTES = 100 << 10
"""Largest job that is handed to processes: Linux takes 128 KiB in a variable."""
ROUNDS = 16
"""How often a job is looked at again with what was found wrong put right."""


def load_job(path: Path) -> UniMRGJob:
    """Read a job from a YAML (or JSON) file. Raises JobError as `read_document` and `job_of` do."""
    return job_of(read_document(path), path)


def read_document(path: Path) -> Document:
    """Read a file that may be a pipe, and so can be read once only; whether it holds a job is for `job_of` to say.

    Raises JobError (INPUT_MISSING) for a file that cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise _no_file(path, "there is no such file", "check the path") from None
    except IsADirectoryError:
        raise _no_file(path, "this is a folder", "give the job's file in it") from None
    except OSError as error:
        message = f"the file cannot be read: {error.strerror or error}"
        raise _no_file(path, message, "check its permissions") from None
    return read_yaml(data)


def job_of(document: Document, path: Path) -> UniMRGJob:
    """Return the job that the document of a file holds.

    Raises JobError (CONFIGURATION) with all problems, each with its line and column.
    """
    if document.problems and document.value is None:
        raise JobError(document.problems, source=str(path))
    job, problems = _check(document.value, document.positions)
    known = {problem.path for problem in document.problems}
    problems = document.problems + [problem for problem in problems if problem.path not in known]
    problems = sorted(problems, key=lambda problem: (problem.line or 0, problem.column or 0))
    if problems or job is None:
        raise JobError(problems, source=str(path))
    return job


def parse_job(value: Any) -> UniMRGJob:
    """Return the job that plain values (as from JSON) describe. Raises JobError with all problems."""
    job, problems = _check(value, {})
    if job is None:
        raise JobError(problems)
    return job


def dump_job(job: UniMRGJob) -> dict[str, Any]:
    """Return a job as plain JSON values with every default written out; `parse_job` is the way back."""
    return job.model_dump(mode="json", by_alias=True, exclude_none=True)


def process_spec(job: UniMRGJob) -> str:
    """Return the job as its processes get it (UNIMRG_SPEC), without labels and annotations, which only a cluster
    reads and may be long.

    Raises UserError for a job that fits no variable.
    """
    metadata = job.metadata.model_copy(update={"labels": None, "annotations": None})
    text = canonical_json(dump_job(job.model_copy(update={"metadata": metadata})))
    size = len(text.encode())
    if size > SPEC_BYTES:
        raise UserError(
            f"the job has {size} bytes as JSON, and processes can be handed at most {SPEC_BYTES}",
            remedy="shorten its texts",
        )
    return text


def _no_file(path: Path, message: str, remedy: str) -> JobError:
    problem = Problem("", repr(str(path)), message, remedy, exit_code=ExitCode.INPUT_MISSING)
    return JobError([problem], source=str(path))


def _check(value: Any, positions: Mapping[Location, Position]) -> tuple[UniMRGJob | None, list[Problem]]:
    """Return the job, or None and all problems.

    A rule between fields is only asked once its fields are right by themselves. So what is wrong is put right
    in a copy, and the copy looked at again, until nothing new turns up.
    """
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else "a single value"
        remedy = "start with the fields apiVersion, kind, metadata and spec"
        finding = Finding((), value, f"a job is a mapping of fields, and this is {kind}", remedy)
        return None, [to_problem(finding, positions)]
    findings = list(_nulls(value, ()))
    wrong = {finding.location for finding in findings}
    copy = _copy(value)
    for location in wrong:
        _put_right(copy, location)
    job = None
    for _ in range(ROUNDS):
        try:
            job = UniMRGJob.model_validate(copy, by_alias=True, by_name=False)
            break
        except ValidationError as error:
            found = list(_findings(error, positions))
        findings += [finding for finding in found if not any(_touches(place, wrong) for place in finding.involves)]
        places = {place for finding in found for place in finding.involves}
        if places <= wrong:
            break
        wrong |= places
        for location in sorted(places, key=len, reverse=True):
            _put_right(copy, location)
    if not findings:
        assert job is not None, "a job without problems was not read"
        return job, []
    return None, [to_problem(_as_written(value, finding), positions) for finding in findings]


def _as_written(value: Any, finding: Finding) -> Finding:
    """Show what the file says, not what stands in the copy that was put right for the next look."""
    written = None if finding.absent else value_at(value, finding.location)
    return finding if written is None else dataclasses.replace(finding, value=written)


def _findings(error: ValidationError, positions: Mapping[Location, Position]) -> Iterator[Finding]:
    for item in error.errors(include_url=False):
        location = item["loc"]
        if location[-1:] == ("[key]",) and item["type"] != "extra_forbidden":
            location = location[:-1]  # pydantic's sign that a key is wrong, not its value
        if item["type"] != RULE_ERROR:
            yield to_finding(location, item["type"], item["input"], item["msg"], positions)
            continue
        violations: list[Violation] = item["ctx"]["violations"]
        for violation in violations:
            place = (*location, *parse_location(violation.path))
            involves = frozenset((*location, *parse_location(path)) for path in violation.involves)
            value = value_at(item["input"], parse_location(violation.path))
            yield Finding(place, value, violation.message, violation.remedy, involves | {place})


def parse_location(path: str) -> Location:
    """Return the parts of a path: the way back from `format_location`."""
    if not path:
        return ()
    parts = re.sub(r"\[([0-9]+)\]", r".[\1]", path).split(".")
    return tuple(int(part[1:-1]) if re.fullmatch(r"\[[0-9]+\]", part) else part for part in parts)


def _touches(place: Location, wrong: set[Location]) -> bool:
    """Whether something wrong is above, at or below a place."""
    return any(place[: len(other)] == other or other[: len(place)] == place for other in wrong)


def _nulls(value: Any, location: Location) -> Iterator[Finding]:
    """Find nulls at fields that may be absent: the models would take them for absence, an API server would
    not."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        place = (*location, key)
        if item is None and view_at(UniMRGJob, place) is not None:
            yield null_finding(place)
        else:
            yield from _nulls(item, place)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def value_at(value: Any, location: Location) -> Any:
    """Return what plain values hold at a place, None if there is no such place."""
    for part in location:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _put_right(value: Any, location: Location) -> None:
    """Take a wrong field out of a copy of the job, or replace it by something right where it is required."""
    parent = value_at(value, location[:-1]) if location else None
    if not isinstance(parent, dict | list):
        return
    part = location[-1]
    view = view_at(UniMRGJob, location)
    if isinstance(parent, list):
        if isinstance(part, int) and part < len(parent) and view is not None:
            parent[part] = placeholder(view)
    elif view is not None and view.required:
        parent[str(part)] = placeholder(view)
    else:
        parent.pop(str(part), None)
