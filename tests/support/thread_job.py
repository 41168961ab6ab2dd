"""The job that the tests of the whole line apply: two nodes, some seconds of training."""

from __future__ import annotations

from typing import Any

from tests.support.cluster import Cluster, Object
from unimrg_api.status import StageStatus

STEPS = 60
EVERY = 5
EXPERIMENT = "cluster/thread"
MODELS = {
    "harmon": {"variant": "Tiny", "sampling": {"steps": 2, "diffusionSteps": 2, "guidance": "1"}},
    "openuni": {"variant": "Tiny", "sampling": {"steps": 2, "guidance": "1"}},
    "showo": {"variant": "Tiny", "sampling": {"steps": 2, "guidance": "0"}},
}
"""Family → its settings: dropout as published, images generated in few steps."""


def job(
    cluster: Cluster, bucket: str, name: str, evaluate: Object | None = None, family: str = "harmon", **more: Any
) -> Object:
    """Two nodes with a process each, on the data that the first of these jobs prepares; `more` are fields of spec."""
    return {
        "apiVersion": "training.unimrg.dev/v1alpha1",
        "kind": "UniMRGJob",
        "metadata": {"name": name},
        "spec": {
            "model": {family: MODELS[family]},
            "training": {
                "batch": {"rowsPerObjective": 4, "cohortRows": 2, "microBatchRows": 2},
                "optimizer": {"learningRate": "1e-3"},
                "schedule": {"warmupSteps": 5, "totalSteps": STEPS},
                "precision": "FP32",
            },
            "trainer": {"nodes": 2, "gpusPerNode": 0, "processesPerNode": 1},
            "data": {
                "sources": [{"scenes": {"train": 16, "heldOut": 8, "imageSize": 32, "seed": 1}}],
                "shards": [f"s3://{bucket}/data"],
            },
            "storage": cluster.storage(),
            "checkpoint": {"uri": f"s3://{bucket}/{name}", "everySteps": EVERY, "keepLast": 10, "graceSeconds": 30},
            "tracking": cluster.tracking(EXPERIMENT),
            "stages": {"evaluate": evaluate or {"mode": "Never"}},
            "runPolicy": {"backoffSeconds": 1},
            **more,
        },
    }


def condition(found: Object, name: str) -> Object:
    (result,) = [item for item in found["status"]["conditions"] if item["type"] == name]
    return dict(result)


def stage(found: Object, name: str) -> Object:
    """Return a stage of a job's status, also what is not stored because it is zero; empty where there is none."""
    stages = (item for item in found.get("status", {}).get("stages", []) if item["name"] == name)
    return next((StageStatus.model_validate(item).model_dump(by_alias=True) for item in stages), {})


def checkpoint_step(found: Object) -> int:
    """Return the step of the newest checkpoint that a job's status tells of; 0 for none."""
    return int(found.get("status", {}).get("checkpoint", {}).get("step", 0))


def rank_log(cluster: Cluster, bucket: str, name: str, attempt: int) -> str:
    """Return the log of rank 0 of a job's training, as it lies in the store."""
    key = f"{name}/logs/attempt-{attempt}/train/rank-0.log"
    body: bytes = cluster.s3.client().get_object(Bucket=bucket, Key=key)["Body"].read()
    return body.decode()
