"""A tracked job read back from a real server by the requests that MLflow's pages make, and runs closed afterwards."""

from __future__ import annotations

import json
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.local_jobs import prepare_data, tiny_job
from tests.support.mlflow_server import MlflowServer
from tests.support.train_stage import run_stage
from unimrg_api.load import parse_job
from unimrg_cli.main import app
from unimrg_trainer.checkpoint.identity import claim_attempt, claim_identity
from unimrg_trainer.checkpoint.reader import list_commits
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.engine import evaluate
from unimrg_trainer.storage import LocalStore
from unimrg_trainer.tracking.segments import read_curves
from unimrg_trainer.tracking.spool import save_spool

STEPS = 6
pytestmark = pytest.mark.timeout(180)


class Job:
    """A job whose train and evaluate stages ran in pods that were lost before anything reached MLflow."""

    def __init__(self, folder: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server, self.folder, self.experiment = server, folder, f"experiment {uuid.uuid4().hex}"
        job, self.file = tiny_job(
            folder,
            model__harmon__sampling={"steps": 2, "diffusionSteps": 2, "guidance": "1"},
            training__stopStep=STEPS,
            checkpoint__everySteps=2,
            checkpoint__keepLast=2,
            tracking={
                "mlflow": {"uri": server.uri, "experiment": self.experiment, "credentials": {"secretName": "keys"}}
            },
            stages={
                "evaluate": {"benchmarks": [{"generatedMaps": {"images": 2}}], "heldOutRows": 4, "sampleImages": 1}
            },
        )
        self.job = job
        prepare_data(job, folder)
        self.run = folder / "run"
        store, data = LocalStore(self.run), LocalStore(folder / "data")
        claim_identity(store, "f00d", job.trained_values(Dataset.open(data, "train").digest))
        claim_attempt(store, None, 1)
        run_stage(folder, job, 1, monkeypatch)
        run_stage(folder, job, 2, monkeypatch, stage=evaluate.main)
        save_spool(folder / "pod-2", store)

    def sync(self, target: Path) -> str:
        done = CliRunner().invoke(app, ["track", "sync", str(target)])
        assert done.exit_code == 0, done.output
        return done.stdout

    def get(self, request: str, **body: object) -> Any:
        """Ask MLflow's REST API; with a body by POST."""
        content = json.dumps(body).encode() if body else None
        url = f"{self.server.uri}/api/2.0/mlflow/{request}"
        sent = urllib.request.Request(url, content, {"Content-Type": "application/json"})
        with urllib.request.urlopen(sent, timeout=30) as answer:
            return json.load(answer)

    def found(self) -> tuple[Any, Any]:
        """The experiment, and the only run in it."""
        name = urllib.request.quote(self.experiment)  # type: ignore[attr-defined]
        experiment = self.get(f"experiments/get-by-name?experiment_name={name}")["experiment"]
        (run,) = self.get("runs/search", experiment_ids=[experiment["experiment_id"]])["runs"]
        return experiment, run


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, mlflow_server: MlflowServer) -> Iterator[Job]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Job(tmp_path_factory.mktemp("job"), mlflow_server, monkeypatch)


@pytest.fixture(scope="module")
def synced(job: Job) -> str:
    """What the command printed that sent everything."""
    return job.sync(job.run)


