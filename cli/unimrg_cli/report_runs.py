"""Finds the evaluated runs that a report is asked for: by folder, URI, job's file, sweep or MLflow experiment."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from unimrg_api.commits import SUMMARY_KEY
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.load import is_sweep, read_document
from unimrg_cli.run_view import is_job_file, open_run
from unimrg_cli.sweep_file import load_sweep
from unimrg_trainer.evaluation.reports.runs import EvaluatedRun, ResultFiles, read_run
from unimrg_trainer.storage import ObjectStore, open_store
from unimrg_trainer.tracking.experiment import LOSSES, experiment_runs
from unimrg_trainer.tracking.segments import read_curves
from unimrg_trainer.tracking.spool import STORE_FOLDER


class StoredRun:
    """A run's results in its store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.uri, self.get, self.list = store.uri, store.get, store.list

    def curves(self) -> dict[str, dict[int, float]]:
        """Return the losses of training from the tracker's spool, which the run keeps."""
        with tempfile.TemporaryDirectory() as folder:
            for key, _ in self._store.list(STORE_FOLDER):
                if "/segment-" in key:
                    file = Path(folder, key)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(self._store.get(key))
            curves = read_curves(Path(folder, STORE_FOLDER))
        return {name: curve for name, curve in curves.items() if name.startswith(LOSSES)}


def find_runs(
    targets: Sequence[str],
    base: str | None,
    experiment: str | None,
    tracking_uri: str | None,
    on_run: Callable[[str], None] = lambda _: None,
) -> tuple[list[EvaluatedRun], list[str]]:
    """Return the runs with results, and a sentence about each one of a sweep or an experiment that has none.

    `on_run` is called with each run's place before it is read. Raises UserError, as `read_run` does, for a run that
    was named itself; INPUT_MISSING if none has results.
    """
    runs: list[EvaluatedRun] = []
    left_out: list[str] = []
    if base is not None:
        on_run(base)
        runs.append(read_run(StoredRun(open_run(base)), is_base=True))
    for files, named in _files(targets, experiment, tracking_uri):
        on_run(files.uri)
        if named or files.list(SUMMARY_KEY):
            runs.append(read_run(files))
        else:
            left_out.append(f"{files.uri} has no results")
    if not runs:
        raise UserError(
            f"no run has results: {'; '.join(left_out) or 'the experiment has no runs of jobs'}",
            remedy="let the jobs end with their stage evaluate (spec.stages.evaluate)",
            exit_code=ExitCode.INPUT_MISSING,
        )
    return runs, left_out


def _files(
    targets: Sequence[str], experiment: str | None, tracking_uri: str | None
) -> Iterator[tuple[ResultFiles, bool]]:
    """Yield (files, whether the run was named itself)."""
    for target in targets:
        if is_job_file(target) and is_sweep(document := read_document(Path(target))):
            for job in load_sweep(Path(target), document).jobs:
                yield StoredRun(open_store(job.uri, job.job.spec.storage)), False
        else:
            yield StoredRun(open_run(target)), True
    if experiment is not None:
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            raise UserError(
                "nothing says which MLflow server has the experiment",
                remedy="give --tracking-uri, or set MLFLOW_TRACKING_URI",
            )
        yield from ((run, False) for run in experiment_runs(uri, experiment))
