"""What may happen around the operator, in any order: rules of the model in test_core_model.py.

Pods start, advance, end, fail, are deleted and vanish; nodes die or restart; a queue admits, suspends and evicts;
places, Secrets and rights come and go; clocks jump.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.operator.simulated_cluster import Cluster
from unimrg_api.exit_codes import ExitCode
from unimrg_operator.core.lookup import is_alive
from unimrg_operator.core.observation import Child, Pod, Workload

CODES = sorted({int(code) for code in ExitCode} - {0} | {1, 139})


class Surroundings(RuleBasedStateMachine):
    cluster: Cluster
    step: int
    """The newest step that training reported."""

    def operator_looks(self) -> None:
        """Let the operator do its work."""
        raise NotImplementedError

    def forget_what_was_seen(self) -> None:
        """Let the operator look again before it acts."""
        raise NotImplementedError

    # ---- what is meant to happen

    @rule()
    def controllers_act(self) -> None:
        self.cluster.controllers()

    @rule()
    def kubelets_act(self) -> None:
        self.cluster.kubelets()

    @rule()
    def all_do_their_work(self) -> None:
        self.controllers_act()
        self.kubelets_act()
        self.operator_looks()

    @rule(share=st.integers(1, 9), committed=st.booleans())
    def training_advances(self, share: int, committed: bool) -> None:
        self.step += share
        for pod in self.running():
            if "-train-" in pod.child and pod.node_rank == 0:
                self.cluster.report_step(pod, self.step, commit=self.step if committed else None)

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def a_pod_succeeds(self, data: st.DataObject) -> None:
        pod = data.draw(st.sampled_from(self.running()))
        self.cluster.end_pod(pod, 0, scores={"a": 0.5})

    @precondition(lambda self: self.running())
    @rule()
    def every_pod_succeeds(self) -> None:
        for pod in self.running():
            self.cluster.end_pod(pod, 0, checkpoint_step=400, step=400, total_steps=400)

    # ---- pods

    @precondition(lambda self: self.running())
    @rule(data=st.data(), code=st.sampled_from(CODES), out_of_memory=st.booleans(), disrupted=st.booleans())
    def a_pod_fails(self, data: st.DataObject, code: int, out_of_memory: bool, disrupted: bool) -> None:
        pod = data.draw(st.sampled_from(self.running()))
        reason = "OOMKilled" if out_of_memory and code == 137 else "Error"
        self.cluster.end_pod(pod, code, reason=reason, disruption="Evicted" if disrupted else "")

    @precondition(lambda self: self.leaving())
    @rule(data=st.data(), code=st.sampled_from([0, 85, 143, 137]))
    def a_pod_ends_as_asked(self, data: st.DataObject, code: int) -> None:
        pod = data.draw(st.sampled_from(self.leaving()))
        self.cluster.end_pod(pod, code, checkpoint_step=self.step if code == 85 and self.step else None)

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def a_pod_is_deleted(self, data: st.DataObject) -> None:
        pod = data.draw(st.sampled_from(self.alive()))
        if pod.deleting_since is None:
            self.cluster.delete_pod(pod)

    @precondition(lambda self: self.cluster.pods)
    @rule(data=st.data())
    def a_pod_vanishes(self, data: st.DataObject) -> None:
        del self.cluster.pods[data.draw(st.sampled_from(sorted(self.cluster.pods)))]

    # ---- nodes

    @precondition(lambda self: self.nodes_in_use())
    @rule(data=st.data(), known=st.booleans(), asked=st.booleans())
    def a_node_dies(self, data: st.DataObject, known: bool, asked: bool) -> None:
        """Where the operator sees no nodes, it learns of it once the pods are asked to end."""
        node = data.draw(st.sampled_from(self.nodes_in_use()))
        blind = not self.cluster.watches_nodes
        self.cluster.lose_node(node, asked=asked or blind, disruption="NodeLost" if known else "")

    @precondition(lambda self: self.nodes_in_use())
    @rule(data=st.data(), away=st.sampled_from([1, 30, 59, 95, 700]), killed_first=st.booleans(), look=st.booleans())
    def a_node_restarts(self, data: st.DataObject, away: int, killed_first: bool, look: bool) -> None:
        node = data.draw(st.sampled_from(self.nodes_in_use()))
        if killed_first:
            self.cluster.kill_pods_on(node)
        self.cluster.node_is(node, "Unknown")
        self.forget_what_was_seen()
        if look:
            self.operator_looks()
        self.cluster.now += away
        if not killed_first:
            self.cluster.kill_pods_on(node)
        self.cluster.node_is(node, "True")
        self.forget_what_was_seen()

    # ---- the queue

    @precondition(lambda self: self.started())
    @rule(data=st.data())
    def a_queue_evicts_a_child_at_any_moment(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.started()))
        self.cluster.suspend(self.cluster.children[name])

    @rule()
    def a_queue_resumes_it(self) -> None:
        self.resume_children()

    @rule(quota=st.booleans())
    def a_queue_has_room_or_not(self, quota: bool) -> None:
        self.cluster.quota = quota

    @rule(data=st.data(), told=st.sampled_from(["nothing", "no right", "all"]))
    def a_queue_tells_where_children_stand(self, data: st.DataObject, told: str) -> None:
        """Texts follow from that, and nothing else: `promises.py` checks it."""
        says: dict[str, Any] = {}
        if told == "all":
            says = {"reserved": data.draw(st.booleans()), "inadmissible": data.draw(st.booleans())}
            says |= {"evicted": data.draw(st.sampled_from(["", "Preempted"]))}
            says |= {"position": data.draw(st.none() | st.integers(1, 22))}
        known = tuple(Workload(child.uid, "team", **says) for child in self.cluster.children.values() if says)
        self.cluster.workloads = None if told == "no right" else known
        self.forget_what_was_seen()

    # ---- the rest

    @rule(places=st.integers(0, 3))
    def nodes_are_taken_or_become_free(self, places: int) -> None:
        self.cluster.places = places

    @rule(missing=st.booleans())
    def a_secret_goes_or_comes(self, missing: bool) -> None:
        self.cluster.secret_missing = missing

    @rule(fault=st.sampled_from([None, ("BackendMissing", "there is no Training Operator")]))
    def a_creation_error_goes_or_comes(self, fault: tuple[str, str] | None) -> None:
        self.cluster.creation_error = fault

    @rule()
    def the_pods_of_an_earlier_job_end(self) -> None:
        self.cluster.previous_job_pods = ()

    @rule(seconds=st.sampled_from([1, 5, 11, 30, 95, 700, 7200, -3, -3600]))
    def time_passes(self, seconds: int) -> None:
        self.cluster.now += seconds
        self.forget_what_was_seen()

    # ---- who there is

    def children(self) -> list[Child]:
        return list(self.cluster.children.values())

    def started(self) -> list[str]:
        """Names of children that a queue can evict."""
        return sorted(child.name for child in self.children() if child.state == "Active")

    def resume_children(self) -> None:
        for child in self.children():
            if child.state == "Suspended":
                self.cluster.resume(child)

    def alive(self) -> list[Pod]:
        return [pod for pod in self.cluster.pods.values() if is_alive(pod)]

    def running(self) -> list[Pod]:
        """Pods that may end by themselves."""
        return [pod for pod in self.alive() if pod.phase == "Running" and pod.node not in self.cluster.dead_nodes]

    def leaving(self) -> list[Pod]:
        return [pod for pod in self.running() if pod.deleting_since is not None]

    def nodes_in_use(self) -> list[str]:
        """Nodes that answer and have live pods."""
        return sorted({pod.node for pod in self.alive() if pod.node is not None} - self.cluster.dead_nodes)
