"""The loop: look at a job, decide, carry it out, and come back when something changes or it is time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from unimrg_api.stages import STAGES
from unimrg_operator.app.apply import Applier, CreationError, backend_missing
from unimrg_operator.app.events import Warnings
from unimrg_operator.app.first_seen import FirstSeen
from unimrg_operator.app.job_metrics import count_changes
from unimrg_operator.app.log import log_decision
from unimrg_operator.app.metrics import Metrics
from unimrg_operator.app.nodes import Nodes
from unimrg_operator.app.observe import observe_child, observe_job, observe_pod, presumed_child
from unimrg_operator.app.progress_poller import ProgressPoller
from unimrg_operator.app.world import JobKey, World
from unimrg_operator.backends.registry import SiteBackends
from unimrg_operator.core.decide import BLIND_RETRY_SECONDS, CREATION_RETRY_SECONDS
from unimrg_operator.core.decision import CreateChild, Decision
from unimrg_operator.core.lookup import is_alive
from unimrg_operator.core.observation import Child, Observation, ObservedJob, Pod
from unimrg_operator.core.texts import remaining, shortest_wait
from unimrg_operator.kube.client import Object
from unimrg_operator.kube.errors import ApiError
from unimrg_operator.kube.queue import WorkQueue

logger = logging.getLogger(__name__)

WORKERS = 8
CONFLICT_SECONDS = 0.5
"""How soon to look again at a job that was changed by somebody else: the watch should have brought it by then."""
STATUS_SECONDS = 1.0
"""A status from which nothing follows is written so long after the one before: starting pods make several a second."""
QUIET_SECONDS = 10.0
"""Age of a child from which on missing or waiting pods are worth a look at the Warning events."""
WARNINGS_SECONDS = 15.0
"""How soon to look at them again."""
_TAKE_SECONDS = 5.0

ChildOrPod = TypeVar("ChildOrPod", Child, Pod)

Decide = Callable[[Observation, float], Decision]


@dataclass(frozen=True)
class _FailedCreation:
    """Why a child of the job with that uid could not be made, and when that was last tried."""

    uid: str
    creation_error: CreationError
    time: float


class Controller:
    """Workers over one queue. What they keep in memory is only ever a hint; everything else is in the cluster."""

    def __init__(
        self,
        world: World,
        backends: SiteBackends,
        queue: WorkQueue[JobKey],
        applier: Applier,
        decide: Decide,
        poller: ProgressPoller,
        warnings: Warnings,
        metrics: Metrics,
        *,
        nodes: Nodes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._world = world
        self._backends = backends
        self._queue = queue
        self._applier = applier
        self._decide = decide
        self._poller = poller
        self._warnings = warnings
        self._metrics = metrics
        self._nodes = nodes
        self._clock = clock
        self._failed_creations: dict[JobKey, _FailedCreation] = {}
        self._written: dict[JobKey, float] = {}
        """When each job's status was last written."""
        self._deletions = FirstSeen()
        self._beats: dict[str, float] = {}
        self._threads: list[threading.Thread] = []
        metrics.waiting_jobs.set_function(lambda: len(queue))
        metrics.waiting_age.set_function(queue.age)

    def start(self, workers: int = WORKERS) -> None:
        """Begin to work."""
        for number in range(workers):
            thread = threading.Thread(target=self.work, name=f"worker-{number}", daemon=True)
            self._beats[thread.name] = time.monotonic()
            thread.start()
            self._threads.append(thread)

    def stop(self, seconds: float = 10.0) -> None:
        """Let every worker finish what it has in hand, and at most so long."""
        self._queue.close()
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0.0))

    def age(self) -> float:
        """Seconds since the slowest worker last came around."""
        return time.monotonic() - min(self._beats.values(), default=time.monotonic())

    def work(self) -> None:
        """Take jobs from the queue until it is closed."""
        name = threading.current_thread().name
        while not self._queue.closed:
            self._beats[name] = time.monotonic()
            key = self._queue.take(_TAKE_SECONDS)
            if key is None:
                continue
            try:
                self._look_at(key)
            finally:
                self._queue.done(key)

    def _look_at(self, key: JobKey) -> None:
        started = time.monotonic()
        try:
            requeue_after = self.reconcile(key)
        except ApiError as error:
            seconds = self._queue.fail(key, error.retry_after)
            self._metrics.reconcile_errors.labels(type(error).__name__).inc()
            logger.warning("%s/%s: %s; again in %.0f s", *key, error, seconds)
        except Exception as error:  # one job must not take the others down
            seconds = self._queue.fail(key)
            self._metrics.reconcile_errors.labels(type(error).__name__).inc()
            logger.exception("%s/%s: unexpected error; again in %.0f s", *key, seconds)
        else:
            self._queue.forget(key)
            if requeue_after is not None:
                self._queue.add_after(key, requeue_after)
        finally:
            self._metrics.reconcile_seconds.observe(time.monotonic() - started)

    def reconcile(self, key: JobKey) -> float | None:
        """Look at one job and do what is to be done; return after how many seconds to look again, if at all.

        Raises ApiError where an API server fails.
        """
        usable, item = self._world.usable(key[0]), self._world.job(key)
        if item is None and not usable:
            return BLIND_RETRY_SECONDS
        if item is None:
            self._failed_creations.pop(key, None)
            self._written.pop(key, None)
            self._poller.forget(key)
            return None
        now = self._clock()
        observation, look_again = self._observe(key, item, now) if usable else (_unseen(item), None)
        observation = self._retry(key, observation, now) if usable else observation
        decision = self._decide(observation, now)
        if not usable:
            return decision.requeue_after
        left = remaining(self._written.get(key, 0.0), STATUS_SECONDS, now)
        outcome = self._applier.apply(item, observation, decision, hold=left > 0)
        if outcome.conflict:
            return CONFLICT_SECONDS
        if outcome.held:
            return shortest_wait(left, decision.requeue_after, look_again)
        job = observation.job
        log_decision(job, decision.status, decision.actions)
        if outcome.wrote_status:
            self._written[key] = now
            count_changes(self._metrics, job, decision.status, now)
        waits = [decision.requeue_after, outcome.retry_after, look_again]
        if outcome.creation_error is not None:
            self._failed_creations[key] = _FailedCreation(job.uid, outcome.creation_error, now)
            waits.append(0.0)  # the status has yet to say so
        return min((wait for wait in waits if wait is not None), default=None)

    def _retry(self, key: JobKey, observation: Observation, now: float) -> Observation:
        """Try again to make the child that could not be made a while ago.

        What is wanted follows from the status that is stored, so it need not be written before; otherwise every try
        would write that all is well and then that it is not.
        """
        held = self._failed_creations.get(key)
        if held is None:
            return observation
        if held.uid != observation.job.uid or observation.job.parsed is None:
            del self._failed_creations[key]
            return observation
        if now - held.time >= CREATION_RETRY_SECONDS:
            wanted = self._decide(observation, now).actions
            creations = [action for action in wanted if isinstance(action, CreateChild)]
            hindrances = [self._applier.create(observation, creation) for creation in creations]
            creation_error = next((found for found in hindrances if isinstance(found, tuple)), None)
            if creation_error is None:
                del self._failed_creations[key]
                return observation
            held = self._failed_creations[key] = _FailedCreation(held.uid, creation_error, now)
        return replace(observation, creation_error=held.creation_error)

    def _observe(self, key: JobKey, item: Object, now: float) -> tuple[Observation, float | None]:
        """Return what is known of a job, and in how many seconds warnings may be worth another look."""
        job = observe_job(item)
        items = self._world.children(key, job.uid)
        owners = self._world.pod_owners(key, items)
        children = [child for item in items if (child := observe_child(item, self._backends)) is not None]
        creation_error = self._presume(key[0], job, children)
        pods = [observe_pod(pod, owners) for pod in self._world.pods(key, job.uid, owners)]
        pods = [
            pod if pod.deleting_since is None else replace(pod, deletion_observed_at=self._deletions.of(pod.uid, now))
            for pod in pods
        ]
        namesakes = [observe_pod(pod) for pod in self._world.namesakes_pods(key, job.uid, owners)]
        previous_job_pods = tuple(sorted(pod.name for pod in namesakes if is_alive(pod)))
        look_again: float | None = None
        for index, child in enumerate(children):
            if not _is_short_of_pods(job, child, pods):
                continue
            left = child.created + QUIET_SECONDS - now
            look_again = left if left > 0 else WARNINGS_SECONDS
            if left <= 0:
                children[index] = self._with_warnings(key[0], child)
                pods = [
                    self._with_warnings(key[0], pod) if (pod.child, pod.phase) == (child.name, "Pending") else pod
                    for pod in pods
                ]
        observation = Observation(
            job,
            tuple(children),
            tuple(pods),
            self._poller.report(key, _reporting_pods(children, pods)),
            creation_error,
            previous_job_pods,
            workloads=self._world.workloads(key[0], {child.uid for child in children}),
            nodes=self._nodes.of([pod.node for pod in pods]) if self._nodes is not None else (),
        )
        return observation, look_again

    def _presume(self, namespace: str, job: ObservedJob, children: list[Child]) -> CreationError | None:
        """Hold on to a child that was going on where its kind is not served just now: it need not be gone.

        Returns why no child can be created meanwhile.
        """
        creation_error = None
        for stage in job.status.stages:
            seen = any((child.stage, child.attempt) == (stage.name, stage.attempt) for child in children)
            if stage.child is None or stage.child_uid is None or stage.attempt_end is not None or seen:
                continue
            kind = self._world.unserved(namespace, stage.name, job.parsed)
            if kind is not None:
                children.append(presumed_child(stage))
                creation_error = backend_missing(kind)
        return creation_error

    def _with_warnings(self, namespace: str, thing: ChildOrPod) -> ChildOrPod:
        return replace(thing, warnings=self._warnings.about(namespace, thing.uid))


def _unseen(item: Object) -> Observation:
    """Return what is known of a job while its children and pods cannot be seen."""
    return Observation(observe_job(item), complete=False)


def _reporting_pods(children: Sequence[Child], pods: Sequence[Pod]) -> list[str]:
    """Return the uids of the pods that may report: node 0 of the newest child first, and of it the first that was."""
    ages = {child.name: number for number, child in enumerate(sorted(children, key=lambda child: -child.created))}
    pods_of_node_0 = [pod for pod in pods if pod.node_rank == 0 and pod.child in ages]
    return [pod.uid for pod in sorted(pods_of_node_0, key=lambda pod: (ages[pod.child], pod.created, pod.name))]


def _is_short_of_pods(job: ObservedJob, child: Child, pods: Sequence[Pod]) -> bool:
    """Whether a child that goes on lacks pods, or has some that do not run yet."""
    if job.parsed is None or child.state != "Active" or child.deleting:
        return False
    own = [pod for pod in pods if pod.child == child.name]
    return len(own) < STAGES[child.stage].pods(job.parsed) or any(pod.phase == "Pending" for pod in own)
