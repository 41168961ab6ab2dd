"""The cached part of the cluster: jobs, their children and pods in the namespaces that the operator looks after."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, get_args

from unimrg_api import cluster
from unimrg_api.job import KIND, UniMRGJob
from unimrg_api.stages import JobPhase, StageName
from unimrg_operator.app.metrics import Metrics
from unimrg_operator.app.observe import UID_VARIABLE, is_pod_of, is_pod_of_namesake
from unimrg_operator.app.queues import WORKLOADS, Workloads, prune_workload
from unimrg_operator.backends.base import Resource
from unimrg_operator.backends.objects import dicts_of, dig, owner_of, text_of
from unimrg_operator.backends.registry import SiteBackends
from unimrg_operator.core.observation import Workload
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
    children: dict[Resource, Reflector]
    """By kind, those that no job needs yet too."""
    pods: Reflector
    workloads: Reflector | None
    """Kueue's; None where nobody looks at them."""

    @cached_property
    def queued(self) -> Workloads | None:
        """What the Workloads say."""
        return None if self.workloads is None else Workloads(self.workloads.cache)


class World:
    """Reflectors of every kind and namespace. `changed` is called with the key of the job that a change concerns.

    Kinds of a backend that is not the site's own are watched from when a job first names it.
    """

    def __init__(
        self,
        client: Client,
        backends: SiteBackends,
        namespaces: Sequence[str],
        changed: Callable[[JobKey], None],
        metrics: Metrics,
        *,
        kueue: bool = False,
    ) -> None:
        """`kueue` says whether Kueue's Workloads are watched."""
        self._kueue = kueue
        self._changed = changed
        self._metrics = metrics
        self._backends = backends
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._watched = set(backends.wanted_resources())
        self._namespaces = {name: self._reflect(client, name) for name in dict.fromkeys(namespaces)}
        for phase in get_args(JobPhase):
            metrics.jobs.labels(phase).set_function(partial(self._count, phase))
        metrics.excluded_nodes.set_function(self._count_excluded_nodes)

    def start(self) -> None:
        """Begin to list and watch."""
        self._run(self.reflectors())

    def stop(self, seconds: float = 5.0) -> None:
        """End every watch; wait at most so long for each."""
        for reflector in self.reflectors():
            reflector.stop()
        for thread in self._threads:
            thread.join(seconds)

    def reflectors(self) -> list[Reflector]:
        """Return the reflectors of all kinds that are watched."""
        return [reflector for name in self._namespaces for reflector in self._reflectors(name)]

    def usable(self, namespace: str) -> bool:
        """Whether all caches of a namespace are in step, so that what is not cached is not there."""
        return all(reflector.usable for reflector in self._reflectors(namespace))

    def job(self, key: JobKey) -> Object | None:
        """Return a UniMRGJob."""
        return self._namespaces[key[0]].jobs.cache.get(key[1])

    def written(self, key: JobKey, base_version: str, item: Object) -> None:
        """Take in what the API server returned when we changed the job that was at `base_version`.

        The job is looked at anew: a decision may wait for a status to be stored. The watch will only repeat it.
        """
        if self._namespaces[key[0]].jobs.cache.exchange(base_version, prune_job(item)):
            self._changed(key)

    def created(self, resource: Resource, namespace: str, item: Object) -> None:
        """Take in the child that the API server returned when we created it."""
        self._namespaces[namespace].children[resource].admit(item)

    def unserved(self, namespace: str, stage: StageName, job: UniMRGJob | None) -> Resource | None:
        """Return the kind of a job's children of a stage if the API server does not know it: nobody knows them then."""
        kind = self._backends.resource(stage, job)
        reflector = self._namespaces[namespace].children[kind]
        return kind if reflector.missing or reflector.absent else None

    def children(self, key: JobKey, uid: str) -> list[Object]:
        """Return the objects that the object with that uid controls: of a job its children."""
        return [item for reflector in self._namespaces[key[0]].children.values() for item in reflector.cache.by(uid)]

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

    def workloads(self, namespace: str, child_uids: Collection[str]) -> tuple[Workload, ...] | None:
        """Return what Kueue says of children; None where it is not looked at, or the right to is missing."""
        found = self._namespaces[namespace]
        if found.workloads is None or found.queued is None or found.workloads.hidden:
            return None
        return found.queued.of(child_uids)

    def namesakes_pods(self, key: JobKey, uid: str, owner_uids: Collection[str]) -> list[Object]:
        """Return the pods of earlier jobs that had the name of the job with that uid."""
        pods = self._namespaces[key[0]].pods.cache.by(key[1])
        return [item for item in pods if is_pod_of_namesake(item, uid, owner_uids)]

    def jobs_on(self, node: str) -> set[JobKey]:
        """Return the jobs that have pods on a node."""
        return {
            (name, job_name_of(pod))
            for name, namespace in self._namespaces.items()
            for pod in namespace.pods.cache.all()
            if text_of(dig(pod, "spec"), "nodeName") == node
        }

    def pods_of_children(self) -> Iterator[tuple[JobKey, Object]]:
        """Return the pods that a known child of a live job controls, with that job: a label alone says nothing."""
        for name, namespace in self._namespaces.items():
            for job in self._live_jobs(namespace):
                key = (name, job["metadata"]["name"])
                owners = self.pod_owners(key, self.children(key, job["metadata"]["uid"]))
                for pod in namespace.pods.cache.by(key[1]):
                    if text_of(owner_of(pod), "uid") in owners:
                        yield key, pod

    def _reflectors(self, namespace: str) -> Iterator[Reflector]:
        found = self._namespaces[namespace]
        yield found.jobs
        yield from (reflector for kind, reflector in found.children.items() if kind in self._watched)
        yield found.pods
        if found.workloads is not None:
            yield found.workloads

    def _run(self, reflectors: Iterable[Reflector]) -> None:
        for reflector in reflectors:
            synced = self._metrics.cache_synced.labels(reflector.resource.kind, reflector.namespace)
            synced.set_function(partial(getattr, reflector, "synced"))
            thread = threading.Thread(target=reflector.run, name=str(reflector), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _watch(self, resources: Iterable[Resource]) -> None:
        """Watch these kinds from now on, in all namespaces."""
        with self._lock:
            new = set(resources) - self._watched
            self._watched |= new
            self._run(space.children[kind] for kind in new for space in self._namespaces.values())

    def _reflect(self, client: Client, namespace: str) -> _Namespace:
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

        ours: dict[str, Any] = {"label_selector": cluster.JOB_LABEL}  # whatever bears this label
        return _Namespace(
            jobs=reflector(JOBS, prune=prune_job, index=phase_of),
            children={
                # A kind that is not built in comes with another operator.
                kind: reflector(
                    kind,
                    prune=partial(prune_child, kind),
                    index=lambda item: text_of(owner_of(item), "uid"),
                    optional="." in kind.group,
                    **ours,
                )
                for kind in self._backends.resources()
            },
            pods=reflector(PODS, prune=prune, index=job_name_of, **ours),
            # All of them: a position is one among others.
            workloads=reflector(WORKLOADS, prune=prune_workload, optional=True) if self._kueue else None,
        )

    def _tell(self, change: Change) -> None:
        for item in change:
            if item is None:
                continue
            metadata = item["metadata"]
            name = job_name_of(item)
            if item.get("kind") == WORKLOADS.kind:
                name = self._job_of_workload(item)
            elif item.get("kind") == KIND:
                name = metadata["name"]
                self._watch(self._backends.wanted_resources(dig(item, "spec", "backend")))
            if name:
                self._changed((metadata["namespace"], name))

    def _job_of_workload(self, item: Object) -> str:
        """Return the name of the job whose child a Workload is of; empty where that is nobody's we know."""
        owner = owner_of(item)
        for reflector in self._namespaces[item["metadata"]["namespace"]].children.values():
            child = reflector.cache.get(text_of(owner, "name"))
            if child is not None and text_of(child["metadata"], "uid") == text_of(owner, "uid"):
                return job_name_of(child)
        return ""

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


def prune_child(kind: Resource, item: Object) -> Object:
    """Keep of an object of a kind what may be read. Lists do not name the kind of their items, so it is put in."""
    return {**prune(item), "apiVersion": kind.api_version, "kind": kind.kind}


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
