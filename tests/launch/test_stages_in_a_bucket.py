"""Stages as pods of a cluster run them: everything that lasts in a bucket, and an empty disk for each of them."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.local_jobs import tiny_job
from tests.support.ports import free_port
from tests.support.s3_answers import handled
from tests.support.s3_server import S3Server
from tests.support.s3_stores import Place
from tests.support.waiting import wait_until
from unimrg_api.environment import PodEnvironment
from unimrg_api.exit_codes import ExitCode
from unimrg_api.load import process_spec
from unimrg_api.termination import TerminationRecord
from unimrg_cli.run_view import describe_run
from unimrg_trainer.checkpoint import lease
from unimrg_trainer.checkpoint.reader import list_commits
from unimrg_trainer.launch import stages
from unimrg_trainer.launch.classification import WorkerGroupExit
from unimrg_trainer.launch.exit_records import ExitResult
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.storage import ObjectStore
from unimrg_trainer.tracking.segments import read_curves
from unimrg_trainer.tracking.spool import Spool, restore_segments

UID = "0b5c4f9e-5a0e-4d0e-9a57-6a2f7a1f0001"


@dataclasses.dataclass
class Pods:
    """The pods of one job, which share nothing but a bucket and a tracking server."""

    place: Place
    folder: Path
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    started: int = 0

    @property
    def run(self) -> ObjectStore:
        return self.place.store("run")

    @property
    def database(self) -> Path:
        return self.folder / "mlflow.db"

    def environment(self, **more: Any) -> PodEnvironment:
        """What the next pod gets; its folders are new."""
        self.started += 1
        storage = self.place.storage.model_dump(by_alias=True, exclude_none=True)
        places = {"data__shards": [f"{self.place.uri}/data"], "checkpoint__uri": f"{self.place.uri}/run"}
        tracking = {"mlflow": {"uri": f"sqlite:///{self.database}"}}
        job, _ = tiny_job(self.folder, **{"storage": storage, "tracking": tracking, **places, **self.changes})
        pod = self.folder / f"pod-{self.started}"
        pod.mkdir()
        return PodEnvironment(
            job="tiny",
            spec=process_spec(job),
            run_dir=pod / "run",
            cache=pod / "cache",
            termination_log=pod / "termination",
            stall_timeout=60,
            grace=30,
            **{"uid": UID, **more},
        )

    def stage(self, stage: Any, **more: Any) -> TerminationRecord:
        """Run a stage in a pod of its own and return its termination record."""
        env = self.environment(**more)
        end = stages.execute(stage, env, StopRequest(), rank_module="tests.support.fake_engine")
        assert TerminationRecord.parse(env.termination_log.read_bytes()).exit_code == end.code
        return end.record

    def tracked(self) -> tuple[list[tuple[str, str]], set[int]]:
        """(uid, status) of every tracked run, and the steps that have a loss."""
        with sqlite3.connect(self.database) as database:
            runs = database.execute(
                "select value, status from runs join tags using (run_uuid) where key = 'unimrg.job_uid'"
            ).fetchall()
            return runs, {step for (step,) in database.execute("select step from metrics where key = 'train/loss'")}


@pytest.fixture
def pods(s3_place: Place, tmp_path: Path) -> Pods:
    return Pods(s3_place, tmp_path)


def refused(record: TerminationRecord, code: ExitCode, *parts: str) -> None:
    assert record.exit_code == code, record
    for part in parts:
        assert part in record.message


# What the check finds


def test_a_check_of_several_nodes_waits_for_nobody_and_leaves_nothing(pods: Pods) -> None:
    started = time.monotonic()
    record = pods.stage("check", nodes=2, master_address="tiny-train-1-worker-0.nowhere.invalid")
    assert record.exit_code == 0, record
    assert time.monotonic() - started < 10
    assert pods.place.store("").list() == []


@pytest.mark.parametrize("field", ["checkpoint__uri", "data__shards"])
def test_a_missing_bucket_fails_the_check(pods: Pods, field: str, s3_server: S3Server) -> None:
    uri = "s3://nobody-made-this-one/x"
    pods.changes[field] = [uri] if field == "data__shards" else uri
    name = "spec.data.shards[0]" if field == "data__shards" else "spec.checkpoint.uri"
    refused(pods.stage("check"), ExitCode.INPUT_MISSING, name, uri, "no such bucket")
    assert "nobody-made-this-one" not in str(s3_server.client().list_buckets()["Buckets"])


def test_keys_that_may_only_read_fail_the_check(
    pods: Pods, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.reader_access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.reader_secret_key)
    refused(pods.stage("check"), ExitCode.CREDENTIALS, "spec.checkpoint.uri", f"{pods.place.uri}/run", "AccessDenied")


def test_shards_and_weights_that_are_not_there_fail_the_check(pods: Pods) -> None:
    pods.changes["data__sources"] = None
    refused(pods.stage("check"), ExitCode.INPUT_MISSING, "spec.data.shards[0]", f"{pods.place.uri}/data")
    pods.changes = {"model__init": f"{pods.place.uri}/weights"}
    refused(pods.stage("check"), ExitCode.INPUT_MISSING, "spec.model.init", f"{pods.place.uri}/weights")


def test_a_prefix_of_another_training_is_neither_used_nor_closed(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "UPLOAD_SECONDS", 300.0)  # a busy machine may take longer to import MLflow than 10 s
    assert pods.stage("prepare").exit_code == 0
    assert pods.stage("train", attempt="1").exit_code == 0
    pods.changes = {"training__seed": 7}
    refused(pods.stage("finish", attempt="1"), ExitCode.CONFIGURATION, "another training")
    assert [status for _, status in pods.tracked()[0]] == ["RUNNING"]
    pods.changes["data__shards"] = [f"{pods.place.uri}/elsewhere"]
    record = pods.stage("check")
    refused(record, ExitCode.CONFIGURATION, "spec.checkpoint.uri", f"{pods.place.uri}/run", "another training")
    assert pods.place.store("elsewhere").list() == []


# Stages that know each other through the bucket only


def test_a_job_whose_stages_share_no_disk_goes_through_all_of_them(pods: Pods) -> None:
    for stage in ("check", "prepare"):
        assert pods.stage(stage).exit_code == 0
    assert pods.stage("train", attempt="3").exit_code == 0
    evaluated = pods.stage("evaluate", attempt="3")
    assert evaluated.exit_code == 0, evaluated
    assert pods.stage("finish", attempt="3").message.endswith("the MLflow run was closed as FINISHED")
    assert pods.tracked() == ([(UID, "FINISHED")], {12})
    assert [key for key, _ in pods.run.list("logs/")] == [
        "logs/attempt-3/evaluate/rank-0.log",
        "logs/attempt-3/train/rank-0.log",
    ]
    assert [key for key, _ in pods.run.list("attempts/")] == ["attempts/3.json"]


def test_a_job_that_is_created_again_overwrites_nothing(pods: Pods) -> None:
    """Its object on the cluster has another uid and counts its attempts from 1."""
    pods.changes = {"stages": {"evaluate": {"mode": "Never"}}}
    pods.stage("prepare")
    for _ in range(2):  # the pod of attempt 1 comes back once
        assert pods.stage("train", attempt="1").exit_code == 0
    kept = {key: pods.run.get(key) for key, _ in pods.run.list("logs/")}
    assert pods.stage("train", attempt="1", uid="created again").exit_code == 0
    assert pods.stage("finish", attempt="1", uid="created again").message.endswith(
        "the MLflow run was closed as FINISHED"
    )
    assert sorted(key for key, _ in pods.run.list("attempts/")) == ["attempts/1.json", "attempts/2.json"]
    assert {key for key, _ in pods.run.list("outcomes/attempt-")} == {
        "outcomes/attempt-1-train.json",
        "outcomes/attempt-2-train.json",
    }
    assert {key: pods.run.get(key) for key in kept} == kept
    assert pods.tracked()[0] == [(UID, "FINISHED")]
    assert describe_run(str(pods.folder / "job.yaml")).state == "Completed"


def test_points_that_no_pod_shipped_are_shipped_by_finish(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracking server was down while training ran; its pod's disk is gone."""
    pods.stage("prepare")
    tracking = {"mlflow": {"uri": f"http://127.0.0.1:{free_port()}"}}
    monkeypatch.setattr(stages, "UPLOAD_SECONDS", 0.1)
    pods.changes = {"tracking": tracking}
    assert pods.stage("train", attempt="1").exit_code == 0
    shutil.rmtree(pods.folder / f"pod-{pods.started}")
    pods.changes = {"stages": {"evaluate": {"mode": "Never"}}}
    assert pods.stage("finish", attempt="1").message.endswith("the MLflow run was closed as FINISHED")
    assert pods.tracked() == ([(UID, "FINISHED")], {12})


