"""Objects as an API server stores them: a UniMRGJob, its children and their pods, each with what a test sets."""

from __future__ import annotations

from typing import Any

from unimrg_api import cluster
from unimrg_operator.backends.pytorchjob import NODE_RANK

Raw = dict[str, Any]

RANK_LABEL = "training.kubeflow.org/replica-index"

JOB_UID = "11111111-1111-4111-8111-111111111111"
CHILD_UID = "22222222-2222-4222-8222-222222222222"

SPEC: Raw = {
    "image": "trainer:1",
    "model": {"harmon": {"variant": "Tiny"}},
    "training": {"batch": {"rowsPerObjective": 8, "cohortRows": 4, "microBatchRows": 4}},
    "trainer": {"nodes": 2, "gpusPerNode": 0},
    "data": {"shards": ["s3://lab/data"]},
    "checkpoint": {"uri": "s3://lab/run"},
    "tracking": {"mlflow": {"uri": "http://mlflow:5000"}},
}


def job_object(**changes: Any) -> Raw:
    """A UniMRGJob that is right; `changes` replace its parts."""
    item = {
        "apiVersion": "training.unimrg.dev/v1alpha1",
        "kind": "UniMRGJob",
        "metadata": {
            "name": "tiny",
            "namespace": "lab",
            "uid": JOB_UID,
            "generation": 3,
            "resourceVersion": "100",
            "creationTimestamp": "2026-11-24T10:00:00Z",
            "managedFields": [{"manager": "kubectl", "fieldsV1": {}}],
        },
        "spec": SPEC,
    }
    return {**item, **changes}


def child_object(stage: str = "train", attempt: int = 1, **metadata: Any) -> Raw:
    """A child of that job; `metadata` replaces parts of its metadata."""
    kind = "PyTorchJob" if stage == "train" else "Job"
    return {
        "apiVersion": "kubeflow.org/v1" if stage == "train" else "batch/v1",
        "kind": kind,
        "metadata": {
            "name": f"tiny-{stage}-{attempt}",
            "namespace": "lab",
            "uid": CHILD_UID,
            "resourceVersion": "200",
            "creationTimestamp": "2026-11-24T10:01:00Z",
            "labels": _labels(stage, attempt),
            "annotations": {cluster.SPEC_DIGEST_ANNOTATION: "d" * 64, cluster.RESTART_COUNTERS_ANNOTATION: "{}"},
            "ownerReferences": [owner("UniMRGJob", "tiny", JOB_UID)],
            **metadata,
        },
        "spec": {"template": {"spec": {"containers": []}}},
        "status": {},
    }


def pod_object(stage: str = "train", rank: int = 0, status: Raw | None = None, **metadata: Any) -> Raw:
    """A pod of that child as Training Operator and the kubelet leave it; `metadata` replaces parts of its metadata."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"tiny-{stage}-1-worker-{rank}",
            "namespace": "lab",
            "uid": f"33333333-3333-4333-8333-33333333333{rank}",
            "resourceVersion": "300",
            "creationTimestamp": "2026-11-24T10:01:02Z",
            "labels": {**_labels(stage, 1), RANK_LABEL: str(rank), "training.kubeflow.org/job-name": f"tiny-{stage}-1"},
            "ownerReferences": [owner("PyTorchJob", f"tiny-{stage}-1", CHILD_UID)],
            "managedFields": [{"manager": "kubelet", "fieldsV1": {}}],
            **metadata,
        },
        "spec": {
            "nodeName": "node-a",
            "terminationGracePeriodSeconds": 60,
            "volumes": [{"name": "cache", "emptyDir": {}}],
            "containers": [
                {
                    "name": "pytorch",
                    "image": "trainer:1",
                    "ports": [
                        {"name": "pytorchjob-port", "containerPort": 23456},
                        {"name": "progress", "containerPort": 21001},
                    ],
                    "env": [
                        {"name": "UNIMRG_UID", "value": JOB_UID},
                        {"name": "UNIMRG_SPEC", "value": "{…}"},
                        {"name": "UNIMRG_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": NODE_RANK}}},
                    ],
                }
            ],
        },
        "status": status if status is not None else running(),
    }


def running(ip: str = "10.1.2.3") -> Raw:
    """The status of a pod that runs."""
    return {
        "phase": "Running",
        "podIP": ip,
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "pytorch", "state": {"running": {"startedAt": "2026-11-24T10:01:05Z"}}}],
    }


def terminated(code: int, message: str = "", **end: Any) -> Raw:
    """The status of a pod whose container ended."""
    state = {
        "exitCode": code,
        "reason": "Error" if code else "Completed",
        "finishedAt": "2026-11-24T10:05:00Z",
        "message": message,
        **end,
    }
    return {
        "phase": "Failed" if code else "Succeeded",
        "podIP": "10.1.2.3",
        "containerStatuses": [{"name": "pytorch", "state": {"terminated": state}}],
    }


def owner(kind: str, name: str, uid: str) -> Raw:
    """A reference to the controller of an object."""
    return {"kind": kind, "name": name, "uid": uid, "controller": True}


def _labels(stage: str, attempt: int) -> dict[str, str]:
    return {cluster.JOB_LABEL: "tiny", cluster.STAGE_LABEL: stage, cluster.ATTEMPT_LABEL: str(attempt)}
