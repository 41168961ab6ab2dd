"""`unimrg sweep`: jobs one after another or side by side, here or on a cluster, and one table in the end."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_stand_in import JOBS, Answer, Request, StandIn, refusal, serving, write_kubeconfig
from tests.support.cluster_jobs import RUNNING, SUCCEEDED, cluster_job, failed
from tests.support.command_line import Unimrg
from tests.support.local_jobs import tiny_job
from unimrg_api.yaml_source import read_yaml
from unimrg_cli import sweep_cluster, sweep_local

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
NAMES = ["methods-sft-s1", "methods-sft-s2", "methods-unimrg-s1", "methods-unimrg-s2"]

STAND_IN = """\
import json, sys
from pathlib import Path
job = json.loads(Path(sys.argv[1]).read_text())
name, run = job["metadata"]["name"], Path(job["spec"]["checkpoint"]["uri"].removeprefix("file://"))
with Path(__file__).with_name("begun").open("a") as file:
    file.write(f"{name}\\n")
print("the last words of", name)
if name == "methods-sft-s2" and not Path(__file__).with_name("mended").exists():
    sys.exit(66)
files = {"job.json": {"uid": name}, "attempts/1.json": {}}
files["outcomes/finished.json"] = {"attempt": "1", "result": "Succeeded"}
loss = 1.0 if name.endswith("1") else 2.0
files["results/summary.json"] = {"held_out": {"Understanding": {"after": loss}}}
for key, value in files.items():
    (run / key).parent.mkdir(parents=True, exist_ok=True)
    (run / key).write_text(json.dumps(value))
"""
"""Stands in for `unimrg run`: leaves what a complete run does; one of the four fails until a file is there."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tiny_job(tmp_path)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return tmp_path / "sweep.yaml"


