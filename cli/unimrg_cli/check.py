"""Reads a job and looks for what is wrong with it where it is to run; everything comes in one error."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path

from unimrg_api.errors import JobError, Problem, UserError, by_place
from unimrg_api.introspection import parse_location
from unimrg_api.job import UniMRGJob
from unimrg_api.load import job_of, read_document
from unimrg_api.locality import cluster_notes, cluster_problems
from unimrg_api.yaml_source import Document
from unimrg_cli.inputs import missing_inputs

_PLACEHOLDER = r"://(your-bucket|[a-z0-9.-]+\.example)(?=[:/\"])"
"""What `unimrg init` writes where only its user knows the name: a bucket, and hosts that cannot exist (RFC 2606)."""


def check_job(file: Path, document: Document | None = None) -> tuple[UniMRGJob, list[str]]:
    """Return the job of a file, or of its document where that was read before, and notes about where it can run.

    Raises JobError with all problems, inputs included; UserError for a sweep.
    """
    document = document or read_document(file)
    problems, job = [], None
    try:
        job = job_of(document, file)
    except JobError as error:
        problems = error.problems
    known = {problem.path for problem in problems}
    missing = missing_inputs(document, stands_at(file).resolve().parent)
    problems += [problem for problem in missing if problem.path not in known]
    if problems or job is None:
        raise JobError(sorted(problems, key=by_place), source=str(file))
    return job, [*cluster_notes(job), *placeholder_notes(document)]


def placeholder_notes(document: Document) -> list[str]:
    """Return a sentence for the names that `unimrg init` leaves to be replaced, if there are any."""
    text = json.dumps(document.value)
    names = dict.fromkeys(match[1] for match in re.finditer(_PLACEHOLDER, text))
    return [f"{', '.join(names)} stand for names of yours: replace them before the job is submitted"] if names else []


def stands_at(file: Path) -> Path:
    """Return the path from whose folder a job's relative URIs count: for a pipe, one in the working folder."""
    return file if file.is_file() else Path(file.name)


def check_cluster_job(file: Path) -> tuple[UniMRGJob, Document]:
    """Return the job of a file that is to run on a cluster, where its inputs are and not here, and what it was read
    from.

    Raises JobError with all problems of the job or, once it is right by itself, with all that a cluster refuses.
    """
    document = read_document(file)
    job = job_of(document, file)
    problems = cluster_problems(job)
    if problems:
        raise JobError(placed(problems, document), source=str(file))
    return job, document


def namespace_of(job: UniMRGJob, wanted: str | None) -> str | None:
    """Return the namespace that a command's option or the job's file names, None if neither does.

    Raises UserError where they differ.
    """
    written = job.metadata.namespace
    if wanted is not None and written is not None and wanted != written:
        message = f"the job's metadata.namespace is {written}, and -n says {wanted}"
        raise UserError(message, remedy="leave one of them out")
    return wanted or written


def placed(problems: Iterable[Problem], document: Document) -> list[Problem]:
    """Return problems with the line and column of their path in a job's document, in its order."""
    found = []
    for problem in problems:
        line, column = document.place(parse_location(problem.path)) if problem.path else (None, None)
        found.append(dataclasses.replace(problem, line=line, column=column))
    return sorted(found, key=by_place)
