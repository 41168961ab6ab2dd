"""Names of a job and its children on a cluster: group, labels, annotations, and what a child is called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from unimrg_api.stages import StageName

GROUP = "training.unimrg.dev"
VERSION = "v1alpha1"
PLURAL = "unimrgjobs"
SINGULAR = "unimrgjob"
SHORT_NAME = "umj"

JOB_LABEL = f"{GROUP}/job"
"""On every child and pod: the job's name."""
STAGE_LABEL = f"{GROUP}/stage"
"""On every child and pod: check, prepare, train, evaluate or finish."""
ATTEMPT_LABEL = f"{GROUP}/attempt"
"""On every child and pod: the number of the stage's attempt, from 1."""
SWEEP_LABEL = f"{GROUP}/sweep"
"""On a job of a sweep: the sweep's name. The job's MLflow run lies below the sweep's (docs/method/tracking.md)."""
SPEC_DIGEST_ANNOTATION = f"{GROUP}/spec-digest"
"""On every child: the digest of the job's spec that it was rendered from."""
RESTART_COUNTERS_ANNOTATION = f"{GROUP}/restart-counters"
"""On every child: what cannot be derived once older children are gone (`status.RestartCounters` as JSON)."""

TRAINER_CONTAINER = "pytorch"
"""Name of the container that runs our launcher, in every stage and with every backend."""
PROGRESS_PORT = "progress"
"""Name of the port at which the launcher of node 0 serves GET /progress and /metrics."""
NODE_RANK_VARIABLE = "UNIMRG_NODE_RANK"
"""Environment variable of every pod: its index among the attempt's pods, as text or as a reference to a label."""

_LABEL_REFERENCE = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


def sweep_label(labels: Mapping[str, str] | None) -> dict[str, str]:
    """Return the label of `labels` that a job's processes read, the sweep's; empty where the job is of none."""
    return {name: value for name, value in (labels or {}).items() if name == SWEEP_LABEL and value}


def node_rank(pod: Mapping[str, Any]) -> int:
    """Return the node rank of a pod as the kubelet resolves UNIMRG_NODE_RANK for it; 0 where it cannot be read.

    So nobody else needs to know which label a backend counts its pods with.
    """
    containers = _mapping(pod.get("spec")).get("containers")
    for container in containers if isinstance(containers, list) else []:
        entries = _mapping(container).get("env")
        for entry in entries if isinstance(entries, list) else []:
            if _mapping(entry).get("name") == NODE_RANK_VARIABLE:
                return _rank(entry, _mapping(pod.get("metadata")))
    return 0


def _rank(entry: Mapping[str, Any], metadata: Mapping[str, Any]) -> int:
    value = entry.get("value")
    path = _mapping(_mapping(entry.get("valueFrom")).get("fieldRef")).get("fieldPath")
    match = _LABEL_REFERENCE.fullmatch(path) if isinstance(path, str) else None
    if match:
        value = _mapping(metadata.get(match[1])).get(match[2])
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 else 0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def child_name(job: str, stage: StageName, attempt: int) -> str:
    """Return the name of the child that is `attempt` of a stage: the same after any crash.

    At most 40 + 14 characters, so that the names of its pods stay within 63.
    """
    return f"{job}-{stage}-{attempt}"