def pairs(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {entry["key"]: entry["value"] for entry in entries}


def test_a_lost_job_is_sent_and_closed_by_its_folder_alone(job: Job, synced: str) -> None:
    _, run = job.found()
    assert "records were still to be sent; the MLflow run was closed as KILLED" in synced
    assert run["info"]["run_id"] in synced
    assert run["info"]["status"] == "KILLED"  # nobody saw its evaluation end
    expected = read_curves(job.folder / "pod-2" / "spool")
    for key in ("train/loss", "train/grad_norm", "ckpt/save_s"):
        query = f"metrics/get-history?run_id={run['info']['run_id']}&metric_key={key}"
        points = job.get(query)["metrics"]
        assert {point["step"]: point["value"] for point in points} == expected[key]
        assert len(points) == len(expected[key])


def test_sending_again_changes_nothing(job: Job, synced: str) -> None:
    before = job.found()[1]
    assert synced.endswith(job.sync(job.file).removeprefix("the MLflow run"))  # nothing was still to be sent
    assert job.sync(job.folder / "pod-1") != ""  # a folder saved from a pod
    after = job.found()[1]
    assert after["data"] == before["data"] and after["outputs"] == before["outputs"]


def test_the_run_opens_among_trainings_and_says_what_it_is(job: Job, synced: str) -> None:
    experiment, run = job.found()
    assert pairs(experiment["tags"])["mlflow.experimentKind"] == "custom_model_development"
    tags, params = pairs(run["data"]["tags"]), pairs(run["data"]["params"])
    note = tags["mlflow.note.content"]
    for said in (
        "harmon Tiny",
        "UniMRG",
        "Depth × 1",
        "random weights of seed",
        "scenes at `file://",
        "unimrg run unimrgjob.json",
    ):
        assert said in note, said
    assert tags["mlflow.source.name"] == "UniMRGJob tiny" and tags["mlflow.user"]
    assert tags["unimrg.attempt.1"].endswith("Z, after step 0")
    url = f"{job.server.uri}/get-artifact?run_uuid={run['info']['run_id']}&path=job/unimrgjob.json"
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert parse_job(json.load(answer)) == job.job
    assert (params["training.batch.rowsPerObjective"], params["method"]) == ("4", "UniMRG")
    assert params["model.harmon.variant"] == "Tiny"


def test_metrics_are_few_and_the_rest_is_in_tables(job: Job, synced: str) -> None:
    _, run = job.found()
    names = {name for name in pairs(run["data"]["metrics"]) if not name.startswith("system/")}
    assert {"train/loss", "train/loss/depth", "optim/lr", "perf/step_s", "eval/heldout/depth/after"} <= names
    assert {name for name in names if name.endswith(("_low", "_high", "/n", "_n", "/before"))} == set()
    assert len(names) <= 40
    tables = json.loads(pairs(run["data"]["tags"])["mlflow.loggedArtifacts"])
    url = f"{job.server.uri}/get-artifact?run_uuid={run['info']['run_id']}&path={tables[0]['path']}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        table = json.load(answer)
    assert table["columns"][:3] == ["objective", "n", "before"] and len(table["data"]) == 4


def test_pictures_are_logged_by_step_with_thumbnails(job: Job, synced: str) -> None:
    _, run = job.found()
    assert pairs(run["data"]["tags"])["mlflow.loggedImages"] == "True"
    files = job.get(f"artifacts/list?run_id={run['info']['run_id']}&path=images")["files"]
    shown = sorted(tuple(Path(file["path"]).name.split("+")[:3]) for file in files if file["path"].endswith(".png"))
    assert shown == [("inputs and targets", "step", "0"), ("samples", "step", str(STEPS))]
    assert sum(file["path"].endswith("+compressed.webp") for file in files) == 2


def test_data_sets_are_inputs_with_digest_and_purpose(job: Job, synced: str) -> None:
    _, run = job.found()
    inputs = {pairs(one["tags"])["mlflow.data.context"]: one["dataset"] for one in run["inputs"]["dataset_inputs"]}
    assert {context: one["name"] for context, one in inputs.items()} == {
        "training": "scenes",
        "evaluation": "scenes (held out)",
    }
    params = pairs(run["data"]["params"])
    assert inputs["training"]["digest"] == params["data.digest"][:36]
    assert json.loads(inputs["training"]["source"])["uri"] == (job.folder / "data").as_uri()


def test_each_kept_checkpoint_is_a_model_with_its_scores_and_no_other(job: Job, synced: str) -> None:
    experiment, run = job.found()
    commits = list_commits(LocalStore(job.run))

    def models() -> list[Any]:
        return list(job.get("logged-models/search", experiment_ids=[experiment["experiment_id"]]).get("models", []))

    def steps() -> set[str]:
        return {model["info"]["name"] for model in models()}

    assert steps() == {"tiny-step4", "tiny-step6"}
    newest = next(model for model in models() if model["info"]["name"] == "tiny-step6")
    tags = pairs(newest["info"]["tags"])
    assert tags["sha256"] == commits[0].manifest_sha256
    assert tags["uri"] == f"{job.run.as_uri()}/{commits[0].folder}"
    assert newest["info"]["source_run_id"] == run["info"]["run_id"]
    run_scores = {name: value for name, value in pairs(run["data"]["metrics"]).items() if name.startswith("eval/")}
    scores = newest["data"]["metrics"]
    assert {score["key"]: score["value"] for score in scores} == run_scores != {}
    (evaluation,) = {(score["dataset_name"], score["dataset_digest"], score["step"]) for score in scores}
    assert evaluation == ("scenes (held out)", pairs(run["data"]["params"])["data.digest"][:36], STEPS)
    assert "metrics" not in next(model for model in models() if model["info"]["name"] == "tiny-step4")["data"]
    (job.run / commits[1].key).unlink()  # as retention does
    job.sync(job.run)
    assert steps() == {"tiny-step6"}
