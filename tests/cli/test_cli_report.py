"""`unimrg report`: from folders, a sweep and an MLflow server to the same three files; and what it refuses."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.command_line import Unimrg
from tests.support.evaluated_runs import PROVENANCE, curves, made_up_run
from tests.support.local_jobs import tiny_job
from tests.support.mlflow_server import MlflowServer, mlflow_server
from tests.support.uploads import client_of
from unimrg_trainer.evaluation.summary import Summary

__all__ = ["mlflow_server"]

FEW = ("mmvp", "realWorldQa")
SWEEP = """\
apiVersion: training.unimrg.dev/v1alpha1
kind: UniMRGSweep
metadata: {name: methods}
spec:
  job: job.yaml
  matrix:
    - {path: spec.method, values: [SFT, UniMRG]}
    - {path: spec.training.seed, values: [1, 2]}
"""


def scores(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """(row, metric) → line of the CSV."""
    rows = csv.DictReader(text(folder, "csv").splitlines())
    return {(row["row"], row["metric"]): row for row in rows if not row["quoted"]}


def text(folder: Path, kind: str) -> str:
    """The report as HTML, Markdown or CSV."""
    return (folder / f"report.{kind}").read_text()


def test_a_sweep_and_a_base_become_one_report(unimrg: Unimrg, tmp_path: Path) -> None:
    tiny_job(tmp_path)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    for name, method, seed in (("sft-s1", "SFT", 1), ("unimrg-s1", "UniMRG", 1), ("unimrg-s2", "UniMRG", 2)):
        made_up_run(tmp_path / "run/methods" / name, method=method, seed=seed, skill=0.7, benchmarks=FEW)
    base = made_up_run(tmp_path / "base", seed=9, benchmarks=FEW)
    ended = unimrg("report", tmp_path / "sweep.yaml", "--base", base, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert [line.rpartition(".")[2] for line in ended.out.splitlines()] == ["html", "md", "csv"]
    found = scores(tmp_path / "out")
    assert {row for row, _ in found} == {"base", "SFT", "UniMRG"}
    assert found["UniMRG", "acc_question"]["seeds"] == "2"
    assert float(found["UniMRG", "acc"]["difference_low"]) > 0
    left_out = f"file://{tmp_path}/run/methods/sft-s2 has no results"
    assert left_out in text(tmp_path / "out", "md") and left_out in text(tmp_path / "out", "html")


def test_an_experiment_gives_the_report_that_its_folders_give(
    unimrg: Unimrg, tmp_path: Path, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        made_up_run(tmp_path / "base", initial=True, seed=0, benchmarks=FEW),
        made_up_run(tmp_path / "run", skill=0.7, benchmarks=FEW, kept=(500,)),
    ]
    curves(runs[1], "UniMRG", 1)
    client = client_of(mlflow_server.uri)
    experiment = client.create_experiment("a report's")
    for run in runs:
        tracked = client.create_run(experiment, tags={"unimrg.job_uid": run.name}, run_name=run.name).info.run_id
        client.log_artifacts(tracked, run / "results", "results")
        client.log_metric(tracked, "train/loss/depth", 0.5, step=1)
        client.log_metric(tracked, "train/loss/depth", 0.25, step=2)
    client.create_run(experiment, tags={"unimrg.sweep": "a"}, run_name="parent of a sweep")
    client.create_run(experiment, tags={"unimrg.job_uid": "still runs"}, run_name="unfinished")
    assert unimrg("report", *runs, "--out", tmp_path / "folders").code == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    ended = unimrg("report", "--experiment", "a report's", "--out", tmp_path / "mlflow")
    assert ended.code == 0 and "Downloading" not in ended.err, ended.err
    assert scores(tmp_path / "mlflow") == scores(tmp_path / "folders")
    page, markdown = (text(tmp_path / "mlflow", kind) for kind in ("html", "md"))
    assert "Training loss of depth" in page and "MMVP by step" in page
    assert "MLflow run unfinished (" in markdown and "parent of" not in markdown
    unimrg("report", "--experiment", "another").refused(66, "has no experiment 'another'", "a report's")


def test_what_cannot_be_compared_or_read_is_refused(
    unimrg: Unimrg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = made_up_run(tmp_path / "run", benchmarks=("mmvp",))
    other = made_up_run(tmp_path / "other", seed=2, benchmarks=("mmvp",))
    file = other / "results/summary.json"
    summary = Summary.from_json(file.read_text())
    judged = replace(summary.benchmarks["mmvp"], provenance={**PROVENANCE, "judge": "gpt-4o-mini"})
    file.write_text(summary.model_copy(update={"benchmarks": {"mmvp": judged}}).to_json())
    unimrg("report", run, other).refused(
        64, "judge is none there and gpt-4o-mini here", f"{other} (here)", "spec.stages.evaluate"
    )
    (tmp_path / "new").mkdir()
    (tmp_path / "new/job.json").write_text("{}")
    unimrg("report", run, tmp_path / "new").refused(66, f"file://{tmp_path}/new has no results", "spec.stages.evaluate")
    unimrg("report", run, tmp_path / "nowhere").refused(66, "nowhere is neither a job's file nor a run")
    unimrg("report").refused(64, "--experiment")
    unimrg("report", "--experiment", "one").refused(64, "which MLflow server", "--tracking-uri")
    missing = f"sqlite:///{tmp_path}/mlflow.db"
    unimrg("report", "--experiment", "one", "--tracking-uri", missing).refused(
        66, f"no MLflow data base {tmp_path}/mlflow.db"
    )
    assert not (tmp_path / "mlflow.db").exists()
    away = "http://127.0.0.1:1"
    unimrg("report", "--experiment", "one", "--tracking-uri", away).refused(69, f"MLflow at {away} cannot be reached")
    unimrg("report", run, "--out", run / "job.json").refused(64, "job.json/report.html cannot be written", "--out")
