"""Reads a job and looks for its inputs; everything that is wrong comes in one error."""

from __future__ import annotations

from pathlib import Path

from unimrg_api.errors import JobError
from unimrg_api.job import UniMRGJob
from unimrg_api.load import load_job
from unimrg_api.locality import cluster_notes
from unimrg_cli.inputs import missing_inputs


def check_job(file: Path) -> tuple[UniMRGJob, list[str]]:
    """Return the job and notes about where it can run. Raises JobError with all problems, inputs included."""
    problems, job = [], None
    try:
        job = load_job(file)
    except JobError as error:
        if all(problem.line is None for problem in error.problems):
            raise  # there is no file to look into
        problems = error.problems
    known = {problem.path for problem in problems}
    problems += [problem for problem in missing_inputs(file) if problem.path not in known]
    if problems or job is None:
        raise JobError(sorted(problems, key=lambda problem: (problem.line or 0, problem.column or 0)), source=str(file))
    return job, cluster_notes(job)
