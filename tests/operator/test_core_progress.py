"""What pods say of their work, in the status."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operator.simulated_cluster import NOON, RUN, Cluster, make_job
from unimrg_api.load import dump_job, parse_job
from unimrg_api.progress import Progress
from unimrg_api.status import CheckpointStatus, JobStatus, MlflowStatus
from unimrg_api.termination import TerminationRecord
from unimrg_operator.core.observation import Report, Terminated


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(make_job(nodes=2))
    cluster.to_training()
    return cluster


def test_a_report_becomes_progress(cluster: Cluster) -> None:
    losses = {"Understanding": 1.0, "Pixel": 0.23456}
    cluster.report_step(
        cluster.pod("tiny-train-1"), 120, commit=100, losses=losses, eta_seconds=4830.5, samples_per_second=51.2,
        mlflow_run_id="abc", mlflow_url="https://mlflow.example/abc",
    )  # fmt: skip
    cluster.reconcile()
    progress = cluster.status.progress
    assert progress is not None
    assert progress.model_dump(exclude={"losses"}) == {
        "stage": "train",
        "step": 120,
        "total_steps": 400,
        "steps": "120/400",
        "percent": 30,
        "eta_seconds": 4830,
        "eta": "1h20m",
        "loss": "0.61728",
        "samples_per_second": "51.2",
        "updated_time": "2027-01-15T08:00:00Z",
    }
    assert [(loss.name, loss.value) for loss in progress.losses] == [("Understanding", "1"), ("Pixel", "0.23456")]
    assert cluster.status.checkpoint == CheckpointStatus(uri=f"{RUN}/ckpt/step-00000100/", step=100)
    assert cluster.status.mlflow == MlflowStatus(run_id="abc", url="https://mlflow.example/abc")


def test_the_loss_is_the_one_that_is_trained_weighted_and_over_the_number_of_objectives() -> None:
    content = dump_job(make_job(nodes=2))
    content["spec"]["objectives"] = [{"name": "Understanding", "weight": "1"}, {"name": "Depth", "weight": "0.5"}]
    cluster = Cluster(parse_job(content))
    cluster.to_training()
    cluster.report_step(cluster.pod("tiny-train-1"), 1, losses={"understanding": 1.0, "depth": 4.0})
    cluster.reconcile()
    assert cluster.status.progress is not None
    assert cluster.status.progress.loss == "1.5"


def test_a_report_without_a_new_step_changes_nothing(cluster: Cluster) -> None:
    pod = cluster.pod("tiny-train-1")
    cluster.report_step(pod, 120, losses={"Pixel": 1.0}, eta_seconds=50)
    cluster.reconcile()
    before = cluster.status
    cluster.now += 20
    cluster.report_step(pod, 120, losses={"Pixel": 1.0}, eta_seconds=30)
    cluster.reconcile()
    assert cluster.status == before


def test_a_report_of_another_jobs_pod_is_none(cluster: Cluster) -> None:
    cluster.report_step(replace(cluster.pod("tiny-train-1"), uid="stranger"), 120, commit=100)
    cluster.reconcile()
    assert (cluster.status.progress, cluster.status.checkpoint) == (None, None)


def test_the_last_word_is_the_termination_record_and_the_loss_is_kept(cluster: Cluster) -> None:
    cluster.report_step(cluster.pod("tiny-train-1"), 390, losses={"Pixel": 1.5}, eta_seconds=4)
    cluster.reconcile()
    cluster.succeed("train", step=400, total_steps=400, checkpoint="ckpt/step-00000400", mlflow_run_id="abc")
    assert cluster.status.progress is not None
    assert (cluster.status.progress.stage, cluster.status.progress.steps) == ("evaluate", "")
    cluster.succeed("evaluate")
    progress = cluster.status.progress
    assert progress is not None
    assert (progress.steps, progress.percent, progress.eta, progress.loss) == ("400/400", 100, "", "1.5")
    assert cluster.status.checkpoint == CheckpointStatus(uri=f"{RUN}/ckpt/step-00000400/", step=400)
    assert cluster.status.mlflow == MlflowStatus(run_id="abc")


def test_the_evaluation_shows_its_own_progress_and_afterwards_the_trainings(cluster: Cluster) -> None:
    cluster.succeed("train", step=400, total_steps=400)
    pod = cluster.pod("tiny-evaluate-1")
    cluster.report = Report(pod.uid, cluster.now, Progress(stage="evaluate", step=3, total_steps=8, updated=NOON))
    cluster.reconcile()
    assert cluster.status.progress is not None
    assert (cluster.status.progress.stage, cluster.status.progress.steps) == ("evaluate", "3/8")
    cluster.succeed("evaluate")
    assert (cluster.status.progress.stage, cluster.status.progress.steps) == ("train", "400/400")


def test_the_steps_of_one_stage_are_never_shown_as_another_ones() -> None:
    cluster = Cluster(make_job(source=True))
    cluster.settle()
    cluster.succeed("check")
    pod = cluster.pod("tiny-prepare-1")
    cluster.report = Report(pod.uid, cluster.now, Progress(stage="prepare", step=2001, total_steps=2256, updated=NOON))
    cluster.reconcile()
    assert cluster.status.progress is not None
    assert cluster.status.progress.steps == "2001/2256"
    cluster.succeed("prepare")
    assert (cluster.status.phase, cluster.status.progress) == ("Running", None)


def test_scores_are_those_of_the_evaluation_in_the_shortest_decimals(cluster: Cluster) -> None:
    cluster.succeed("train")
    cluster.succeed("evaluate", scores={"spatial/accuracy": 0.1 + 0.2, "loss": 1.0})
    assert [(score.name, score.value) for score in cluster.status.benchmarks] == [
        ("loss", "1.0"),
        ("spatial/accuracy", "0.30000000000000004"),
    ]


def test_the_newest_commit_stays_when_less_is_heard_later(cluster: Cluster) -> None:
    cluster.report_step(cluster.pod("tiny-train-1"), 120, commit=100)
    cluster.reconcile()
    cluster.report = None
    cluster.fail("train", 85, checkpoint="ckpt/step-00000090")
    assert cluster.status.checkpoint is not None
    assert cluster.status.checkpoint.step == 100


@pytest.mark.parametrize(
    ("checkpoint", "step"),
    [
        ("ckpt/step-00000012", 12),
        ("ckpt/step-00000012/COMMITTED-0", 12),
        ("ckpt/step-00000400/", 400),
        ("ckpt/step-00000401/", None),
        ("ckpt/step-123456789/", None),
        ("ckpt/step-x", None),
        ("", None),
        ("ckpt/step-99999999999999999999", None),
    ],
)
def test_the_step_of_a_commit_is_read_from_its_folder(cluster: Cluster, checkpoint: str, step: int | None) -> None:
    cluster.fail("train", 85, checkpoint=checkpoint)
    assert (cluster.status.checkpoint.step if cluster.status.checkpoint else None) == step


def test_a_commit_beyond_the_last_step_is_none_and_one_that_was_believed_goes_again(cluster: Cluster) -> None:
    pod = cluster.pod("tiny-train-1")
    cluster.report_step(pod, 9, commit=10**15)
    cluster.reconcile()
    assert cluster.status.checkpoint is None
    wild = CheckpointStatus(uri=f"{RUN}/ckpt/step-1000000000000/", step=10**12)
    cluster.status = cluster.status.model_copy(update={"checkpoint": wild})
    cluster.report_step(pod, 9, commit=8)
    cluster.reconcile()
    assert cluster.status.checkpoint == CheckpointStatus(uri=f"{RUN}/ckpt/step-00000008/", step=8)


def test_names_that_are_alike_once_cut_do_not_make_a_status_that_is_refused(cluster: Cluster) -> None:
    long = {"x" * 50 + letter + "x" * 50: 1.0 for letter in "ab"}
    cluster.report_step(cluster.pod("tiny-train-1"), 1, losses=long)
    cluster.reconcile()
    cluster.succeed("train")
    cluster.succeed("evaluate", scores=long)
    assert cluster.status.progress is not None
    assert len(cluster.status.progress.losses) == len(cluster.status.benchmarks) == 1


def test_names_of_a_run_that_are_too_long_are_none_and_keys_are_not_shown(cluster: Cluster) -> None:
    pod = cluster.pod("tiny-train-1")
    cluster.report_step(pod, 1, mlflow_run_id="x" * 65, mlflow_url="https://user:password@mlflow.example/abc")
    cluster.reconcile()
    assert cluster.status.mlflow == MlflowStatus(url="https://[redacted]@mlflow.example/abc")
    cluster.report_step(pod, 2, mlflow_run_id="abc", mlflow_url="https://" + "x" * 2048)
    cluster.reconcile()
    assert cluster.status.mlflow == MlflowStatus(run_id="abc", url="https://[redacted]@mlflow.example/abc")


numbers = st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-(2**80), 2**80)
names = st.text(max_size=20)


@settings(deadline=None, max_examples=150)
@given(
    progress=st.builds(
        Progress,
        message=st.text(max_size=20),
        step=integers,
        total_steps=integers,
        eta_seconds=st.none() | numbers,
        losses=st.dictionaries(names, numbers, max_size=3),
        samples_per_second=st.none() | numbers,
        checkpoint_step=st.none() | integers,
        mlflow_run_id=st.none() | names,
        mlflow_url=st.none() | st.text(max_size=20),
        updated=numbers,
    ),
    record=st.builds(
        TerminationRecord,
        message=st.text(max_size=20),
        reason=names,
        rank=st.none() | integers,
        step=st.none() | integers,
        total_steps=st.none() | integers,
        checkpoint=st.none() | st.text(max_size=80) | st.from_regex(r"ckpt/step-\d{1,20}"),
        mlflow_run_id=st.none() | names,
        mlflow_url=st.none() | st.text(max_size=20),
        scores=st.dictionaries(names, numbers, max_size=3),
    ),
    code=st.integers(-5, 300),
    word=names,
)
def test_whatever_a_pod_says_the_status_stays_one_that_a_cluster_takes(
    progress: Progress, record: TerminationRecord, code: int, word: str
) -> None:
    cluster = Cluster()
    cluster.to_training()
    pod = cluster.pod("tiny-train-1")
    cluster.report = Report(pod.uid, cluster.now, progress)
    cluster.pods[pod.uid] = replace(pod, waiting_message=word, warnings=(word,), node=word or None)
    _is_taken(cluster.decide().status)
    ended = Terminated(code, word, cluster.now, record)
    cluster.pods[pod.uid] = replace(pod, phase="Failed", terminated=ended, disruption=word, node=word or None)
    _is_taken(cluster.decide().status)


def _is_taken(status: JobStatus) -> None:
    content = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert JobStatus.model_validate(content) == status
    for field in ("benchmarks", "conditions"):
        keys = [item.get("name") or item.get("type") for item in content[field]]
        assert len(set(keys)) == len(keys)
