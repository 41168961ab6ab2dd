"""`unimrg run` from check to finish, with real ranks and stand-in engines."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.benchmark_tables import image, write_table, yes_no_rows
from tests.support.fake_tracking import NoUploads
from tests.support.local_jobs import WITH_IMAGES, tiny_job
from tests.support.waiting import wait_until
from unimrg_api import load
from unimrg_api.cluster import SWEEP_LABEL
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.stages import StageName
from unimrg_api.termination import TerminationRecord
from unimrg_trainer.launch import local
from unimrg_trainer.launch.lock import run_lock
from unimrg_trainer.launch.signals import StopRequest


def run(folder: Path, processes: int | None = None, **changes: Any) -> tuple[int, str]:
    """Run the tiny job; its exit code and what was printed."""
    job, file = tiny_job(folder, **changes)
    output = io.StringIO()
    console = Console(file=output, width=200)
    code = local.run_job(job, file, processes, console=console, rank_module="tests.support.fake_engine")
    return code, output.getvalue()


def signal_when(ready: Callable[[], bool], number: signal.Signals) -> threading.Thread:
    """Send a signal to this process, as a terminal does, once `ready`."""

    def send() -> None:
        wait_until(ready)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_a_job_runs_from_check_to_finish_and_again_has_nothing_to_do(tmp_path: Path, closed: list[str]) -> None:
    tmp_path = tmp_path / "my runs"
    tmp_path.mkdir()
    code, text = run(tmp_path)
    assert code == 0, text
    assert "Harmon Tiny" in text and "12 steps" in text
    assert f"mlflow ui --backend-store-uri 'sqlite:///{tmp_path}/run/mlflow.db'" in text, "a command to be pasted"
    assert closed == ["FINISHED"]
    assert sorted(path.name for path in (tmp_path / "run" / "outcomes").iterdir()) == [
        "attempt-1-evaluate.json",
        "attempt-1-train.json",
        "evaluated.json",
        "finished.json",
    ]

    again, text = run(tmp_path)
    assert again == 0
    assert "the checkpoint of step 12 already exists" in text and "Harmon Tiny" in text
    assert closed == ["FINISHED"]
    assert [path.name for path in (tmp_path / "run" / "attempts").iterdir()] == ["1.json"]


def test_a_job_that_does_not_train_is_evaluated_once_and_needs_no_data(
    tmp_path: Path, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = yes_no_rows(random.Random(0), 2)
    write_table(tmp_path / "questions.tsv", [{**row, "image": image(number)} for number, row in enumerate(rows)])
    asked = [{"tsv": {"file": "file://questions.tsv", "kind": "YesNo"}}]
    changes: dict[str, Any] = {"data": None, "stages": {"train": {"mode": "Never"}, "evaluate": {"benchmarks": asked}}}
    monkeypatch.setattr(NoUploads, "remaining", 3)
    code, text = run(tmp_path, **changes)
    assert code == 0, text
    assert closed == ["FINISHED"]
    ended = TerminationRecord.parse((tmp_path / "run/outcomes/attempt-1-evaluate.json").read_bytes())
    assert ended.message.startswith("nobody answers. 3 records did not reach MLflow yet: the results are in results/")
    assert not (tmp_path / "run" / "outcomes" / "attempt-1-train.json").exists()
    again, text = run(tmp_path, **changes)
    assert again == 0 and "Nothing to do: these weights are evaluated." in text
    assert closed == ["FINISHED"]


def test_a_prefix_with_checkpoints_is_none_for_initial_weights(tmp_path: Path, closed: list[str]) -> None:
    assert run(tmp_path, stages__evaluate__mode="Never")[0] == 0
    code, text = run(tmp_path, stages={"train": {"mode": "Never"}})
    assert code == ExitCode.CONFIGURATION
    assert "spec.checkpoint.uri: " in text and '"Never" here (give this job a spec.checkpoint.uri of its own' in text


def test_a_complete_run_that_was_not_closed_is_closed_without_its_data(tmp_path: Path, closed: list[str]) -> None:
    assert run(tmp_path, stages__evaluate__mode="Never")[0] == 0
    (tmp_path / "run" / "outcomes" / "finished.json").unlink()
    (tmp_path / "run" / "outcomes" / "attempt-1-train.json").unlink()
    shutil.rmtree(tmp_path / "data")
    code, text = run(tmp_path, stages__evaluate__mode="Never")
    assert code == 0 and "the checkpoint of step 12 already exists" in text
    assert closed == ["FINISHED", "FINISHED"]
    assert run(tmp_path, stages__evaluate__mode="Never")[0] == 0
    assert closed == ["FINISHED", "FINISHED"]
    assert not list((tmp_path / "data").rglob("PUBLISHED")), "the data was prepared again"


def test_a_run_whose_last_commit_is_damaged_is_not_complete(tmp_path: Path, closed: list[str]) -> None:
    assert run(tmp_path, stages__evaluate__mode="Never")[0] == 0
    next((tmp_path / "run" / "ckpt" / "step-00000012").rglob("rank-0.safetensors")).unlink()
    code, text = run(tmp_path, stages__evaluate__mode="Never")
    assert code == 0 and "already exists" not in text
    assert (tmp_path / "run" / "outcomes" / "attempt-2-train.json").exists()


def test_an_interrupted_training_is_closed_as_killed_and_resumed(
    tmp_path: Path, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRAIN", "wait")
    local_dir = tmp_path / "run" / "local"
    thread = signal_when(lambda: '"step":5' in progress(local_dir), signal.SIGINT)
    code, text = run(tmp_path, 2, stages__evaluate__mode="Never")
    thread.join()
    assert code == ExitCode.INTERRUPTED
    assert "Interrupted during train: the last checkpoint is of step 5" in text
    assert closed == ["KILLED"]

    monkeypatch.setenv("FAKE_TRAIN", "complete")
    code, text = run(tmp_path, stages__evaluate__mode="Never")
    assert code == 0
    assert closed == ["KILLED", "FINISHED"]
    assert sorted(path.name for path in (tmp_path / "run" / "attempts").iterdir()) == ["1.json", "2.json"]


def test_a_second_stop_request_between_two_stages_makes_no_run_complete(
    tmp_path: Path, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = local.execute

    def stopped_twice_after_training(stage: StageName, env: Any, stop: StopRequest, **more: Any) -> Any:
        end = execute(stage, env, stop, **more)
        stop.requested = stop.twice = stage == "train" or stop.twice
        return end

    monkeypatch.setattr(local, "execute", stopped_twice_after_training)
    code, text = run(tmp_path)
    assert (code, closed) == (ExitCode.INTERRUPTED, ["KILLED"])
    assert "Interrupted during evaluate: the last checkpoint is of step 12" in text


def test_a_failed_training_shows_the_cause_the_log_and_where_it_is(
    tmp_path: Path, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRAIN", "fail")
    code, text = run(tmp_path)
    assert code == ExitCode.PROGRAM
    assert "\nRuntimeError: the loss went for a walk" in text
    assert "Traceback" in text
    assert str(tmp_path / "run" / "local" / "logs" / "attempt-1") in text
    assert closed == ["FAILED"]
    record = TerminationRecord.parse((tmp_path / "run" / "outcomes" / "attempt-1-train.json").read_bytes())
    assert record.rank == 0


def test_what_the_user_can_mend_is_said_without_log_and_traceback(
    tmp_path: Path, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRAIN", "refuse")
    code, text = run(tmp_path)
    assert code == ExitCode.DATA_CORRUPT
    assert "\nshard 3 is damaged (prepare it again)" in text
    assert "Traceback" not in text and "Logs:" not in text
    log = (tmp_path / "run" / "local" / "logs" / "attempt-1" / "train" / "rank-0.log").read_text()
    assert "shard 3 is damaged" in log and "Traceback" not in log


def test_nothing_is_evaluated_where_nothing_is_committed(
    tmp_path: Path, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRAIN", "early")
    code, _ = run(tmp_path, stages__evaluate__mode="Always")
    assert code == ExitCode.PROGRAM
    assert not (tmp_path / "run" / "outcomes" / "attempt-1-evaluate.json").exists()
    assert closed == ["FAILED"]


def test_a_process_gets_the_job_without_annotations_if_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, file = tiny_job(tmp_path)
    note = {"annotations": {"note": "x" * 65_000, "more": "y" * 65_000}, "labels": {"team": "a", SWEEP_LABEL: "s"}}
    job = job.model_copy(update={"metadata": job.metadata.model_copy(update=note)})
    spec = local.local_environment(job, file, None).spec
    assert len(spec) < 5000 and "annotations" not in spec
    assert json.loads(spec)["metadata"]["labels"] == {SWEEP_LABEL: "s"}
    monkeypatch.setattr(load, "SPEC_BYTES", 100)
    with pytest.raises(UserError, match="at most 100"):
        local.local_environment(job, file, None)


def test_a_check_that_fails_begins_no_attempt(tmp_path: Path, closed: list[str]) -> None:
    code, text = run(tmp_path, data__sources=WITH_IMAGES)
    assert code == ExitCode.INPUT_MISSING
    assert "check failed (66" in text and "spec.data.sources" in text
    assert closed == []
    assert not (tmp_path / "run" / "attempts").exists()


def test_a_second_run_of_the_same_prefix_is_refused(tmp_path: Path) -> None:
    with run_lock(tmp_path / "run" / "local"), pytest.raises(UserError, match="another `unimrg run` is using"):
        run(tmp_path)


def test_a_prefix_that_cannot_be_written_is_named_by_its_field(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the run's folder should be")
    with pytest.raises(UserError, match=r"^spec\.checkpoint\.uri: .*run/local"):
        run(tmp_path)


def test_processes_that_cohorts_cannot_be_dealt_to_are_refused_by_the_option(tmp_path: Path) -> None:
    job, file = tiny_job(tmp_path)
    with pytest.raises(UserError, match=r"^--processes 3: 2 cohorts per step cannot be divided by 3 processes"):
        local.run_job(job, file, 3)
    assert not (tmp_path / "run").exists()


def test_every_field_that_only_a_cluster_uses_is_named(tmp_path: Path) -> None:
    job, _ = tiny_job(
        tmp_path,
        image="registry/unimrg:1",
        trainer={
            "nodes": 2,
            "gpusPerNode": 8,
            "serviceAccountName": "trainer",
            "volumes": [{"claimName": "a", "mountPath": "/mnt/a"}],
        },
        storage__credentials={"secretName": "keys"},
        data__preparation={"pods": 2, "processes": 2},
        tracking={"mlflow": {"credentials": {"secretName": "keys"}}},
        suspend=True,
        runPolicy={
            "stallTimeoutSeconds": 60,
            "maxRestarts": 5,
            "maxInfraRestarts": 1,
            "backoffSeconds": 1,
            "activeDeadlineSeconds": 3600,
            "startTimeoutSeconds": 60,
            "ttlSecondsAfterFinished": 0,
            "keepFailedPodSeconds": 0,
        },
    )
    job = job.model_copy(update={"metadata": type(job.metadata)(name="tiny", namespace="team")})
    assert local.ignored_fields(tiny_job(tmp_path)[0], None) == []
    assert {line.partition(" is ignored")[0] for line in local.ignored_fields(job, None)} == {
        "spec.image",
        "spec.data.preparation.pods",
        "spec.trainer.nodes",
        "spec.trainer.gpusPerNode",
        "spec.storage.credentials",
        "spec.tracking.mlflow.credentials",
        "spec.trainer.volumes",
        "spec.trainer.serviceAccountName",
        "metadata.namespace",
        "spec.runPolicy.maxRestarts",
        "spec.runPolicy.maxInfraRestarts",
        "spec.runPolicy.backoffSeconds",
        "spec.suspend",
        "spec.runPolicy.activeDeadlineSeconds",
        "spec.runPolicy.startTimeoutSeconds",
        "spec.runPolicy.ttlSecondsAfterFinished",
        "spec.runPolicy.keepFailedPodSeconds",
    }


def test_processes_come_from_the_job_for_cpus_and_from_the_option_first(tmp_path: Path) -> None:
    job, file = tiny_job(tmp_path, trainer={"gpusPerNode": 0, "processesPerNode": 2})
    assert local.local_environment(job, file, None).processes == 2
    assert local.local_environment(job, file, 4).processes == 4
    gpus, file = tiny_job(tmp_path, trainer={"gpusPerNode": 8, "processesPerNode": 1})
    assert local.local_environment(gpus, file, None).processes == 1


def progress(local_dir: Path) -> str:
    try:
        return (local_dir / "progress.json").read_text()
    except OSError:
        return ""
