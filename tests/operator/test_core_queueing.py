"""A job in a queue: it waits with reason and position, is pushed out at no cost, and comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.operator.simulated_cluster import Cluster, make_job
from unimrg_api.spec_platform import QueueSpec
from unimrg_api.status import RestartCounters
from unimrg_operator.core.observation import Workload

NO_QUOTA = "insufficient unused quota for nvidia.com/gpu, 16 more needed"


@pytest.fixture
def cluster() -> Cluster:
    """A job whose check waits in the queue; the operator does not see Kueue's Workloads."""
    job = make_job(nodes=2)
    queue = QueueSpec(name="team")
    cluster = Cluster(job.model_copy(update={"spec": job.spec.model_copy(update={"queue": queue})}))
    cluster.settle()
    return cluster


def kueue_says(cluster: Cluster, stage: str, **says: Any) -> None:
    """Kueue has a Workload for a stage's newest child and says this of it."""
    child = cluster.children[f"tiny-{stage}-1"]
    cluster.workloads = (Workload(child.uid, "team", **{"message": NO_QUOTA, "position": 2, **says}),)
    cluster.reconcile()


def message(cluster: Cluster) -> str:
    condition = cluster.status.condition("Admitted")
    assert condition is not None
    return condition.message


def admit(cluster: Cluster, stage: str) -> None:
    cluster.workloads = None
    cluster.resume(cluster.children[f"tiny-{stage}-1"])
    cluster.settle()


@pytest.mark.parametrize(
    ("says", "reason", "text"),
    [
        ({}, "WaitingForQuota", f"waits in the queue team, at position 2 of this LocalQueue; {NO_QUOTA}"),
        ({"position": 21}, "WaitingForQuota", "queue team, behind more than 20 others of this LocalQueue;"),
        ({"inadmissible": True, "message": "LocalQueue team doesn't exist"}, "QueueNotFound", "doesn't exist"),
        ({"reserved": True, "position": None}, "WaitingForQuota", "queue team; quota is reserved"),
        ({"evicted": "Preempted to accommodate"}, "Evicted", "pushed out of its place; Preempted to accommodate;"),
    ],
)
def test_a_waiting_job_says_why_in_kueues_words_and_where(
    cluster: Cluster, says: dict[str, Any], reason: str, text: str
) -> None:
    assert cluster.condition("Admitted") == ("False", "QueueNotVisible")
    assert "the operator runs without --kueue" in message(cluster)
    kueue_says(cluster, "check", **says)
    assert cluster.condition("Admitted") == ("False", reason)
    assert text in message(cluster)
    shown = "QueuePreempted" if reason == "Evicted" else reason
    assert (cluster.status.phase, cluster.condition("Running")) == ("Queued", ("False", shown))
    assert cluster.reconcile().requeue_after == 30.0  # others change the position


def test_a_child_that_kueue_does_not_take_in_is_reported_with_the_remedy(cluster: Cluster) -> None:
    child = cluster.children["tiny-check-1"]
    cluster.children[child.name] = replace(child, kind="kubeflow.org/v1/PyTorchJob")
    cluster.workloads = ()
    assert cluster.reconcile().requeue_after == 60.0
    assert cluster.condition("Admitted") == ("False", "WaitingForQuota")
    cluster.now += 60
    cluster.reconcile()
    assert cluster.condition("Admitted") == ("False", "QueueNotFound")
    assert "is kubeflow.org/v1/PyTorchJob among integrations.frameworks" in message(cluster)
    assert (cluster.status.phase, cluster.status.reason) == ("Queued", "QueueNotFound")


def test_a_preempted_training_goes_on_at_no_cost(cluster: Cluster) -> None:
    admit(cluster, "check")
    cluster.succeed("check")
    assert (cluster.status.phase, cluster.status.stage("train").attempt) == ("Queued", 1)
    admit(cluster, "train")
    assert (cluster.status.phase, cluster.condition("Admitted")) == ("Running", ("True", "QuotaReserved"))

    cluster.suspend(cluster.children["tiny-train-1"])
    for pod in cluster.pods_of("tiny-train-1"):
        cluster.end_pod(pod, 85)
    kueue_says(cluster, "train", evicted="Preempted to accommodate another")
    assert (cluster.status.phase, cluster.status.reason) == ("Suspended", "QueuePreempted")
    assert "Preempted to accommodate another" in message(cluster)
    cluster.now += 100_000
    admit(cluster, "train")
    assert (cluster.status.phase, cluster.status.stage("train").attempt) == ("Running", 1)
    assert cluster.restart_counters("train") == RestartCounters()
    assert cluster.created == ["tiny-check-1", "tiny-train-1"]
    about_the_queue = [event for event in cluster.published if not event.reason.startswith("Stage")]
    assert [(event.type, event.reason) for event in about_the_queue] == [
        ("Normal", "QueueNotVisible"),
        ("Normal", "QuotaReserved"),
        ("Normal", "QueueNotVisible"),
        ("Normal", "QuotaReserved"),
        ("Warning", "Evicted"),
        ("Normal", "QuotaReserved"),
    ]


def test_the_condition_is_there_only_with_a_queue_and_false_at_the_end(cluster: Cluster) -> None:
    for stage in ("check", "train", "evaluate", "finish"):
        admit(cluster, stage)
        cluster.succeed(stage)  # type: ignore[arg-type]
    assert (cluster.status.phase, cluster.condition("Admitted")) == ("Succeeded", ("False", "Finished"))
    other = Cluster()
    other.to_training()
    assert other.status.condition("Admitted") is None
    other.suspend(other.children["tiny-train-1"])
    child = other.children["tiny-train-1"]
    other.workloads = (Workload(child.uid, "default"),)  # a site's Kueue may take in jobs that name no queue
    other.reconcile()
    assert other.condition("Admitted") == ("False", "Evicted")


def test_an_attempt_that_succeeds_as_it_is_pushed_out_does_not_begin_again(cluster: Cluster) -> None:
    admit(cluster, "check")
    cluster.end_pod(*cluster.pods_of("tiny-check-1"), 0)
    cluster.settle()
    admit(cluster, "train")
    cluster.suspend(cluster.children["tiny-train-1"])
    for pod in cluster.pods_of("tiny-train-1"):
        cluster.end_pod(pod, 0)
    cluster.reconcile()
    assert cluster.status.stage("train").state == "Succeeded"
    assert "tiny-train-1" not in cluster.children  # the queue would resume it, and it would create its pods anew