def test_a_store_that_hangs_at_the_end_delays_no_termination_record(
    pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.stage("prepare")
    silent = threading.Event()
    written: list[bytes] = []
    classify = stages.classify

    def classifying(end: WorkerGroupExit) -> ExitResult:
        silent.set()
        return classify(end)

    def hang(**_: Any) -> None:
        if silent.is_set():
            written.append((pods.folder / f"pod-{pods.started}" / "termination").read_bytes())
            time.sleep(60)

    monkeypatch.setattr(stages, "classify", classifying)
    monkeypatch.setattr(stages, "SAVE_SECONDS", 1.0)
    started = time.monotonic()
    with handled(pods.place, "before-call.s3", hang):
        record = pods.stage("train", attempt="1")
    assert record.exit_code == 0, record
    assert TerminationRecord.parse(written[0]).exit_code == 0, "the termination record was not written yet"
    assert time.monotonic() - started < 50


def test_a_second_training_is_refused_and_a_later_attempt_takes_over(
    pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    me = f"process {os.getpid()} on {socket.gethostname()}"
    pods.stage("prepare")
    monkeypatch.setenv("FAKE_TRAIN", "wait")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(pods.stage, "train", attempt="1")
        at_work = pods.folder / "pod-2" / "run" / "spool"  # its rank writes there
        wait_until(lambda: at_work.exists() or first.done(), 60)
        monkeypatch.setenv("FAKE_TRAIN", "complete")
        refused(
            pods.stage("train", attempt="1", uid="another"), ExitCode.UNAVAILABLE, f"using {pods.place.uri}/run: {me}"
        )
        assert not first.done()
        assert pods.stage("train", attempt="2").exit_code == 0
        refused(first.result(), ExitCode.INTERRUPTED, me, "attempt 3, since", "has taken this training over")
    assert [commit.step for commit in list_commits(pods.run)] == [12], "who has lost the lease commits nothing"
    assert pods.stage("train", attempt="1", uid="another").exit_code == 0, "what has ended keeps nobody out"


@pytest.mark.slow
def test_nodes_with_addresses_of_their_own_train_together(pods: Pods) -> None:
    """Two pods at 127.0.1.1 and 127.0.1.2, as on a cluster: own disks, one master by its address."""
    pods.stage("prepare")
    envs = [
        pods.environment(
            attempt="1", nodes=2, node_rank=rank, pod_ip=f"127.0.1.{rank + 1}", master_address="127.0.1.1", processes=1
        )
        for rank in (0, 1)
    ]
    for env in envs:  # as the system metrics that each node has
        Spool(env.run_dir / "spool", 1).step(1, {f"system/node_{env.node_rank}/memory": 1.0})
    launch = "from unimrg_trainer.launch.main import main; main(['train'], rank_module='tests.support.fake_engine')"
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    processes = [
        subprocess.Popen([sys.executable, "-c", launch], env={**os.environ, **keys, **env.to_environ()}, cwd=Path.cwd())
        for env in envs
    ]
    try:
        assert [process.wait(120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    records = [TerminationRecord.parse(env.termination_log.read_bytes()) for env in envs]
    assert [record.reason for record in records] == ["Completed", "Completed"]
    assert [key for key, _ in pods.run.list("logs/")] == [
        f"logs/attempt-1/train/{name}" for name in ("rank-0.log", "rank-1.log")
    ]
    assert [key for key, _ in pods.run.list("outcomes/")] == ["outcomes/attempt-1-train.json"]
    restore_segments(pods.run, pods.folder / "finish")
    assert {"system/node_0/memory", "system/node_1/memory"} <= set(read_curves(pods.folder / "finish"))
