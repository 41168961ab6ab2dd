"""The cached part of the cluster: jobs, their children and pods in the namespaces that the operator looks after."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from unimrg_api import cluster
from unimrg_api.job import KIND
from unimrg_api.stages import JobPhase, StageName
from unimrg_operator.app.metrics import Metrics
from unimrg_operator.app.observe import UID_VARIABLE, is_pod_of, is_pod_of_namesake
from unimrg_operator.backends.base import Resource
from unimrg_operator.backends.objects import dicts_of, dig, owner_of, text_of
from unimrg_operator.backends.registry import SiteBackends
from unimrg_operator.kube.cache import Change
from unimrg_operator.kube.client import Client, Object
from unimrg_operator.kube.reflector import Reflector

JobKey = tuple[str, str]
"""Namespace and name of a UniMRGJob."""

JOBS = Resource(cluster.GROUP, cluster.VERSION, cluster.PLURAL, KIND)
PODS = Resource("", "v1", "pods", "Pod")

_DROPPED = frozenset(
    {"managedFields", "kubectl.kubernetes.io/last-applied-configuration", "template", "volumes", "volumeMounts"}
)
_OVER = ("Succeeded", "Failed")
_VARIABLES = (UID_VARIABLE, cluster.NODE_RANK_VARIABLE)


@dataclass(frozen=True)
class _Namespace:
    jobs: Reflector
    children: tuple[Reflector, ...]
    pods: Reflector

    def reflectors(self) -> Iterator[Reflector]:
        yield self.jobs
        yield from self.children
        yield self.pods


class World:
    """Reflectors of every kind and namespace. `changed` is called with the key of the job that a change concerns."""

    def __init__(
        self,
        client: Client,
        backends: SiteBackends,
        namespaces: Sequence[str],
        changed: Callable[[JobKey], None],
        metrics: Metrics,
    ) -> None:
        self._changed = changed
        self._metrics = metrics
        self._backends = backends
        self._threads: list[threading.Thread] = []
        kinds = dict.fromkeys(kind for backend in backends.all() for kind in (backend.resource, *backend.intermediates))
        self._namespaces = {name: self._reflect(client, name, kinds) for name in dict.fromkeys(namespaces)}
        for phase in get_args(JobPhase):
            metrics.jobs.labels(phase).set_function(partial(self._count, phase))
        metrics.excluded_nodes.set_function(self._count_excluded_nodes)
        for item in self.reflectors():
            synced = metrics.cache_synced.labels(item.resource.kind, item.namespace)
            synced.set_function(partial(getattr, item, "synced"))

    def start(self) -> None:
        """Begin to list and watch."""
        for reflector in self.reflectors():
            thread = threading.Thread(target=reflector.run, name=str(reflector), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, seconds: float = 5.0) -> None:
        """End every watch; wait at most so long for each."""
        for reflector in self.reflectors():
            reflector.stop()
        for thread in self._threads:
            thread.join(seconds)

    def reflectors(self) -> list[Reflector]:
        """Return all reflectors."""
        return [reflector for namespace in self._namespaces.values() for reflector in namespace.reflectors()]

    def usable(self, namespace: str) -> bool:
        """Whether all caches of a namespace are in step, so that what is not cached is not there."""
        return all(reflector.usable for reflector in self._namespaces[namespace].reflectors())

    def job(self, key: JobKey) -> Object | None:
        """Return a UniMRGJob."""
        return self._namespaces[key[0]].jobs.cache.get(key[1])

    def written(self, key: JobKey, base_version: str, item: Object) -> None:
        """Take in what the API server returned when we changed the job that was at `base_version`."""
        self._namespaces[key[0]].jobs.cache.exchange(base_version, prune_job(item))

    def created(self, resource: Resource, namespace: str, item: Object) -> None:
        """Take in the child that the API server returned when we created it."""
        for reflector in self._namespaces[namespace].children:
            if reflector.resource == resource:
                reflector.admit(item)

    def unserved(self, namespace: str, stage: StageName) -> Resource | None:
        """Return the kind of a stage's children if the API server does not know it: then nobody knows them."""
        kind = self._backends.resource(stage)
        missing = any(item.missing for item in self._namespaces[namespace].children if item.resource == kind)
        return kind if missing else None

    def children(self, key: JobKey, uid: str) -> list[Object]:
        """Return the objects that the object with that uid controls: of a job its children."""
        return [item for reflector in self._namespaces[key[0]].children for item in reflector.cache.by(uid)]

    def pod_owners(self, key: JobKey, children: Iterable[Object]) -> dict[str, str]:
        """Return the names of children by the uids of what may control their pods: they, and what stands between."""
        owners: dict[str, str] = {}
        for child in children:
            name, uids = text_of(dig(child, "metadata"), "name"), [text_of(dig(child, "metadata"), "uid")]
            while uids:
                owners |= dict.fromkeys(uids, name)
                between = self.children(key, uids.pop())
                uids += [text_of(dig(item, "metadata"), "uid") for item in between]
        return owners

    def pods(self, key: JobKey, uid: str, owner_uids: Collection[str]) -> list[Object]:
        """Return the pods of the job with that uid, also those whose child is gone."""
        return [item for item in self._namespaces[key[0]].pods.cache.by(key[1]) if is_pod_of(item, uid, owner_uids)]

    def namesakes_pods(self, key: JobKey, uid: str, owner_uids: Collection[str]) -> list[Object]:
        """Return the pods of earlier jobs that had the name of the job with that uid."""
        pods = self._namespaces[key[0]].pods.cache.by(key[1])
        return [item for item in pods if is_pod_of_namesake(item, uid, owner_uids)]

    def pods_of_children(self) -> Iterator[tuple[JobKey, Object]]:
        """Return the pods that a known child of a live job controls, with that job: a label alone says nothing."""
        for name, namespace in self._namespaces.items():
            for job in self._live_jobs(namespace):
                key = (name, job["metadata"]["name"])
                owners = self.pod_owners(key, self.children(key, job["metadata"]["uid"]))
                for pod in namespace.pods.cache.by(key[1]):
                    if text_of(owner_of(pod), "uid") in owners:
                        yield key, pod

    def _reflect(self, client: Client, namespace: str, kinds: Iterable[Resource]) -> _Namespace:
        def reflector(resource: Resource, **options: Any) -> Reflector:
            counter = self._metrics.watch_restarts
            return Reflector(
                client,
                resource,
                namespace,
                self._tell,
                restarted=lambda cause: counter.labels(resource.kind, cause).inc(),
                **options,
            )

        ours: dict[str, Any] = {"prune": prune, "label_selector": cluster.JOB_LABEL}  # whatever bears this label
        return _Namespace(
            jobs=reflector(JOBS, prune=prune_job, index=phase_of),
            children=tuple(
                # A kind that is not built in comes with another operator.
                reflector(kind, index=lambda item: text_of(owner_of(item), "uid"), optional="." in kind.group, **ours)
                for kind in kinds
            ),
            pods=reflector(PODS, index=job_name_of, **ours),
        )

    def _tell(self, change: Change) -> None:
        for item in change:
            if item is None:
                continue
            metadata = item["metadata"]
            name = metadata["name"] if item.get("kind") == KIND else job_name_of(item)
            if name:
                self._changed((metadata["namespace"], name))

    def _count(self, phase: str) -> int:
        return sum(namespace.jobs.cache.count(phase) for namespace in self._namespaces.values())

    def _count_excluded_nodes(self) -> int:
        jobs = [job for namespace in self._namespaces.values() for job in self._live_jobs(namespace)]
        stages = [stage for job in jobs for stage in dicts_of(job, "status", "stages")]
        return len({node for stage in stages for node in dig(stage, "restartCounters", "excludedNodes") or ()})

    @staticmethod
    def _live_jobs(namespace: _Namespace) -> list[Object]:
        """Return the jobs that are not over."""
        return [job for phase in get_args(JobPhase) if phase not in _OVER for job in namespace.jobs.cache.by(phase)]


def phase_of(item: Object) -> str:
    """Return the phase of a UniMRGJob."""
    return text_of(item.get("status"), "phase") or "Pending"


def job_name_of(item: Object) -> str:
    """Return the name of the job that a child or pod says it belongs to."""
    return text_of(dig(item, "metadata", "labels"), cluster.JOB_LABEL)


def prune_job(item: Object) -> Object:
    """Keep of a UniMRGJob what is decided on. Lists do not name the kind of their items, so it is put in."""
    return {
        "kind": KIND,
        "metadata": prune(item["metadata"]),
        "spec": item.get("spec"),
        "status": item.get("status") or {},
    }


def prune(item: Object) -> Object:
    """Keep of a child or pod what may be read: no template or volume, which are large, and no other variable."""
    kept: Object = _pruned(item)
    return kept


def _pruned(value: Any, field: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _pruned(inner, key) for key, inner in value.items() if key not in _DROPPED}
    if isinstance(value, list):
        return [_pruned(entry) for entry in value if field != "env" or text_of(entry, "name") in _VARIABLES]
    return value
