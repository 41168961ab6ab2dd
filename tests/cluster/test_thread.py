"""The whole line on a cluster: an applied job becomes a finished run, whatever dies in between.

Everything is real but the kubelet: API server, scheduler, Training Operator, S3, MLflow, the operator with its own
account, ranks on two nodes.
"""

from __future__ import annotations

import logging
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.alive import alive
from tests.support.benchmark_tables import image, write_table, yes_no_rows
from tests.support.checkpoints import read_whole
from tests.support.cluster import Cluster, Object
from tests.support.control_plane import ControlPlane
from tests.support.kubelet import ProcessKubelet
from tests.support.mlflow_server import MlflowServer
from tests.support.s3_server import S3Server
from tests.support.thread_job import EVERY, EXPERIMENT, STEPS, condition, job, stage
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.checkpoint.reader import list_commits, read_manifest
from unimrg_trainer.checkpoint.tensors import CommitReader
from unimrg_trainer.storage import ObjectStore, open_store

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RESTART_SECONDS = 60.0
"""From a worker's death to the next attempt, running: what is promised."""
SPATIAL: Any = {"spatial": {"questions": 8}}
EVALUATION: Any = {"mode": "OnSuccess", "benchmarks": [SPATIAL], "heldOutRows": 8, "sampleImages": 1}


