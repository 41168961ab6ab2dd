"""A job that is suspended, resumed from its checkpoint, and ended by its deadline, with real pods and ranks."""

from __future__ import annotations

import json

import pytest

from tests.cluster.test_thread import assert_resumed, store, trains, wait_for_commit
from tests.support.cluster import BACKENDS, Cluster, Object
from tests.support.thread_job import EVERY, condition, job, stage
from unimrg_trainer.checkpoint.reader import list_commits

pytestmark = pytest.mark.timeout(600)

NAME = "paused"


@pytest.fixture(autouse=True)
def keys(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's keys, for this process's own look at it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", cluster.s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", cluster.s3.secret_key)


def change(cluster: Cluster, **spec: object) -> None:
    """Change fields of the job's spec, as its user would."""
    cluster.kubectl("patch", "umj", NAME, "--type=merge", f"--patch={json.dumps({'spec': spec})}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_job_is_suspended_resumed_and_ended_by_its_deadline(cluster: Cluster, backend: str) -> None:
    bucket = cluster.s3.bucket()
    cluster.use_backend(backend)
    wanted = job(cluster, bucket, NAME, backend=backend)
    wanted["spec"]["training"]["schedule"]["totalSteps"] = 100_000  # it never ends by itself
    cluster.start_operator()
    cluster.apply(wanted)
    run = store(cluster, bucket, NAME)
    cluster.wait_for(NAME, lambda found: trains(found, 1), 300, "(attempt 1 running)")
    wait_for_commit(cluster, run, NAME, EVERY)

    change(cluster, suspend=True)
    found = cluster.wait_for_phase(NAME, "Suspended")
    suspended = condition(found, "Suspended")
    assert (suspended["status"], suspended["reason"]) == ("True", "UserRequested")
    assert cluster.pods(NAME, "train") == [] and cluster.children(NAME, "train") == []
    saved = list_commits(run)[0].step

    change(cluster, suspend=False)
    resumed = cluster.wait_for(NAME, lambda found: trains(found, 2), 120, "(attempt 2 running)")
    counters = stage(resumed, "train")["restartCounters"]
    assert (counters["userRestarts"], counters["infraRestarts"], counters["freeRestarts"]) == (0, 0, 0)
    assert counters["runningSeconds"] > 0
    wait_for_commit(cluster, run, NAME, saved + EVERY)

    change(cluster, runPolicy={"activeDeadlineSeconds": 1})

    def is_over(found: Object) -> bool:
        return bool(found["status"]["phase"] == "Failed")

    failed = condition(cluster.wait_for(NAME, is_over, 120, "(Failed)"), "Failed")
    assert failed["reason"] == "DeadlineExceeded"
    assert_resumed(run, 2, saved)
