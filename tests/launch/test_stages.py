"""The stages of a job, as a pod runs them: exit code, termination record, and what is left under the prefix."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.local_jobs import tiny_job
from tests.support.written_shards import write_split
from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import Interrupted
from unimrg_api.exit_codes import ExitCode
from unimrg_api.stages import StageName
from unimrg_api.termination import TerminationRecord
from unimrg_trainer.data.publication import Publication, publish
from unimrg_trainer.launch import logs, outcomes, preparing, stages, worker_group
from unimrg_trainer.launch.local import local_environment
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.preparation.base import SourceSample
from unimrg_trainer.preparation.make import pack
from unimrg_trainer.storage import open_store
from unimrg_trainer.storage.base import ObjectStore
from unimrg_trainer.tracking.settings import TerminalStatus
from unimrg_trainer.tracking.uploader import UploadReport


def environment(folder: Path, **changes: Any) -> PodEnvironment:
    job, file = tiny_job(folder, **changes)
    return local_environment(job, file, None)


def run_of(folder: Path) -> ObjectStore:
    return open_store((folder / "run").as_uri())


def run_stage(stage: StageName, env: PodEnvironment) -> ExitCode:
    return stages.execute(stage, env, StopRequest()).code


def ended(env: PodEnvironment) -> TerminationRecord:
    return TerminationRecord.parse(env.termination_log.read_bytes())


def test_a_check_leaves_nothing_but_its_termination_record(tmp_path: Path) -> None:
    env = environment(tmp_path)
    assert run_stage("check", env) is ExitCode.OK
    assert ended(env).reason == "Completed"
    assert [key for key, _ in run_of(tmp_path).list() if not key.startswith("local/")] == []
    assert not list((tmp_path / "data").rglob("*")) or not any(p.is_file() for p in (tmp_path / "data").rglob("*"))


def test_processes_that_cannot_share_the_rows_fail_the_check(tmp_path: Path) -> None:
    env = dataclasses.replace(environment(tmp_path), processes=3)
    assert run_stage("check", env) is ExitCode.CONFIGURATION
    assert "use 2 processes" in ended(env).message
    assert run_stage("check", dataclasses.replace(env, spec="{")) is ExitCode.CONFIGURATION
    assert "UNIMRG_SPEC holds no JSON" in ended(env).message


def test_packages_that_are_not_installed_are_all_named_by_the_check(tmp_path: Path) -> None:
    changes = {
        "model": {"custom": {"name": "absent-family"}},
        "objectives": [{"name": "Understanding", "weight": "1"}, {"custom": "absent-map", "weight": "1"}],
        "stages": {"evaluate": {"benchmarks": [{"custom": {"name": "absent-benchmark"}}]}},
    }
    env = environment(tmp_path, **changes)
    named = environment(tmp_path, model={"custom": {"name": "harmon"}})
    assert run_stage("check", named) is ExitCode.CONFIGURATION and "'harmon' is built in" in ended(named).message
    assert run_stage("check", env) is ExitCode.CONFIGURATION
    for path, name in {
        "spec.model.custom": "absent-family",
        "spec.objectives[1].custom": "absent-map",
        "spec.stages.evaluate.benchmarks[0].custom": "absent-benchmark",
    }.items():
        assert path in ended(env).message and repr(name) in ended(env).message


def test_a_map_that_images_lack_fails_the_check_if_it_is_learnt(tmp_path: Path) -> None:
    for name, maps in (("whole", ("depth", "segmentation")), ("lacking", ("depth",))):
        grey, store = np.zeros((4, 4), np.uint8), open_store((tmp_path / name).as_uri())
        files = pack(SourceSample(np.zeros((4, 4, 3), np.uint8), dict.fromkeys(maps, grey))).members
        manifest = write_split(store, "d" * 16, "train", 3, lambda _, files=files: files)  # type: ignore[misc]
        publish(store, Publication(digest="d" * 64, prefix="d" * 16, manifests={"train": manifest}))
    mixed = {"data": {"shards": ["file://whole", "file://lacking"]}}
    env = environment(tmp_path, **mixed)
    assert run_stage("check", env) is ExitCode.DATA_CORRUPT
    message = ended(env).message
    assert "spec.data.shards" in message and "3 of 3 images" in message and "no map 'segmentation'" in message
    assert (tmp_path / "lacking").as_uri() in message
    assert run_stage("check", environment(tmp_path, **mixed, method="RecA")) is ExitCode.OK
    assert run_stage("check", environment(tmp_path, data={"shards": ["file://whole"]})) is ExitCode.OK


def test_what_follows_the_ranks_fits_into_the_end_of_the_grace_period() -> None:
    after_a_stop = stages.UPLOAD_SECONDS_AFTER_STOP + stages.SAVE_SECONDS_AFTER_STOP + logs.ECHO_SECONDS
    assert worker_group.REAP_SECONDS + after_a_stop <= worker_group.GRACE_MARGIN_SECONDS


@pytest.mark.parametrize(("gpus", "hidden"), [(0, {"CUDA_VISIBLE_DEVICES": ""}), (1, {})])
def test_ranks_of_a_job_for_cpus_see_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, hidden: dict[str, str]
) -> None:
    seen: list[Any] = []

    def start(*_: Any, overrides: Any) -> None:
        seen.append(overrides)
        raise Interrupted

    env = environment(tmp_path, trainer={"gpusPerNode": gpus, "processesPerNode": 1})
    assert run_stage("prepare", env) is ExitCode.OK
    monkeypatch.setattr(stages.worker_group, "start", start)
    assert run_stage("train", env) is ExitCode.INTERRUPTED
    assert seen == [hidden]


def test_an_interrupted_preparation_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env, stop = environment(tmp_path), StopRequest()
    report_stage = stages.reports.report_stage

    def interrupt(*arguments: Any, **named: Any) -> None:
        report_stage(*arguments, **named)
        if named.get("step"):
            raise KeyboardInterrupt

    monkeypatch.setattr(stages.reports, "report_stage", interrupt)
    monkeypatch.setattr(preparing, "REPORT_SECONDS", 0.0)
    assert stages.execute("prepare", env, stop).code is ExitCode.INTERRUPTED
    assert not list((tmp_path / "data").rglob("PUBLISHED"))


def test_a_stage_does_not_begin_after_a_request_to_stop(tmp_path: Path) -> None:
    stop = StopRequest()
    stop.request("test")
    assert stages.execute("prepare", environment(tmp_path), stop).code is ExitCode.INTERRUPTED
    assert not (tmp_path / "data").exists()


def test_pods_of_several_nodes_do_not_count_attempts_themselves(tmp_path: Path) -> None:
    env = environment(tmp_path)
    run_stage("prepare", env)
    several = dataclasses.replace(env, attempt="", nodes=2)
    assert run_stage("train", several) is ExitCode.CONFIGURATION
    assert "UNIMRG_ATTEMPT" in ended(several).message


@pytest.mark.parametrize(
    ("train", "evaluate", "outcome"),
    [
        (0, "unwanted", "Succeeded"),
        (0, 0, "Succeeded"),
        (0, 70, "Failed"),
        (65, None, "Failed"),
        (85, None, "Interrupted"),
        (130, None, "Interrupted"),
        (0, 85, "Interrupted"),
        (0, None, "Interrupted"),
        (None, None, "Interrupted"),
    ],
)
def test_a_run_is_closed_as_what_its_stages_were(
    tmp_path: Path, train: int | None, evaluate: int | str | None, outcome: str
) -> None:
    job, _ = tiny_job(tmp_path, stages__evaluate__mode="Never" if evaluate == "unwanted" else "OnSuccess")
    run = run_of(tmp_path)
    for stage, code in (("train", train), ("evaluate", evaluate)):
        if isinstance(code, int):
            outcomes.store_termination_record(run, "1", stage, TerminationRecord(exit_code=code))
    assert outcomes.run_outcome(run, job, "1") == outcome


def test_finish_takes_the_newest_attempt_of_the_training_under_the_prefix(
    tmp_path: Path, closed: list[TerminalStatus]
) -> None:
    env = environment(tmp_path)
    assert run_stage("finish", env) is ExitCode.OK
    assert "no training under" in ended(env).message and closed == []
    run_stage("prepare", env)
    for _ in range(2):
        env = environment(tmp_path)
        claimed = stages.inputs.claim_run(env, stages.inputs.job_of(env), run_of(tmp_path))
    outcomes.store_termination_record(run_of(tmp_path), "1", "train", TerminationRecord(exit_code=70))
    end = stages.execute("finish", environment(tmp_path), StopRequest())
    assert end.env is not None
    assert (end.env.uid, end.env.attempt) == (claimed.uid, "2")
    assert closed == ["KILLED"]


def test_finish_passes_on_why_tracking_is_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = "MLflow refuses this job's records: the experiment is deleted"
    report = UploadReport(0, 12, None, False, problem, ExitCode.CONFIGURATION)
    monkeypatch.setattr(stages, "finish", lambda *_, **__: report)
    env = environment(tmp_path)
    run_stage("prepare", env)
    stages.inputs.claim_run(env, stages.inputs.job_of(env), run_of(tmp_path))
    assert run_stage("finish", environment(tmp_path)) is ExitCode.CONFIGURATION
    assert problem in ended(env).message and "12 records" in ended(env).message


def test_the_check_warns_of_a_tracking_server_and_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stages.inputs, "check_server", lambda settings: f"{settings.uri} refuses this job")
    env = environment(tmp_path, tracking={"mlflow": {"uri": "http://127.0.0.1:9"}})
    assert run_stage("check", env) is ExitCode.OK
    assert "http://127.0.0.1:9 refuses this job. The job continues" in caplog.text
