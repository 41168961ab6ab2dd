"""A UniMRGJob as a cluster has it, with the status that an operator would write, for tests that only read it."""

from __future__ import annotations

from typing import Any

MOMENT = "2026-01-02T03:04:05Z"


def condition(type: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    """Return a condition."""
    return {"type": type, "status": status, "reason": reason, "message": message, "lastTransitionTime": MOMENT}


def end(reason: str, code: int | None, action: str, message: str = "", **more: Any) -> dict[str, Any]:
    """Return the end of an attempt."""
    known = {"time": MOMENT, "reason": reason, "action": action, "message": message, **more}
    return known if code is None else {**known, "exitCode": code}


def cluster_job(status: dict[str, Any] | None = None, name: str = "good", uid: str = "u1") -> dict[str, Any]:
    """Return a job of the namespace `research`; no status: no operator has seen it."""
    metadata = {"name": name, "namespace": "research", "uid": uid, "generation": 1, "creationTimestamp": MOMENT}
    nowhere = "http://127.0.0.1:1"  # nothing listens there
    spec = {
        "checkpoint": {"uri": "s3://runs/good/"},
        "trainer": {"nodes": 2, "gpusPerNode": 0, "processesPerNode": 2},
        "storage": {"endpoint": nowhere},
    }
    job = {"apiVersion": "training.unimrg.dev/v1alpha1", "kind": "UniMRGJob", "metadata": metadata, "spec": spec}
    return job if status is None else {**job, "status": status}


RUNNING: dict[str, Any] = {
    "observedGeneration": 1,
    "phase": "Running",
    "reason": "Advancing",
    "conditions": [
        condition("Accepted", "True", "Valid"),
        condition("Running", "True", "AllPodsRunning"),
        condition("Progressing", "True", "Advancing", "step 120"),
        condition("Degraded", "True", "NodeExcluded", "node-7 is left out"),
    ],
    "stages": [
        {"name": "check", "state": "Succeeded", "attempt": 1, "attemptEnd": end("Completed", 0, "Done")},
        {
            "name": "train",
            "state": "Running",
            "attempt": 2,
            "child": "good-train-2",
            "restartCounters": {"infraRestarts": 1, "excludedNodes": ["node-7"]},
        },
    ],
    "attempt": 2,
    "progress": {
        "stage": "train",
        "step": 120,
        "totalSteps": 400,
        "steps": "120/400",
        "percent": 30,
        "etaSeconds": 4800,
        "eta": "1h20m",
        "loss": "1.2500",
        "losses": [{"name": "Depth", "value": "0.2500"}, {"name": "Pixel", "value": "1.0000"}],
        "rowsPerSecond": "64.0",
        "updatedTime": MOMENT,
    },
    "checkpoint": {"uri": "s3://runs/good/ckpt/step-00000100/", "step": 100},
    "mlflow": {"runId": "r1", "url": "http://mlflow/#/r1"},
}
"""A job that trains, in its second attempt."""

SUCCEEDED: dict[str, Any] = {
    **RUNNING,
    "phase": "Succeeded",
    "reason": "Succeeded",
    "conditions": [condition("Accepted", "True", "Valid"), condition("Complete", "True", "Succeeded", "all is done")],
    "benchmarks": [{"name": "eval/heldout/depth/relative_change", "value": "-0.4470"}],
}


def failed(code: int | None, message: str = "the data is gone") -> dict[str, Any]:
    """Return the status of a job whose training failed, and whose stage `finish` came after that."""
    stages = [
        {"name": "train", "state": "Failed", "attempt": 1, "attemptEnd": end("InputMissing", code, "Fail", message)},
        {"name": "finish", "state": "Succeeded", "attempt": 1, "attemptEnd": end("Completed", 0, "Done")},
    ]
    conditions = [condition("Accepted", "True", "Valid"), condition("Failed", "True", "InputMissing", message)]
    return {"phase": "Failed", "reason": "InputMissing", "conditions": conditions, "stages": stages, "attempt": 1}
