"""What pods report of their work, in the status."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operator.simulated_cluster import NOON, RUN, Cluster, make_job
from unimrg_api.progress import Progress
from unimrg_api.stages import StageName
from unimrg_api.status import CheckpointStatus, JobStatus, MlflowStatus, ProgressStatus
from unimrg_api.termination import TerminationRecord
from unimrg_operator.core.observation import ProgressReport, Terminated
from unimrg_operator.core.texts import format_time


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(make_job(nodes=2))
    cluster.to_training()
    return cluster


def progress(cluster: Cluster) -> ProgressStatus:
    assert cluster.status.progress is not None
    return cluster.status.progress


def report(cluster: Cluster, stage: StageName, step: int, total: int) -> None:
    """Let the pod of a stage report its steps."""
    pod = cluster.pod(f"tiny-{stage}-1")
    reported = Progress(stage=stage, step=step, total_steps=total, updated=NOON)
    cluster.report = ProgressReport(pod.uid, cluster.now, reported)
    cluster.reconcile()


def test_a_report_becomes_progress(cluster: Cluster) -> None:
    losses = {"Understanding": 1.0, "Pixel": 0.23456}
    cluster.report_step(
        cluster.pod("tiny-train-1"), 120, commit=100, loss=0.61728, losses=losses, eta_seconds=4830.5,
        rows_per_second=51.2, mlflow_run_id="abc", mlflow_url="https://mlflow.example/abc",
    )  # fmt: skip
    cluster.reconcile()
    assert progress(cluster).model_dump(exclude={"losses"}) == {
        "stage": "train",
        "step": 120,
        "total_steps": 400,
        "steps": "120/400",
        "percent": 30,
        "eta_seconds": 4830,
        "eta": "1h20m",
        "loss": "0.61728",
        "rows_per_second": "51.2",
        "updated_time": "2027-01-15T08:00:00Z",
    }
    assert [(loss.name, loss.value) for loss in progress(cluster).losses] == [
        ("Understanding", "1"),
        ("Pixel", "0.23456"),
    ]
    assert cluster.status.checkpoint == CheckpointStatus(
        uri=f"{RUN}/ckpt/step-00000100/", step=100, time=format_time(NOON)
    )
    assert cluster.condition("Checkpointed") == ("True", "CheckpointSaved")
    assert cluster.status.mlflow == MlflowStatus(run_id="abc", url="https://mlflow.example/abc")


def test_a_report_without_a_new_step_changes_nothing(cluster: Cluster) -> None:
    pod = cluster.pod("tiny-train-1")
    cluster.report_step(pod, 120, losses={"Pixel": 1.0}, eta_seconds=50)
    cluster.reconcile()
    before = cluster.status
    cluster.now += 20
    cluster.report_step(pod, 120, losses={"Pixel": 1.0}, eta_seconds=30)
    cluster.reconcile()
    assert cluster.status == before
    cluster.report_step(replace(pod, uid="of another job"), 130, commit=100)
    cluster.reconcile()
    assert (cluster.status.progress, cluster.status.checkpoint) == (before.progress, None)


def test_each_stage_shows_its_own_steps_and_the_end_those_of_the_training() -> None:
    cluster = Cluster(make_job(source=True))
    cluster.settle()
    cluster.succeed("check")
    report(cluster, "prepare", 2001, 2256)
    assert progress(cluster).steps == "2001/2256"
    cluster.succeed("prepare")
    assert (cluster.status.phase, cluster.status.progress) == ("Running", None)
    cluster.report_step(cluster.pod("tiny-train-1"), 390, loss=1.5, losses={"Pixel": 1.5}, eta_seconds=4)
    cluster.reconcile()
    cluster.succeed("train", step=400, total_steps=400, checkpoint_step=400, mlflow_run_id="abc")
    assert (progress(cluster).stage, progress(cluster).steps) == ("evaluate", "")
    report(cluster, "evaluate", 3, 8)
    assert (progress(cluster).stage, progress(cluster).steps) == ("evaluate", "3/8")
    scores = {"eval/spatial/acc": 0.1 + 0.2, "eval/spatial/n": 9.0, "dev/mmvp/acc_question": 71.666, "loss": 1.0}
    cluster.succeed("evaluate", scores={"eval/heldout/depth/relative_change": -0.5, **scores})
    last = progress(cluster)
    assert (last.steps, last.percent, last.eta, last.loss) == ("400/400", 100, "", "1.5")
    assert cluster.status.checkpoint == CheckpointStatus(
        uri=f"{RUN}/ckpt/step-00000400/", step=400, time=format_time(cluster.now)
    )
    assert cluster.status.mlflow == MlflowStatus(run_id="abc")
    assert [(score.name, score.value) for score in cluster.status.benchmarks] == [
        ("dev/mmvp/acc_question", "71.666"),
        ("eval/heldout/depth/relative_change", "-0.5"),
        ("eval/spatial/acc", "0.30000000000000004"),
        ("eval/spatial/n", "9.0"),
        ("loss", "1.0"),
    ]
    assert cluster.status.scores == "spatial/acc 0.3, mmvp/acc_question 71.67"


@pytest.mark.parametrize(
    ("reported", "step"), [(12, 12), (400, 400), (401, 10), (9, 10), (0, 10), (-1, 10), (None, 10), (10**18, 10)]
)
def test_only_a_newer_commit_of_the_job_replaces_the_one_before(
    cluster: Cluster, reported: int | None, step: int
) -> None:
    cluster.report_step(cluster.pod("tiny-train-1"), 10, commit=10)
    cluster.reconcile()
    cluster.report = None
    cluster.fail("train", 85, checkpoint_step=reported)
    assert cluster.status.checkpoint == CheckpointStatus(
        uri=f"{RUN}/ckpt/step-{step:08d}/", step=step, time=format_time(NOON)
    )


def test_a_commit_beyond_the_last_step_is_dropped_again(cluster: Cluster) -> None:
    wild = CheckpointStatus(uri=f"{RUN}/ckpt/step-1000000000000/", step=10**12)
    cluster.status = cluster.status.model_copy(update={"checkpoint": wild})
    cluster.report_step(cluster.pod("tiny-train-1"), 9, commit=10**15)
    cluster.reconcile()
    assert cluster.status.checkpoint is None
    assert cluster.condition("Checkpointed") == ("False", "NoCheckpoint")


def test_a_run_whose_name_is_too_long_is_ignored_and_passwords_are_masked(cluster: Cluster) -> None:
    pod = cluster.pod("tiny-train-1")
    cluster.report_step(pod, 1, mlflow_run_id="x" * 65, mlflow_url="https://user:password@mlflow.example/abc")
    cluster.reconcile()
    assert cluster.status.mlflow == MlflowStatus(url="https://[redacted]@mlflow.example/abc")
    cluster.report_step(pod, 2, mlflow_run_id="abc", mlflow_url="https://" + "x" * 2048)
    cluster.reconcile()
    assert cluster.status.mlflow == MlflowStatus(run_id="abc", url="https://[redacted]@mlflow.example/abc")


numbers = st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-(2**80), 2**80)
names = st.text(max_size=20) | st.sampled_from(["x" * 100 + "a", "x" * 100 + "b"])  # alike, once they are cut


@settings(max_examples=150)
@given(
    reported=st.builds(
        Progress,
        message=names,
        step=integers,
        total_steps=integers,
        eta_seconds=st.none() | numbers,
        loss=st.none() | numbers,
        losses=st.dictionaries(names, numbers, max_size=3),
        rows_per_second=st.none() | numbers,
        checkpoint_step=st.none() | integers,
        mlflow_run_id=st.none() | names,
        mlflow_url=st.none() | names,
        updated=numbers,
    ),
    record=st.builds(
        TerminationRecord,
        message=names,
        reason=names,
        rank=st.none() | integers,
        step=st.none() | integers,
        total_steps=st.none() | integers,
        checkpoint_step=st.none() | integers,
        mlflow_run_id=st.none() | names,
        mlflow_url=st.none() | names,
        scores=st.dictionaries(names, numbers, max_size=3),
    ),
    code=st.integers(-5, 300),
    text=names,
)
def test_whatever_a_pod_reports_the_status_stays_valid(
    reported: Progress, record: TerminationRecord, code: int, text: str
) -> None:
    cluster = Cluster()
    cluster.to_training()
    pod = cluster.pod("tiny-train-1")
    cluster.report = ProgressReport(pod.uid, cluster.now, reported)
    cluster.pods[pod.uid] = replace(pod, waiting_message=text, warnings=(text,), node=text or None)
    _check_validity(cluster.decide().status)
    ended = Terminated(code, text, cluster.now, record)
    cluster.pods[pod.uid] = replace(pod, phase="Failed", terminated=ended, disruption=text, node=text or None)
    _check_validity(cluster.decide().status)


def _check_validity(status: JobStatus) -> None:
    content = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert JobStatus.model_validate(content) == status
    for field in ("benchmarks", "conditions"):
        keys = [item.get("name") or item.get("type") for item in content[field]]
        assert len(set(keys)) == len(keys)
