"""Kueue's Workloads: what is kept of them in memory, and what they say of a job's children."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from unimrg_operator.backends.base import Resource
from unimrg_operator.backends.objects import conditions_of, dig, int_of, owner_of, text_of, time_of, true_conditions
from unimrg_operator.core.observation import Workload
from unimrg_operator.kube.cache import Cache
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


class Workloads:
    """What Kueue says of the children of one namespace, read again only once a Workload has changed.

    A place in a queue depends on all that wait there, and every job that waits asks for its own.
    """

    def __init__(self, cache: Cache) -> None:
        """`cache` holds the Workloads of the namespace, as `prune_workload` leaves them."""
        self._cache = cache
        self._lock = threading.Lock()
        self._changes = -1
        self._by_child: dict[str, Workload] = {}

    def of(self, child_uids: Iterable[str]) -> tuple[Workload, ...]:
        """Return the Workloads of these children."""
        with self._lock:
            changes = self._cache.changes  # before the objects: a later change is then read next time
            if changes != self._changes:
                self._changes, self._by_child = changes, observe_workloads(self._cache.all())
            return tuple(self._by_child[uid] for uid in child_uids if uid in self._by_child)


def observe_workloads(items: Iterable[Object]) -> dict[str, Workload]:
    """Return the Workloads of a namespace by the uid of the child that each is for.

    Positions count from 1 in each queue: Kueue takes the highest priority first, and of it the oldest.
    """
    queues: defaultdict[str, list[Object]] = defaultdict(list)
    known: dict[str, Workload] = {}
    for item in items:
        workload = _observe(item)
        known[workload.child_uid] = workload
        if _is_pending(item):
            queues[workload.queue].append(item)
    for pending in queues.values():
        for place, item in enumerate(sorted(pending, key=_order), start=1):
            uid = text_of(owner_of(item), "uid")
            known[uid] = replace(known[uid], position=place)
    return known


def _observe(item: Object) -> Workload:
    conditions = conditions_of(item)
    reserved = conditions.get("QuotaReserved", {})
    evicted = conditions.get("Evicted", {})
    return Workload(
        child_uid=text_of(owner_of(item), "uid"),
        queue=text_of(dig(item, "spec"), "queueName"),
        reserved=text_of(reserved, "status") == "True",
        inadmissible=text_of(reserved, "reason") == "Inadmissible",
        message=text_of(reserved, "message"),
        evicted=text_of(evicted, "message") if text_of(evicted, "status") == "True" else "",
    )


def _is_pending(item: Any) -> bool:
    inactive = dig(item, "spec", "active") is False
    return not inactive and not true_conditions(item) & {"QuotaReserved", "Finished"}


def _order(item: Any) -> tuple[int, float, str]:
    metadata = dig(item, "metadata")
    created = time_of(dig(metadata, "creationTimestamp")) or 0.0
    return -int_of(dig(item, "spec"), "priority"), created, text_of(metadata, "name")
