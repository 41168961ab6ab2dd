"""A cluster small enough to be checked, with the operator in it; every decision must keep its promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.operator import promises
from tests.operator.simulated_platform import NOON as NOON
from tests.operator.simulated_platform import Platform
from unimrg_api.cluster import child_name
from unimrg_api.job import UniMRGJob
from unimrg_api.load import parse_job
from unimrg_api.stages import STAGES, StageName
from unimrg_api.status import JobStatus, RestartCounters
from unimrg_operator.core.decide import decide
from unimrg_operator.core.decision import Action, CreateChild, Decision, DeleteChild, DeletePod, Event
from unimrg_operator.core.lookup import has_succeeded, is_alive
from unimrg_operator.core.observation import Child, ChildState, Observation, ObservedJob, Workload
from unimrg_operator.core.texts import parse_time

RUN = "s3://bucket/run"


def make_job(
    *,
    nodes: int = 1,
    source: bool = False,
    pods: int = 1,
    mode: str = "OnSuccess",
    train: str = "Always",
    **policy: int | None,
) -> UniMRGJob:
    """Return a job; `policy` is spec.runPolicy but for what is None, `source` asks for a prepare stage, of `pods`.

    `mode` is that of the evaluation, `train` that of the training.
    """
    data: dict[str, Any] = {"shards": ["s3://bucket/shards"], "preparation": {"pods": pods}}
    if source:
        data["sources"] = [{"scenes": {"train": 4, "heldOut": 2, "imageSize": 32, "seed": 1}}]
    spec = {
        "model": {"harmon": {"variant": "Tiny"}},
        "training": {
            "batch": {"rowsPerObjective": 64, "cohortRows": 1, "microBatchRows": 1},
            "schedule": {"warmupSteps": 1, "totalSteps": 400},
        },
        "trainer": {"nodes": nodes, "gpusPerNode": 1},
        "data": data,
        "checkpoint": {"uri": RUN, "graceSeconds": 30},
        "stages": {"train": {"mode": train}, "evaluate": {"mode": mode}},
        "tracking": {"mlflow": {"uri": "https://mlflow.example"}},
        "runPolicy": {name: value for name, value in policy.items() if value is not None},
    }
    head = {"apiVersion": "training.unimrg.dev/v1alpha1", "kind": "UniMRGJob", "metadata": {"name": "tiny"}}
    return parse_job({**head, "spec": spec})


class Cluster(Platform):
    """One job, what belongs to it, and the operator's shell around `decide`."""

    def __init__(self, job: UniMRGJob | None = None) -> None:
        super().__init__(job or make_job())
        self.parse_error = ""
        self.deleting = False
        self.status = JobStatus()
        self.creation_error: tuple[str, str] | None = None
        self.previous_job_pods: tuple[str, ...] = ()
        self.workloads: tuple[Workload, ...] | None = None
        self.complete = True
        """Whether the operator sees all that there is."""
        self.created: list[str] = []
        self.train_attempts: list[int] = []
        """Of each that was created."""
        """Names of the children that were really made, in order."""
        self.published: list[Event] = []

    # ---- the operator

    def observe(self, status: JobStatus | None = None) -> Observation:
        """Return what can be seen; `status` replaces the job's by an older one."""
        shown = self.status if status is None else status
        job = ObservedJob("tiny", "default", "uid", 1, self.job, shown, self.parse_error, self.deleting)
        children, pods = tuple(self.children.values()), tuple(self.pods.values())
        why, nodes = self.creation_error, self.nodes
        seen = Observation(job, children, pods, self.report, why, self.previous_job_pods, nodes=nodes)
        return replace(seen, workloads=self.workloads, complete=self.complete)

    def decide(self, status: JobStatus | None = None) -> Decision:
        """Decide on what can be seen; every promise about decisions is kept, and deciding again changes nothing."""
        shown = self.observe(status)
        decision = decide(shown, self.now)
        promises.check(shown, decision, self.now, self.killed_at)
        again = decide(self.observe(decision.status), self.now)
        assert again.status == decision.status, "a status that was just written is changed"
        assert again.events == (), "an event is published twice"
        return decision

    def suspend_job(self, suspend: bool) -> None:
        """Let the user set spec.suspend."""
        assert self.job is not None
        self.job = self.job.model_copy(update={"spec": self.job.spec.model_copy(update={"suspend": suspend})})

    def write(self, decision: Decision) -> None:
        """Write the status, then publish the events that go with it."""
        self.status = decision.status
        self.published += decision.events

    def carry_out(self, action: Action) -> None:
        """Do what was decided, as an API server would let it be done."""
        if isinstance(action, CreateChild):
            assert self.job is not None
            name = child_name("tiny", action.stage, action.attempt)
            if name in self.children:
                return
            assert not self.previous_job_pods, f"{name} was made while pods of an earlier job live"
            assert name not in self.created, f"{name} was made a second time"
            self.created.append(name)
            self.train_attempts.append(action.train_attempt)
            uid = self._uid("child")
            state: ChildState = "Active" if self.job.spec.queue is None else "Suspended"
            self.children[name] = Child(
                name, uid, action.stage, action.attempt, self.now, state, action.restart_counters
            )
        elif isinstance(action, DeleteChild):
            self._check_that_no_success_is_deleted(action)
            if action.name in self.children and self.children[action.name].uid == action.uid:
                del self.children[action.name]
        elif isinstance(action, DeletePod):
            self.pods.pop(action.uid, None)

    def _check_that_no_success_is_deleted(self, action: DeleteChild) -> None:
        """However slow its controller is: a child of a succeeded attempt whose pods have all ended stays."""
        stage = self.status.stage(action.stage)
        pods = self.pods_of(action.name)
        assert self.job is not None
        ended, kept = self.status.completion_time, self.job.spec.run_policy.ttl_seconds_after_finished
        if ended is not None and self.now >= parse_time(ended) + kept:
            return
        # a queue would resume a suspended one, and it would create its pods anew
        waits = self.children[action.name].state == "Suspended"
        all_ended = len(pods) >= STAGES[action.stage].pods(self.job) and all(map(has_succeeded, pods)) and not waits
        assert stage.child != action.name or stage.state != "Succeeded" or not all_ended, f"{action} deletes a success"

    def reconcile(self) -> Decision:
        """Decide, write and act until nothing changes any more; return the last decision."""
        return self._until_rest(self._decide_and_act)

    def _decide_and_act(self) -> Decision:
        decision = self.decide()
        self.write(decision)
        for action in decision.actions:
            self.carry_out(action)
        return decision

    def _until_rest(self, step: Callable[[], Decision]) -> Decision:
        for _ in range(20):
            before = self._state()
            decision = step()
            if before == self._state():
                return decision
        raise AssertionError("the cluster never comes to rest")

    def _state(self) -> tuple[object, ...]:
        return self.status, dict(self.children), dict(self.pods)

    # ---- shortcuts

    def settle(self) -> Decision:
        """Let everybody act until all who act at once have: time stands still, and no pod ends by itself."""
        return self._until_rest(self._all_act)

    def _all_act(self) -> Decision:
        self.controllers()
        self.kubelets()
        return self.reconcile()

    def wait(self) -> Decision:
        """Let the time pass that the operator asked for, and everybody act."""
        decision = self.reconcile()
        assert decision.requeue_after is not None, f"nothing is waited for in {self.status.phase}"
        self.now += decision.requeue_after
        return self.settle()

    def succeed(self, stage: StageName, **record: Any) -> None:
        """Let the newest attempt of a stage do its work."""
        for pod in self.pods_of(self.newest(stage)):
            self.end_pod(pod, 0, **record)
        self.settle()

    def fail(self, stage: StageName, code: int, rank: int = 0, **record: Any) -> None:
        """Let a pod of a stage's newest attempt fail, and its peers end when they are asked to."""
        self.end_pod(self.pod(self.newest(stage), rank), code, **record)
        self.controllers()
        for pod in self.pods_of(self.newest(stage)):
            if is_alive(pod):
                self.end_pod(pod, 143)
        self.settle()

    def to_training(self) -> None:
        """Let all pods of the first attempt to train run."""
        self.settle()
        while "train" not in {child.stage for child in self.children.values()}:
            stage = self.status.stages[0].name if not self.status.stages else self.current
            self.succeed(stage)
        assert self.status.phase == "Running"

    @property
    def current(self) -> StageName:
        """The stage that is not over."""
        over = ("Succeeded", "Failed", "Skipped")
        return next(stage.name for stage in self.status.stages if stage.state not in over)

    def newest(self, stage: StageName) -> str:
        """Return the name of a stage's newest child."""
        children = [child for child in self.children.values() if child.stage == stage]
        return max(children, key=lambda child: child.attempt).name

    def restart_counters(self, stage: StageName = "train") -> RestartCounters:
        """Return what a stage has used up."""
        return self.status.stage(stage).restart_counters

    def condition(self, name: Any) -> tuple[str, str]:
        """Return status and reason of a condition."""
        condition = self.status.condition(name)
        return (condition.status, condition.reason) if condition is not None else ("", "")

    def published_reasons(self) -> list[str]:
        """Return the reasons of all events, in order."""
        return [event.reason for event in self.published]

    def until(self, reached: Callable[[], bool], step: Callable[[], None], limit: int = 300) -> None:
        """Repeat a step, letting time pass where the operator waits for it, until something is so."""
        for _ in range(limit):
            if reached():
                return
            before = self._state()
            step()
            decision = self.settle()
            if before == self._state() and not reached():
                assert decision.requeue_after is not None, f"nothing is waited for in {self.status.phase}"
                self.now += decision.requeue_after
        raise AssertionError(f"after {limit} steps the job is {self.status.phase}: {self.status.reason}")