@pytest.fixture(scope="module", autouse=True)
def keys(s3_server: S3Server) -> Iterator[None]:
    """The store's keys, for this process's own look at it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
        yield


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    return s3_server.bucket()


@dataclass(frozen=True)
class Finished:
    """The job that nobody disturbed."""

    cluster: Cluster
    name: str
    run: ObjectStore
    status: Object
    uid: str


@pytest.fixture(scope="module")
def finished(
    control_plane: ControlPlane,
    kubelet: ProcessKubelet,
    s3_server: S3Server,
    mlflow_server: MlflowServer,
    bucket: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Finished]:
    control_plane.create_namespace("undisturbed")
    folder = tmp_path_factory.mktemp("undisturbed")
    cluster = Cluster(control_plane, kubelet, s3_server, mlflow_server, "undisturbed", folder)
    cluster.install()
    cluster.start_operator()
    try:
        rows = [row | {"image": image(number)} for number, row in enumerate(yes_no_rows(random.Random(1), 4))]
        store(cluster, bucket, "tables").put("own.tsv", write_table(folder / "own.tsv", rows).read_bytes())
        own = {"tsv": {"file": f"s3://{bucket}/tables/own.tsv", "kind": "YesNo"}}
        cluster.apply(job(cluster, bucket, "undisturbed", EVALUATION | {"benchmarks": [SPATIAL, own]}))
        done = cluster.wait_for_phase("undisturbed", "Succeeded", seconds=300)
        run = store(cluster, bucket, "undisturbed")
        yield Finished(cluster, "undisturbed", run, done["status"], done["metadata"]["uid"])
    finally:
        cluster.kill_operator()


def store(cluster: Cluster, bucket: str, name: str) -> ObjectStore:
    return open_store(f"s3://{bucket}/{name}", StorageSpec(endpoint=cluster.s3.endpoint, addressing="Path"))


def parameters(run: ObjectStore) -> tuple[int, dict[str, torch.Tensor]]:
    """Step and every tensor (weights and moments) of the newest commit."""
    commit = list_commits(run)[0]
    state = read_whole(CommitReader(run, commit, read_manifest(run, commit)))
    return state.step, state.tensors


def assert_same_parameters(run: ObjectStore, undisturbed: ObjectStore) -> None:
    (step, tensors), (wanted_step, wanted) = parameters(run), parameters(undisturbed)
    assert step == wanted_step == STEPS
    assert tensors.keys() == wanted.keys()
    different = [name for name in wanted if not torch.equal(tensors[name], wanted[name])]
    assert not different, f"{len(different)} of {len(wanted)} tensors differ, e.g. {different[0]}"


def assert_one_finished_run(cluster: Cluster, uid: str) -> Any:
    """One run in MLflow, FINISHED, with every step's loss once; returns it."""
    from mlflow import MlflowClient

    client = MlflowClient(cluster.mlflow.uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`unimrg.job_uid` = '{uid}'")
    assert run.info.status == "FINISHED"
    (name,) = [name for name in run.data.metrics if name.lower().endswith("understanding") and "train" in name]
    points = Counter(point.step for point in client.get_metric_history(run.info.run_id, name))
    assert points == dict.fromkeys(range(1, STEPS + 1), 1), name
    return run


def trains(found: Object, attempt: int) -> bool:
    train = stage(found, "train")
    return train.get("attempt") == attempt and train.get("state") == "Running"


def wait_for_commit(cluster: Cluster, run: ObjectStore, name: str, step: int) -> None:
    cluster.wait_for(
        name, lambda _: any(commit.step >= step for commit in list_commits(run)), 120, f"(commit of step {step})"
    )


def train_until(cluster: Cluster, bucket: str, name: str, step: int) -> ObjectStore:
    """Start a job under a new operator and return its run once `step` is committed."""
    cluster.start_operator()
    cluster.apply(job(cluster, bucket, name))
    run = store(cluster, bucket, name)
    wait_for_commit(cluster, run, name, step)
    return run


def assert_resumed(run: ObjectStore, attempt: int, least: int) -> None:
    """An attempt went on from a commit: equal parameters alone would also come of a new start."""
    log = run.get(f"logs/attempt-{attempt}/train/rank-0.log").decode()
    found = re.search(r"resumed from step (\d+)", log)
    assert found is not None, "it began from the start"
    assert int(found[1]) >= least


def uids(pods: list[Object]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


# --- undisturbed ------------------------------------------------------------------------------------------------


def assert_completed(status: Object, run: ObjectStore) -> None:
    """Every stage succeeded at once, and the last step is committed."""
    assert condition({"status": status}, "Complete")["status"] == "True"
    assert [item["name"] for item in status["stages"] if item["state"] == "Succeeded"] == [
        "check",
        "prepare",
        "train",
        "evaluate",
        "finish",
    ]
    assert status["attempt"] == 1
    assert parameters(run)[0] == STEPS
    assert status["checkpoint"]["step"] == STEPS


def test_an_applied_job_becomes_a_finished_run(finished: Finished) -> None:
    assert_completed(finished.status, finished.run)


@pytest.mark.long
@pytest.mark.parametrize("family", ["openuni", "showo"])
def test_a_job_of_another_family_becomes_a_finished_run(cluster: Cluster, bucket: str, family: str) -> None:
    cluster.start_operator()
    cluster.apply(job(cluster, bucket, family, EVALUATION, family))
    done = cluster.wait_for_phase(family, "Succeeded", seconds=400)
    run = store(cluster, bucket, family)
    assert_completed(done["status"], run)
    assert run.get("results/contact_sheet.png").startswith(b"\x89PNG")
    assert_one_finished_run(cluster, done["metadata"]["uid"])


def test_progress_and_scores_stand_in_the_status(finished: Finished) -> None:
    status = finished.status
    assert (status["progress"]["step"], status["progress"]["totalSteps"]) == (STEPS, STEPS)
    assert status["progress"]["steps"] == f"{STEPS}/{STEPS}"
    assert float(status["progress"]["loss"]) > 0
    scores = {score["name"]: float(score["value"]) for score in status["benchmarks"]}
    assert {"eval/spatial/acc", "eval/tsv/acc"} <= scores.keys()
    shown = f"spatial/acc {scores['eval/spatial/acc']:.4g}, tsv/acc {scores['eval/tsv/acc']:.4g}"
    assert status["scores"] == shown and shown in finished.cluster.kubectl("get", "umj", "-o", "wide")
    items = finished.run.get("results/items/tsv.jsonl").decode().splitlines()
    assert len(items) == 4 and finished.run.get("results/tsv/predictions.tsv")


def test_the_run_in_mlflow_is_finished_at_the_last_step(finished: Finished) -> None:
    run = assert_one_finished_run(finished.cluster, finished.uid)
    assert finished.status["mlflow"]["runId"] == run.info.run_id
    scores = {score["name"]: float(score["value"]) for score in finished.status["benchmarks"]}
    tracked = {name: value for name, value in run.data.metrics.items() if name in scores}
    assert tracked == scores
    assert run.info.run_id in finished.status["mlflow"]["url"]


def test_kubectl_shows_phase_step_loss_and_link(finished: Finished) -> None:
    header, row = finished.cluster.kubectl("get", "umj").splitlines()
    assert header.split() == ["NAME", "PHASE", "STEP", "LOSS", "ETA", "ATTEMPT", "AGE"]
    assert row.split()[:3] == [finished.name, "Succeeded", f"{STEPS}/{STEPS}"]
    assert finished.cluster.mlflow.uri in finished.cluster.kubectl("get", "umj", "-o", "wide")


def test_the_command_line_shows_status_and_logs(finished: Finished) -> None:
    def unimrg(*arguments: str) -> str:
        where = ["-n", finished.cluster.namespace]
        done = subprocess.run(
            [sys.executable, "-m", "unimrg_cli.main", *arguments, *where],
            env={**os.environ, "KUBECONFIG": str(finished.cluster.control_plane.kubeconfig)},
            text=True,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    shown = unimrg("status", finished.name)
    assert "Succeeded" in shown
    assert f"{STEPS}/{STEPS}" in shown or f"{STEPS} of {STEPS}" in shown
    assert f"step {STEPS}/{STEPS}" in unimrg("logs", finished.name, "--stage", "train")


def test_no_secret_stands_in_specs_status_logs_or_events(finished: Finished) -> None:
    cluster = finished.cluster
    secret = cluster.s3.secret_key
    kinds = "pods,jobs.batch,pytorchjobs.kubeflow.org,unimrgjobs.training.unimrg.dev,events,events.events.k8s.io"
    assert secret not in cluster.kubectl("get", kinds, "-o", "json")
    assert secret not in cluster.operator_log.read_text()
    logs = [cluster.log(pod["metadata"]["name"]) for pod in cluster.pods(finished.name)]
    assert all("ended with 0" in log for log in logs), "a log that cannot be read proves nothing"
    assert not any(secret in log for log in logs)


# --- disturbed --------------------------------------------------------------------------------------------------


def test_a_run_disturbed_in_three_ways_ends_in_the_same_bits(cluster: Cluster, bucket: str, finished: Finished) -> None:
    """The operator is killed, a worker is deleted as by a drain, a worker is killed: one job, one after the other."""
    name = "disturbed"
    run = train_until(cluster, bucket, name, EVERY)
    pods, children = uids(cluster.pods(name, "train")), uids(cluster.children(name, "train"))

    cluster.kill_operator()
    cluster.start_operator()
    wait_for_commit(cluster, run, name, 3 * EVERY)
    assert uids(cluster.pods(name, "train")) == pods, "a new operator left no pod alone"
    assert uids(cluster.children(name, "train")) == children and len(children) == 1

    drained = cluster.pods(name, "train", 1)[1]["metadata"]["name"]
    cluster.kubectl("delete", "pod", drained, "--wait=false")
    found = cluster.wait_for(name, lambda found: trains(found, 2), RESTART_SECONDS, "(attempt 2 running)")
    assert stage(found, "train")["restartCounters"]["userRestarts"] == 0, "a drain was charged to the program"

    wait_for_commit(cluster, run, name, 7 * EVERY)
    second = cluster.pods(name, "train", 2)
    assert len(second) == 2
    names = [pod["metadata"]["name"] for pod in second]
    ranks = [pid for pod in names for pid in cluster.kubelet.processes(pod, cluster.namespace)]
    cluster.kubelet.kill_container(names[1], cluster.namespace)
    died = time.monotonic()
    cluster.wait_for(name, lambda found: trains(found, 3), RESTART_SECONDS, "(attempt 3 running)")
    logger.info("attempt 3 ran %.1f s after the worker's death", time.monotonic() - died)
    assert len(ranks) >= 4, "a launcher and a rank per node"
    assert not any(map(alive, ranks)), "somebody of attempt 2 is alive beside attempt 3"

    done = cluster.wait_for_phase(name, "Succeeded", seconds=180)
    train = stage(done, "train")
    assert (train["attempt"], train["restartCounters"]["userRestarts"]) == (3, 1)
    assert_same_parameters(run, finished.run)
    assert_one_finished_run(cluster, done["metadata"]["uid"])
    assert_resumed(run, 2, 3 * EVERY)
    assert_resumed(run, 3, 7 * EVERY)


# --- the main job -----------------------------------------------------------------------------------------------


STEPS_ON_THE_CLUSTER = 60


@pytest.mark.timeout(1300)
def test_the_quick_start_of_the_examples_completes_on_a_cluster(
    cluster: Cluster, s3_server: S3Server, tmp_path: Path
) -> None:
    """examples/quickstart-s3.yaml, but for the two addresses and fewer steps and rows, created by `unimrg submit`."""
    bucket = s3_server.bucket()
    examples = Path(__file__).parents[2] / "examples"
    weights = examples / "tiny_base" / "harmon-tiny.safetensors"
    s3_server.client().upload_file(weights, bucket, weights.name)
    text = (examples / "quickstart-s3.yaml").read_text()
    for there, here in {
        "http://s3.unimrg.svc:8333": cluster.s3.endpoint,
        "http://mlflow.unimrg.svc:5000": cluster.mlflow.uri,
        "s3://unimrg/": f"s3://{bucket}/",
        "totalSteps: 400": f"totalSteps: {STEPS_ON_THE_CLUSTER}",
        "train: 2000, heldOut: 256": "train: 200, heldOut: 32",
        "heldOutRows: 256": "heldOutRows: 32",
        "questions: 512": "questions: 32",
    }.items():
        assert there in text
        text = text.replace(there, here)
    file = tmp_path / "quickstart-s3.yaml"
    file.write_text(text)
    cluster.start_operator()
    submitted = subprocess.run(
        [sys.executable, "-m", "unimrg_cli.main", "submit", str(file), "-n", cluster.namespace],
        env={**os.environ, "KUBECONFIG": str(cluster.control_plane.kubeconfig)},
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    done = cluster.wait_for_phase("quickstart-s3", "Succeeded", seconds=900)
    status = done["status"]
    assert status["checkpoint"]["step"] == STEPS_ON_THE_CLUSTER
    assert status["benchmarks"]
    logger.info("%s", cluster.kubectl("get", "umj"))
