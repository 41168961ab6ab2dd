"""What a cluster does by itself: controllers, scheduler, kubelets, a queue, and nodes that are lost or restart.

It behaves as Training Operator and the Job controller were seen to behave: a failed pod fails its child and ends its
other pods; a deleted pod of a training is made again, alone and silently; pods without a child are collected.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from unimrg_api.job import UniMRGJob
from unimrg_api.progress import Progress
from unimrg_api.stages import STAGES
from unimrg_api.termination import TerminationRecord
from unimrg_operator.core.lookup import has_failed, has_succeeded, is_alive
from unimrg_operator.core.observation import Child, Node, Pod, ProgressReport, Terminated

NOON = 1_800_000_000.0
"""When every simulation begins."""


class Platform:
    """Children, pods and nodes as plain values, and a clock to turn."""

    def __init__(self, job: UniMRGJob) -> None:
        self.job: UniMRGJob | None = job
        self.now = NOON
        self.children: dict[str, Child] = {}
        self.pods: dict[str, Pod] = {}
        self.report: ProgressReport | None = None
        self.nodes: tuple[Node, ...] = ()
        """The nodes that the operator may see."""
        self.watches_nodes = False
        """Whether it may see them."""
        self.dead_nodes: set[str] = set()
        self.killed_at: dict[str, float] = {}
        """When the pods with these uids were killed by the restart of their node."""
        self.secret_missing = False
        self.places = 1000
        """Pods that the nodes have room for; the others wait."""
        self.quota = False
        """Whether the queue admits what waits in it."""
        self._numbers = 0
        self._had_pods: set[str] = set()
        self._suspended_pods: set[str] = set()
        """Pods from before a suspension: no controller counts them once their child is resumed."""

    # ---- the others

    def controllers(self) -> None:
        """Let the queue, Training Operator, the Job controller and garbage collection act once."""
        waiting = [child for child in self.children.values() if child.state == "Suspended" and not child.deleting]
        for child in waiting if self.quota else []:
            self.resume(child)
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

    # ---- what happens to nodes

    def node_is(self, name: str, ready: str) -> None:
        """Let a node become ready, or not answer."""
        if self.watches_nodes:
            others = tuple(node for node in self.nodes if node.name != name)
            self.nodes = (*others, Node(name, ready, self.now, self.now))  # type: ignore[arg-type]

    def lose_node(self, name: str, *, asked: bool, disruption: str = "") -> None:
        """Let a node be lost for ever; `asked`: its pods are asked to end, which they never do."""
        self.dead_nodes.add(name)
        self.node_is(name, "Unknown")
        for pod in [pod for pod in self.pods.values() if pod.node == name and is_alive(pod)]:
            since = pod.deleting_since or (self.now if asked else None)
            self.pods[pod.uid] = replace(pod, deleting_since=since, disruption=disruption or pod.disruption)

    def kill_pods_on(self, node: str) -> None:
        """Let all that runs on a node be killed with it."""
        for pod in [pod for pod in self.pods.values() if pod.node == node and is_alive(pod)]:
            if pod.phase == "Running":
                self.killed_at[pod.uid] = self.now
                self.end_pod(pod, 137)

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

    def _uid(self, kind: str) -> str:
        self._numbers += 1
        return f"{kind}-{self._numbers}"
