"""Kueue's Workloads: what is kept of them in memory, and what they say of a job's children."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from unimrg_operator.backends.base import Resource
from unimrg_operator.backends.objects import conditions_of, dig, int_of, owner_of, text_of, time_of, true_conditions
from unimrg_operator.core.observation import Workload
from unimrg_operator.core.queueing import position
from unimrg_operator.kube.client import Object

WORKLOADS = Resource("kueue.x-k8s.io", "v1beta2", "workloads", "Workload")
"""Kueue makes one for every child of a job that has its label, and writes into it what it thinks of it."""


def prune_workload(item: Object) -> Object:
    """Keep of a Workload what is read here: its pods' templates are large, and there is one for every job."""
    metadata = item["metadata"]
    spec, status = dig(item, "spec"), dig(item, "status")
    return {
        "kind": WORKLOADS.kind,
        "metadata": {
            **{key: metadata.get(key) for key in ("name", "namespace", "resourceVersion", "creationTimestamp")},
            "ownerReferences": metadata.get("ownerReferences"),
        },
        "spec": {key: dig(spec, key) for key in ("queueName", "priority", "active")},
        "status": {"conditions": dig(status, "conditions")},
    }


def observe_workloads(child_uids: Collection[str], items: Iterable[Object]) -> tuple[Workload, ...]:
    """Return the Workloads of children; `items` are all of their namespace, for the position."""
    known = list(items)
    own = [item for item in known if text_of(owner_of(item), "uid") in child_uids]
    return tuple(_observe(item, known) for item in own)


def _observe(item: Object, others: Iterable[Object]) -> Workload:
    conditions = conditions_of(item)
    reserved = conditions.get("QuotaReserved", {})
    evicted = conditions.get("Evicted", {})
    queue = text_of(dig(item, "spec"), "queueName")
    pending = [_order(other) for other in others if _is_pending(other, queue)] if _is_pending(item, queue) else None
    return Workload(
        child_uid=text_of(owner_of(item), "uid"),
        queue=queue,
        reserved=text_of(reserved, "status") == "True",
        inadmissible=text_of(reserved, "reason") == "Inadmissible",
        message=text_of(reserved, "message"),
        evicted=text_of(evicted, "message") if text_of(evicted, "status") == "True" else "",
        position=None if pending is None else position(_order(item), pending),
    )


def _is_pending(item: Any, queue: str) -> bool:
    inactive = dig(item, "spec", "active") is False
    waits = not inactive and not true_conditions(item) & {"QuotaReserved", "Finished"}
    return waits and text_of(dig(item, "spec"), "queueName") == queue


def _order(item: Any) -> tuple[int, float, str]:
    metadata = dig(item, "metadata")
    created = time_of(dig(metadata, "creationTimestamp")) or 0.0
    return int_of(dig(item, "spec"), "priority"), created, text_of(metadata, "name")
