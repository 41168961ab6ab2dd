"""A cluster small enough to be checked: children, pods, controllers and kubelets as plain values, and a clock to turn.

It behaves as Training Operator and the Job controller were seen to behave: a failed pod fails its child and ends its
other pods; a deleted pod of a training is made again, alone and silently; pods without a child are collected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from unimrg_api.cluster import child_name
from unimrg_api.job import UniMRGJob
from unimrg_api.load import parse_job
from unimrg_api.progress import Progress
from unimrg_api.stages import STAGES, StageName
from unimrg_api.status import JobStatus, RestartCounters
from unimrg_api.termination import TerminationRecord
from unimrg_operator.core.decide import decide
from unimrg_operator.core.decision import Action, CreateChild, Decision, DeleteChild, DeletePod, Event
from unimrg_operator.core.lookup import has_failed, has_succeeded, is_alive
from unimrg_operator.core.observation import (
    Child,
    ChildState,
    Node,
    Observation,
    ObservedJob,
    Pod,
    ProgressReport,
    Terminated,
    Workload,
)
from unimrg_operator.core.texts import parse_time

NOON = 1_800_000_000.0
"""When every simulation begins."""
RUN = "s3://bucket/run"


def make_job(*, nodes: int = 1, source: bool = False, mode: str = "OnSuccess", **policy: int | None) -> UniMRGJob:
    """Return a job; `policy` is spec.runPolicy but for what is None, `source` asks for a prepare stage."""
    data: dict[str, Any] = {"shards": ["s3://bucket/shards"]}
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
        "stages": {"evaluate": {"mode": mode}},
        "tracking": {"mlflow": {"uri": "https://mlflow.example"}},
        "runPolicy": {name: value for name, value in policy.items() if value is not None},
    }
    head = {"apiVersion": "training.unimrg.dev/v1alpha1", "kind": "UniMRGJob", "metadata": {"name": "tiny"}}
    return parse_job({**head, "spec": spec})


class Cluster:
    """One job, what belongs to it, and the operator's shell around `decide`."""

    def __init__(self, job: UniMRGJob | None = None) -> None:
        self.job: UniMRGJob | None = job or make_job()
        self.parse_error = ""
        self.deleting = False
        self.now = NOON
        self.status = JobStatus()
        self.children: dict[str, Child] = {}
        self.pods: dict[str, Pod] = {}
        self.report: ProgressReport | None = None
        self.creation_error: tuple[str, str] | None = None
        self.previous_job_pods: tuple[str, ...] = ()
        self.workloads: tuple[Workload, ...] | None = None
        self.nodes: tuple[Node, ...] = ()
        """The nodes that the operator may see."""
        self.secret_missing = False
        self.dead_nodes: set[str] = set()
        self.places = 1000
        """Pods that the nodes have room for; the others wait."""
        self.complete = True
        """Whether the operator sees all that there is."""
        self.created: list[str] = []
        """Names of the children that were really made, in order."""
        self.published: list[Event] = []
        self._numbers = 0
        self._had_pods: set[str] = set()
        self._suspended_pods: set[str] = set()
        """Pods from before a suspension: no controller counts them once their child is resumed."""

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
        """Decide on what can be seen; nothing that was not shown is acted on, and deciding again changes nothing."""
        shown = self.observe(status)
        decision = decide(shown, self.now)
        assert self.complete or (decision.status, decision.actions) == (shown.job.status, ()), "decided blindly"
        for action in decision.actions:
            self._check_that_it_was_shown(action, shown.job.status)
            suspended = self.job is not None and self.job.spec.suspend
            assert not (suspended and isinstance(action, CreateChild)), f"{action} of a suspended job"
        self._check_that_a_node_is_held(decision.status)
        again = decide(self.observe(decision.status), self.now)
        assert again.status == decision.status, "a status that was just written is changed"
        assert again.events == (), "an event is published twice"
        JobStatus.model_validate(decision.status.model_dump(by_alias=True))
        return decision

    def _check_that_it_was_shown(self, action: Action, shown: JobStatus) -> None:
        """An attempt is only ended, or followed by another, once the status says how it ended."""
        if isinstance(action, DeletePod) or shown.phase in ("Succeeded", "Failed"):
            return
        end = shown.stage(action.stage).attempt_end
        if isinstance(action, CreateChild):
            follows = end is not None and end.action in ("Restart", "Suspend")
            known = follows and shown.stage(action.stage).attempt == action.attempt - 1
            assert action.attempt == 1 or known, f"{action} does not follow from {end}"
        else:
            attempts = [child.attempt for child in self.children.values() if child.stage == action.stage]
            newest = max(shown.stage(action.stage).attempt, *attempts)  # its child may have been deleted by others
            old = self.children[action.name].attempt < newest
            assert old or end is not None, f"{action} does not follow from {end}"

    def _check_that_a_node_is_held(self, status: JobStatus) -> None:
        """An attempt without a node is not given up, however long its controller or the scheduler takes."""
        for stage in status.stages:
            end = stage.attempt_end
            if end is not None and end.reason == "StartTimeout" and self.status.stage(stage.name).attempt_end != end:
                assert any(pod.node and is_alive(pod) for pod in self.pods_of(stage.child or "")), (
                    f"{end} holds no node"
                )

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
        all_ended = len(pods) >= STAGES[action.stage].pods(self.job) and all(map(has_succeeded, pods))
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

    # ---- the others

    def controllers(self) -> None:
        """Let Training Operator, the Job controller and garbage collection act once."""
        for child in [child for child in self.children.values() if child.state == "Active" and not child.deleting]:
            self._control(child)
        for pod in list(self.pods.values()):
            if pod.child in self.children:
                continue
            if not is_alive(pod):
                del self.pods[pod.uid]
            elif pod.deleting_since is None:
                self.delete_pod(pod)

    def _control(self, child: Child) -> None:
        assert self.job is not None
        pods = [pod for pod in self.pods_of(child.name) if pod.uid not in self._suspended_pods or is_alive(pod)]
        expected = STAGES[child.stage].pods(self.job)
        lost = child.stage != "train" and child.name in self._had_pods and not pods
        if lost or any(has_failed(pod) for pod in pods):
            self.children[child.name] = replace(child, state="Failed")
            for pod in pods:
                if is_alive(pod) and pod.deleting_since is None:
                    self.delete_pod(pod)
        elif sum(map(has_succeeded, pods)) == expected:
            self.children[child.name] = replace(child, state="Succeeded")
        else:
            for rank in range(expected):
                if all(pod.node_rank != rank for pod in pods):
                    self._make_pod(child, rank)
            self._schedule(child)

    def _schedule(self, child: Child) -> None:
        """Give a child's pods their nodes, as far as there is room: node-N to rank N, or the next that can be."""
        nodes = (f"node-{index}" for index in range(1000))
        free = [node for node in nodes if node not in {*child.restart_counters.excluded_nodes, *self.dead_nodes}]
        for pod in self.pods_of(child.name):
            held = sum(is_alive(other) and other.node is not None for other in self.pods.values())
            if pod.node is None and is_alive(pod) and held < self.places:
                node = free[pod.node_rank]
                self.pods[pod.uid] = replace(pod, node=node, scheduled=self.now, waiting_reason="")

    def _make_pod(self, child: Child, rank: int) -> None:
        self._had_pods.add(child.name)
        name = f"{child.name}-worker-{rank}" if child.stage == "train" else child.name
        uid = self._uid("pod")
        self.pods[uid] = Pod(name, uid, child.name, rank, "Pending", self.now, waiting_reason="Unschedulable")

    def kubelets(self) -> None:
        """Let pods start, and let those go that were asked to end and have."""
        for pod in list(self.pods.values()):
            if pod.node in self.dead_nodes:
                continue
            if pod.deleting_since is not None:
                if not is_alive(pod) or pod.phase == "Pending":
                    del self.pods[pod.uid]
            elif pod.phase == "Pending" and pod.node is not None:
                self._start(pod)

    def _start(self, pod: Pod) -> None:
        if self.secret_missing:
            reason, message = "CreateContainerConfigError", 'secret "keys" not found'
            self.pods[pod.uid] = replace(pod, waiting_reason=reason, waiting_message=message)
        else:
            self.pods[pod.uid] = replace(pod, phase="Running", waiting_reason="", waiting_message="", started=self.now)

    # ---- what happens to pods

    def pods_of(self, child: str) -> list[Pod]:
        """Return a child's pods by rank."""
        return sorted((pod for pod in self.pods.values() if pod.child == child), key=lambda pod: pod.node_rank)

    def pod(self, child: str, rank: int = 0) -> Pod:
        """Return the pod of a rank, the newest if there are several."""
        return [pod for pod in self.pods_of(child) if pod.node_rank == rank][-1]

    def end_pod(self, pod: Pod, code: int, *, reason: str = "", disruption: str = "", **record: Any) -> None:
        """Let a pod's container end, with its launcher's record."""
        record_ = TerminationRecord(exit_code=code, **record)
        why = reason or ("Error" if code else "Completed")
        self.pods[pod.uid] = replace(
            pod,
            phase="Failed" if code else "Succeeded",
            terminated=Terminated(code, why, self.now, record_),
            disruption=disruption or pod.disruption,
        )

    def delete_pod(self, pod: Pod) -> None:
        """Ask a pod to end."""
        self.pods[pod.uid] = replace(pod, deleting_since=self.now)

    def report_step(self, pod: Pod, step: int, *, commit: int | None = None, **fields: Any) -> None:
        """Let a pod report a step to the operator's poller."""
        progress = Progress(
            stage="train", step=step, total_steps=400, checkpoint_step=commit, updated=self.now, **fields
        )
        self.report = ProgressReport(pod.uid, self.now, progress)

    def suspend(self, child: Child) -> None:
        """Let a queue take a child's pods away."""
        self.children[child.name] = replace(child, state="Suspended", resumed_at=None)
        self._suspended_pods |= {pod.uid for pod in self.pods_of(child.name)}
        for pod in self.pods_of(child.name):
            if is_alive(pod) and pod.deleting_since is None:
                self.delete_pod(pod)

    def resume(self, child: Child) -> None:
        """Let a queue resume it."""
        self.now += 1
        self._had_pods.discard(child.name)
        self.children[child.name] = replace(child, state="Active", resumed_at=self.now)

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

    def _uid(self, kind: str) -> str:
        self._numbers += 1
        return f"{kind}-{self._numbers}"
