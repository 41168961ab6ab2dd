"""From a file, or plain values, to a job; and everything that is wrong with it, at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from unimrg_api.cluster import sweep_label
from unimrg_api.digests import canonical_json
from unimrg_api.errors import JobError, Problem, UserError, by_place
from unimrg_api.exit_codes import ExitCode
from unimrg_api.explain import Finding, explain, show
from unimrg_api.fields import RULE_ERROR, Spec, Violation
from unimrg_api.introspection import (
    Location,
    format_location,
    is_required,
    parse_location,
    placeholder,
    schema_at,
    value_at,
)
from unimrg_api.job import SWEEP_KIND, UniMRGJob
from unimrg_api.yaml_source import Document, read_yaml

Model = TypeVar("Model", bound=Spec)

SPEC_BYTES = 100 << 10
"""Largest job that is handed to processes: Linux takes 128 KiB in a variable."""
ROUNDS = 16
"""How often a job is looked at again with what was found wrong put right."""
TRIES = 3
"""How often one thing is put right: left out, replaced, and with all that its rule reads."""


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

    Raises JobError (CONFIGURATION) with all problems, each with its line and column; UserError for a sweep.
    """
    if is_sweep(document):
        command = f"unimrg sweep {path}"
        remedy = (
            f"run or submit them all: {command}; its jobs: {command} --dry-run; where they stand: {command} --results"
        )
        raise UserError(f"{path} is a sweep of several jobs", remedy=remedy)
    return read_model(UniMRGJob, document, path)


def is_sweep(document: Document) -> bool:
    """Return whether a file is meant as a sweep's."""
    return isinstance(document.value, dict) and document.value.get("kind") == SWEEP_KIND


def read_model(root: type[Model], document: Document, path: Path) -> Model:
    """Return the document of a file as a model. Raises JobError with all problems, each with its line and column."""
    if document.problems and document.value is None:
        raise JobError(document.problems, source=str(path))
    model, problems = check(root, document)
    known = {problem.path for problem in document.problems}
    remedies = {item.path: _quoted(root, document, item) for item in document.problems}
    remedies |= {problem.path: problem.remedy for problem in problems}  # of a field, which knows what is wanted there
    unread = [replace(item, remedy=remedies.get(item.path) or item.remedy) for item in document.problems]
    problems = unread + [problem for problem in problems if problem.path not in known]
    if problems or model is None:
        raise JobError(sorted(problems, key=by_place), source=str(path))
    return model


def _quoted(root: type[Spec], document: Document, problem: Problem) -> str:
    """Return how what readers take differently is written at a field that holds a text; empty at others."""
    location = parse_location(problem.path)
    position = document.positions.get(location)
    if position is None or not position.text or (schema_at(root, location) or {}).get("type") != "string":
        return ""
    return f'write {location[-1]}: "{position.text}"'


def parse_job(value: Any) -> UniMRGJob:
    """Return the job that plain values (as from JSON) describe. Raises JobError with all problems."""
    job, problems = check(UniMRGJob, Document(value))
    if job is None:
        raise JobError(problems)
    return job


def dump_job(job: UniMRGJob) -> dict[str, Any]:
    """Return a job as plain JSON values with every default written out; `parse_job` is the way back."""
    return job.model_dump(mode="json", by_alias=True, exclude_none=True)


def process_spec(job: UniMRGJob) -> str:
    """Return the job as its processes get it (UNIMRG_SPEC): of labels and annotations, which may be long, the sweep's
    alone.

    Raises UserError for a job that fits no variable.
    """
    metadata = job.metadata.model_copy(update={"labels": sweep_label(job.metadata.labels) or None, "annotations": None})
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


def check(root: type[Model], document: Document) -> tuple[Model | None, list[Problem]]:
    """Return what a document holds as a model, or None and all problems.

    A rule between fields is only asked once its fields are right by themselves. So what is wrong is put right
    in a copy, and the copy looked at again, until nothing is left.
    """
    findings = list(_nulls(root, document.value, ()))
    wrong = {finding.location for finding in findings}
    met = Counter[Location]()
    copy = deepcopy(document.value) if wrong else document.value
    for location in wrong:
        _put_right(root, copy, location)
    model = None
    for _ in range(ROUNDS):
        try:
            model = root.model_validate(copy, by_alias=True, by_name=False)
            break
        except ValidationError as error:
            found = list(_findings(root, error, document))
        findings += [item for item in found if not any(_touches(place, wrong) for place in _places(item))]
        met.update({item.location for item in found})
        copy = deepcopy(copy)
        for item in found:
            # A rule's own place is put right first: what else it reads may be right, and wrong for another rule only.
            places = _places(item) if met[item.location] == TRIES else {item.location}
            wrong |= places
            for location in sorted(places, key=len, reverse=True):
                _put_right(root, copy, location, replace=met[item.location] > 1)
        if () in wrong or max(met.values()) > TRIES:
            break
    if not findings:
        assert model is not None, "a document without problems was not read"
        return model, []
    meant = {item.meant for item in findings if item.meant and value_at(document.value, item.meant) is None}
    return None, [_problem(document, item) for item in findings if item.location not in meant]  # missing: misspelt


def _problem(document: Document, finding: Finding) -> Problem:
    value = value_at(document.value, finding.location)
    shown = "" if value is None or finding.secret else show(value)
    line, column = document.place(finding.location, at_key=finding.at_key)
    return Problem(format_location(finding.location), shown, finding.message, finding.remedy, line, column)


def _places(finding: Finding) -> frozenset[Location]:
    return finding.reads | {finding.location}


def _findings(root: type[Spec], error: ValidationError, document: Document) -> Iterator[Finding]:
    for item in error.errors(include_url=False):
        location = item["loc"]
        if item["type"] != RULE_ERROR:
            position = document.positions.get(location)
            written = None if position is None else position.text
            yield explain(root, location, item["type"], item["input"], written, item["msg"])
            continue
        violations: list[Violation] = item["ctx"]["violations"]
        for violation in violations:
            place = (*location, *parse_location(violation.path))
            reads = frozenset((*location, *parse_location(path)) for path in violation.reads)
            yield Finding(
                place, violation.message, violation.remedy, reads, at_key=violation.secret, secret=violation.secret
            )


def _touches(place: Location, wrong: set[Location]) -> bool:
    """Whether something wrong is above, at or below a place."""
    return any(place[: len(other)] == other or other[: len(place)] == place for other in wrong)


def _nulls(root: type[Spec], value: Any, location: Location) -> Iterator[Finding]:
    """Find nulls at fields that may be absent: the models would take them for absence, an API server would not."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        place = (*location, key)
        if item is None and schema_at(root, place) is not None:
            yield explain(root, place, "null", None, None, "")
        else:
            yield from _nulls(root, item, place)


def _put_right(root: type[Spec], value: Any, location: Location, *, replace: bool = False) -> None:
    """Take a wrong field out of a copy of the document; put something right there to `replace` it, and where it is
    required."""
    parent = value_at(value, location[:-1]) if location else None
    part = location[-1] if location else None
    if isinstance(parent, list):
        if isinstance(part, int) and part < len(parent) and schema_at(root, location) is not None:
            parent[part] = placeholder(root, location)
    elif isinstance(parent, dict):
        if replace or is_required(root, location):
            parent[str(part)] = placeholder(root, location)
        else:
            parent.pop(str(part), None)