@pytest.fixture
def begun(file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which runs that begin write their names."""
    script = file.with_name("run.py")
    script.write_text(STAND_IN)
    monkeypatch.setattr(sweep_local, "RUN", (sys.executable, str(script)))
    return file.with_name("begun")


def test_a_dry_run_prints_jobs_that_are_valid(unimrg: Unimrg, file: Path, tmp_path: Path) -> None:
    ended = unimrg("sweep", file, "--dry-run")
    assert ended.code == 0, ended.err
    documents = ended.out.removeprefix("---\n").split("---\n")
    assert [read_yaml(text.encode()).value["metadata"]["name"] for text in documents] == NAMES
    (tmp_path / "elsewhere").mkdir()
    one = tmp_path / "elsewhere" / "one.yaml"
    one.write_text(documents[0])
    assert unimrg("validate", one).code == 0
    assert f"file://{tmp_path}/run/methods/sft-s1" in documents[0]
    assert len(json.loads(unimrg("sweep", file, "--dry-run", "-o", "json").out)) == 4


def test_every_job_runs_and_only_the_unfinished_run_again(unimrg: Unimrg, file: Path, begun: Path) -> None:
    ended = unimrg("sweep", file, "--parallel", 2)
    assert ended.code == 66, ended.err
    assert sorted(begun.read_text().split()) == NAMES, "one that fails does not keep others from running"
    assert "the last words of methods-sft-s2" in ended.err and "the last words of methods-sft-s1" not in ended.err
    begun.with_name("mended").touch()
    begun.unlink()
    ended = unimrg("sweep", file, "-o", "json")
    assert ended.code == 0, ended.err
    assert begun.read_text().split() == ["methods-sft-s2"]
    found = json.loads(ended.out)
    assert [job["state"] for job in found["jobs"]] == ["Completed"] * 4
    mean = found["means"][1]
    assert mean["labels"] == {"spec.method": "unimrg"}
    assert mean["losses"]["Understanding"] == {"mean": 1.5, "deviation": pytest.approx(0.5**0.5), "jobs": 2}


def test_the_table_has_several_forms(unimrg: Unimrg, file: Path, begun: Path) -> None:
    unimrg("sweep", file)
    rows = list(csv.reader(io.StringIO(unimrg("sweep", file, "--results", "-o", "csv").out)))
    assert rows[0] == ["job", "state", "loss/Understanding"]
    assert rows[1:3] == [["methods-sft-s1", "Completed", "1"], ["methods-sft-s2", "NotStarted", ""]]
    assert [row[0] for row in rows[1:]] == NAMES, "means are no numbers"
    markdown = unimrg("sweep", file, "--results", "-o", "markdown").out.splitlines()
    assert markdown[1] == "| --- | --- | --- |" and markdown[-1] == "| unimrg | mean | 1.5 ± 0.71 (2) |"
    assert "methods-unimrg-s2" in unimrg("sweep", file, "--results").out


def test_a_signal_ends_what_runs_and_begins_nothing_more(file: Path) -> None:
    sleeper = file.with_name("sleeper.py")
    sleeper.write_text(
        "import signal, sys, os\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(85))\n"
        "os.write(1, b'runs\\n')\n"
        "signal.pause()\n"
    )
    program = f"""
import sys
from unimrg_cli import sweep_local
from unimrg_cli.main import main
sweep_local.RUN = (sys.executable, {str(sleeper)!r})
sys.argv = ["unimrg", "sweep", {str(file)!r}]
main()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"runs\n"
        os.kill(process.pid, signal.SIGTERM)
        errors = process.stderr.read().decode()
        assert process.wait(60) == 85, errors
    assert errors.count("begun") == 1 and "to go on" in errors


def test_what_is_wrong_in_a_job_is_shown_at_its_line(unimrg: Unimrg, file: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(job.read_text().replace('"everySteps": 4', '\n"everySteps": 0'))
    unimrg("sweep", file, "--dry-run").refused(64, f"{job} as methods-sft-s1:2:", "spec.checkpoint.everySteps")
    tiny_job(tmp_path)
    file.write_text(SWEEP.replace("[1, 2]", "[1, -2]"))
    wrong = f"{file}:8:46: spec.matrix[1].values[1]: as spec.training.seed of methods-sft-s2: must be a whole number"
    unimrg("sweep", file).refused(64, wrong, "\n    write e.g. 42")
    file.write_text(SWEEP.replace("spec.method,", "spec.methods,"))
    unimrg("validate", file).refused(64, f"{file}:7:14: spec.matrix[0].path: a job's spec has no such field")
    file.write_text(SWEEP.replace("job.yaml", "other.yaml"))
    unimrg("validate", file).refused(66, "other.yaml: there is no such file")


def test_the_example_of_a_sweep_is_valid(unimrg: Unimrg) -> None:
    example = Path(__file__).parents[2] / "examples" / "sweep.yaml"
    assert "methods is a valid sweep of 6 jobs" in unimrg("validate", example).out


def test_a_sweep_is_valid_and_other_commands_name_its_own(unimrg: Unimrg, file: Path) -> None:
    assert "methods is a valid sweep of 4 jobs" in unimrg("validate", file).out
    assert json.loads(unimrg("validate", file, "-o", "json").out)["jobs"] == NAMES
    for command in ("run", "submit", "plan", "status", "logs"):
        unimrg(command, file).refused(64, f"unimrg sweep {file}")
    unimrg("sweep", file.with_name("job.yaml")).refused(64, "is no sweep")


class Jobs:
    """The jobs that a cluster has: each is Running when it is first listed, and has ended when it is listed again."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.most = 0
        self.ends: dict[str, dict[str, Any]] = {}
        self._listed = set[str]()

    def answer(self, request: Request) -> Answer:
        if request.method == "POST":
            self.created.append(request.body)
            return Answer(201, cluster_job(None, request.body["metadata"]["name"]))
        if request.path != JOBS:
            return refusal(404, "NotFound")
        assert request.query == {"labelSelector": "training.unimrg.dev/sweep=methods"}
        names = [job["metadata"]["name"] for job in self.created]
        ended = {name: self.ends.get(name, SUCCEEDED) for name in self._listed}
        items = [cluster_job(ended.get(name, RUNNING), name) for name in names]
        self.most = max(self.most, len(set(names) - self._listed))
        self._listed |= set(names)
        return Answer(200, {"items": items})


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """A cluster's jobs, none at first; the kubeconfig for it is `cluster`."""
    found = Jobs()
    with serving(found.answer) as port:
        write_kubeconfig(tmp_path / "cluster", f"http://127.0.0.1:{port}")
        yield found


@pytest.fixture
def cluster_sweep(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sweep_cluster, "POLL_SECONDS", 0)
    changes = {"data__shards": ["s3://bucket/data"], "checkpoint__uri": "s3://bucket/run"}
    nowhere = {"endpoint": "http://127.0.0.1:1"}
    tiny_job(tmp_path, **changes, storage=nowhere, tracking={"mlflow": {"uri": "http://mlflow:5000"}})
    return file


def test_a_cluster_gets_as_many_jobs_at_a_time_as_wanted(unimrg: Unimrg, cluster_sweep: Path, jobs: Jobs) -> None:
    jobs.ends["methods-sft-s2"] = failed(66)
    options = ("--kubeconfig", cluster_sweep.with_name("cluster"), "-o", "json")
    ended = unimrg("sweep", cluster_sweep, *options, "--parallel", 2, "--wait")
    assert ended.code == 66, ended.err
    assert [job["metadata"]["name"] for job in jobs.created] == NAMES
    assert jobs.most == 2
    assert jobs.created[0]["metadata"]["labels"] == {"training.unimrg.dev/sweep": "methods"}
    assert jobs.created[0]["spec"]["checkpoint"]["uri"] == "s3://bucket/run/methods/sft-s1"
    found = json.loads(ended.out)
    assert [job["state"] for job in found["jobs"]] == ["Completed", "Failed", "Completed", "Completed"]
    assert found["means"][1]["scores"]["eval/heldout/depth/relative_change"] == {
        "mean": -0.447,
        "deviation": 0.0,
        "jobs": 2,
    }


def test_jobs_that_a_cluster_has_are_not_created_again(unimrg: Unimrg, cluster_sweep: Path, jobs: Jobs) -> None:
    for _ in range(2):
        assert unimrg("sweep", cluster_sweep, "--kubeconfig", cluster_sweep.with_name("cluster")).code == 0
    assert len(jobs.created) == 4


def test_what_a_cluster_refuses_is_refused_before_anything_is_created(
    unimrg: Unimrg, file: Path, api_stand_in: StandIn
) -> None:
    ended = unimrg("sweep", file, "--kubeconfig", api_stand_in.kubeconfig)
    ended.refused(64, "spec.checkpoint.uri: a file:// URI works on a cluster only")
    unimrg("sweep", file, "-n", "research", "--dry-run").refused(64, "works on a cluster only")
    assert api_stand_in.requests == []
