"""Whatever happens to a cluster, and whenever the operator is killed, its promises hold.

Rules are what may happen, in any order: what model_surroundings.py lists, and the operator acts on what it saw a moment
ago, reads a status that is behind, does not see everything, and is killed between any two of its writes; somebody wipes
the status; the job is suspended and resumed, its deadlines pass. What each decision must keep is in promises.py, what
must hold at all times is here. At the end the faults stop, and the job must come to its end by itself.
"""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from tests.operator.model_surroundings import Surroundings
from tests.operator.simulated_cluster import Cluster, make_job
from unimrg_api.spec_platform import QueueSpec
from unimrg_api.status import AttemptEnd, JobStatus
from unimrg_operator.core.decision import Decision
from unimrg_operator.core.lookup import has_succeeded, is_alive, would_keep_running
from unimrg_operator.core.observation import Child
from unimrg_operator.core.stages import is_job_terminal
from unimrg_operator.core.texts import parse_time

MAX_RESTARTS, MAX_INFRA_RESTARTS = 2, 3


class OperatorModel(Surroundings):
    steps: ClassVar[int] = 0

    @initialize(
        nodes=st.integers(1, 3), source=st.booleans(), mode=st.sampled_from(["OnSuccess", "Always", "Never"]),
        pause=st.sampled_from([0, 10]), training=st.booleans(), recreated=st.booleans(),
        deadline=st.sampled_from([None, 60, 3600]), start=st.sampled_from([60, 1800]), ttl=st.sampled_from([0, 604800]),
        keep=st.sampled_from([None, 0, 60]), queue=st.booleans(), watches_nodes=st.booleans(),
    )  # fmt: skip
    def submit(
        self, nodes: int, source: bool, mode: str, pause: int, training: bool, recreated: bool, deadline: int | None,
        start: int, ttl: int, keep: int | None, queue: bool, watches_nodes: bool,
    ) -> None:  # fmt: skip
        policy = {
            "maxRestarts": MAX_RESTARTS, "maxInfraRestarts": MAX_INFRA_RESTARTS, "backoffSeconds": pause,
            "activeDeadlineSeconds": deadline, "startTimeoutSeconds": start, "ttlSecondsAfterFinished": ttl,
            "keepFailedPodSeconds": keep,
        }  # fmt: skip
        job = make_job(nodes=nodes, source=source, mode=mode, **policy)
        in_queue = job.spec.model_copy(update={"queue": QueueSpec(name="team") if queue else None})
        self.cluster = Cluster(job.model_copy(update={"spec": in_queue}))
        self.cluster.quota, self.cluster.watches_nodes = queue, watches_nodes
        if training:
            self.cluster.to_training()
        elif recreated:
            self.cluster.previous_job_pods = ("tiny-train-1-worker-0",)
        self.versions = [self.cluster.status]
        self.read = 0
        self.pending: tuple[JobStatus, Decision] | None = None
        self.step = 0
        self.ended: JobStatus | None = None
        self.suspended: set[str] = set()
        """Uids of children that a queue suspended while they were healthy."""
        self.done: set[str] = set()
        self.ends: dict[tuple[str, int], AttemptEnd] = {}

    # ---- the operator

    @rule(lag=st.integers(0, 2))
    def looks_and_decides(self, lag: int) -> None:
        """Its cache of the status may be behind, but never goes back."""
        self.read = max(self.read, len(self.versions) - 1 - lag)
        shown = self.versions[self.read]
        self.pending = shown, self.cluster.decide(shown)

    @precondition(lambda self: self.pending is not None)
    @rule(killed_after=st.none() | st.integers(0, 3))
    def writes_and_acts(self, killed_after: int | None) -> None:
        """The status first, refused if it is not the one that was read; then each action."""
        assert self.pending is not None
        shown, decision = self.pending
        self.pending = None
        if decision.status != shown:
            if shown != self.cluster.status:
                return
            self._write(decision.status)
        for action in decision.actions[:killed_after]:
            self.cluster.carry_out(action)
        if killed_after is not None:
            self.read = len(self.versions) - 1

    @rule()
    def does_its_work(self) -> None:
        self.pending = None
        self.cluster.reconcile()
        self._write(self.cluster.status)
        self.read = len(self.versions) - 1

    @rule(data=st.data())
    def cannot_see_everything(self, data: st.DataObject) -> None:
        """Whatever is missing from what it sees, it does nothing: `Cluster.decide` checks that."""
        cluster = self.cluster
        children, pods, cluster.complete = cluster.children, cluster.pods, False
        cluster.children = {name: child for name, child in children.items() if data.draw(st.booleans())}
        cluster.pods = {uid: pod for uid, pod in pods.items() if data.draw(st.booleans())}
        cluster.decide()
        cluster.children, cluster.pods, cluster.complete = children, pods, True

    def _write(self, status: JobStatus) -> None:
        self.cluster.status = status
        if status != self.versions[-1]:
            self.versions.append(status)

    # ---- the user

    @rule(suspend=st.booleans())
    def the_user_suspends_or_resumes_the_job(self, suspend: bool) -> None:
        self.cluster.suspend_job(suspend)

    @rule(suspend=st.booleans())
    def the_user_does_so_and_the_operator_looks(self, suspend: bool) -> None:
        self.cluster.suspend_job(suspend)
        self.does_its_work()

    # ---- what is not meant to happen, and what the operator has noted of it

    @precondition(lambda self: any(child.uid == self._known_uid(child.name) for child in self.children()))
    @rule(data=st.data())
    def somebody_deletes_a_child(self, data: st.DataObject) -> None:
        """One that the operator has noted: of one that it has not, nothing would be left."""
        known = [child.name for child in self.children() if child.uid == self._known_uid(child.name)]
        del self.cluster.children[data.draw(st.sampled_from(sorted(known)))]
        self.pending, self.read = None, len(self.versions) - 1

    @precondition(lambda self: self.ended is None and self._can_heal())
    @rule()
    def somebody_wipes_the_status(self) -> None:
        self.versions, self.read, self.pending, self.ends = [JobStatus()], 0, None, {}
        self.cluster.status = self.versions[0]

    @precondition(lambda self: any(map(self._is_healthy, self.children())))
    @rule()
    def a_queue_suspends_a_child(self) -> None:
        """Its pods are asked to end; the operator has seen all of it up to here."""
        self.does_its_work()
        for child in filter(self._is_healthy, self.children()):
            self.suspended.add(child.uid)
            self.cluster.suspend(child)

    @precondition(lambda self: not self._suspends() and any(map(self._is_healthy, self.children())))
    @rule(looks=st.sets(st.integers(0, 4)), code=st.sampled_from([0, 85, 143, 137]), waits=st.sampled_from([5, 700]))
    def an_attempt_is_preempted_and_comes_back(self, looks: set[int], code: int, waits: int) -> None:
        """Whenever the operator looks meanwhile: it costs nothing and is no new attempt."""
        self.does_its_work()
        cluster, child = self.cluster, next(filter(self._is_healthy, self.children()), None)
        if child is None or any(pod.node in cluster.dead_nodes for pod in cluster.pods_of(child.name)):
            return
        before, begun = cluster.status.stage(child.stage), cluster.now

        def perhaps_look(moment: int) -> None:
            if moment in looks:
                self.does_its_work()

        cluster.suspend(child)
        perhaps_look(0)
        for pod in cluster.pods_of(child.name):
            if pod.phase == "Running":
                cluster.end_pod(pod, code)
        perhaps_look(1)
        cluster.now += waits
        cluster.kubelets()
        perhaps_look(2)
        if child.name in cluster.children:  # one that was done, and would have begun again, is deleted
            cluster.resume(cluster.children[child.name])
        perhaps_look(3)
        cluster.controllers()
        cluster.kubelets()
        perhaps_look(4)
        self.does_its_work()
        after = cluster.status.stage(child.stage)
        if after.attempt_end is not None:  # what it was asked to end, it ended well; or it had run for its deadline
            assert (after.attempt_end.action == "Done" and code == 0) or after.attempt_end.reason == "DeadlineExceeded"
            return
        assert after.attempt == before.attempt
        ran = after.restart_counters.running_seconds - before.restart_counters.running_seconds
        seen_at_once = looks & {0, 1}
        since = begun if before.running_time is None else parse_time(before.running_time)
        assert after.running_time is None or parse_time(after.running_time) >= begun + waits, "it ran all the time"
        assert ran <= max(0.0, begun - since) + (0 if seen_at_once else waits + 1), "time in the queue is running time"

    # ---- what must hold

    @invariant()
    def a_step_is_counted(self) -> None:
        OperatorModel.steps += 1

    @invariant()
    def at_most_one_attempt_is_alive(self) -> None:
        """An attempt that did its work does not count: its controller may take its time, or make a lost pod again."""
        living = {pod.child for pod in self.alive()}
        living |= {child.name for child in self.children() if child.state in ("Active", "Suspended")}
        assert len(living - self._done()) <= 1, living

    @invariant()
    def a_suspended_child_waits_and_costs_nothing(self) -> None:
        waiting = {child.uid for child in self.children() if child.state == "Suspended"}
        self.suspended &= waiting  # one that was resumed may fail, and be suspended again before that was seen
        for child in self.children():
            if child.uid in self.suspended:
                end = self.cluster.status.stage(child.stage).attempt_end
                assert end is None or end.action in ("Done", "Suspend"), end

    @invariant()
    def an_end_that_was_recorded_stays(self) -> None:
        for stage in self.cluster.status.stages:
            if stage.attempt_end is not None:
                end = self.ends.setdefault((stage.name, stage.attempt), stage.attempt_end)
                # The time of the last stage may be over before its next attempt.
                too_late = stage.name == "finish" and stage.attempt_end.reason == "DeadlineExceeded"
                assert stage.attempt_end == end or too_late, f"{stage.name} {stage.attempt} ended twice"
            if stage.attempt > 1 and stage.last_attempt_end is not None:
                before = self.ends.get((stage.name, stage.attempt - 1))
                assert before is None or before.action in ("Restart", "Suspend"), f"{before} was followed by another"

    @invariant()
    def time_is_only_added(self) -> None:
        for stage in self.cluster.status.stages:
            counters = stage.restart_counters
            assert counters.lost_seconds <= counters.running_seconds
            assert stage.running_time is None or stage.attempt_end is None, "time is counted twice"

    @invariant()
    def restarts_stay_within_their_budgets(self) -> None:
        for holder in [*self.children(), *self.cluster.status.stages]:
            used = holder.restart_counters
            assert used.user_restarts <= MAX_RESTARTS
            assert used.infra_restarts <= MAX_INFRA_RESTARTS
            assert len(used.excluded_nodes) <= 16

    @invariant()
    def the_end_is_the_end(self) -> None:
        if self.ended is not None:
            assert self.cluster.status == self.ended
        elif is_job_terminal(self.cluster.status):
            self.ended = self.cluster.status

    def teardown(self) -> None:
        """Now that nothing more goes wrong, the job ends by itself, and nothing of it lives on."""
        if not hasattr(self, "cluster"):
            return
        cluster = self.cluster
        cluster.secret_missing, cluster.creation_error, cluster.previous_job_pods = False, None, ()
        cluster.places, cluster.quota = 1000, True
        cluster.suspend_job(False)
        self.resume_children()
        cluster.until(lambda: is_job_terminal(cluster.status), self._work)
        self.the_end_is_the_end()
        cluster.until(
            lambda: not any(would_keep_running(cluster.observe(), child, cluster.job) for child in self.children()),
            self._obey,
        )
        while (wait := cluster.decide().requeue_after) is not None:
            cluster.now += wait
            cluster.reconcile()
        assert not cluster.children, "children outlive their time"
        self.the_end_is_the_end()
        self.restarts_stay_within_their_budgets()

    def _work(self) -> None:
        self._obey()
        for pod in self.running():
            self.cluster.end_pod(pod, 0)

    def _obey(self) -> None:
        for pod in self.leaving():
            self.cluster.end_pod(pod, 143)
        self.resume_children()

    # ---- who there is

    def operator_looks(self) -> None:
        self.does_its_work()

    def forget_what_was_seen(self) -> None:
        self.pending = None

    def _suspends(self) -> bool:
        return self.cluster.job is not None and self.cluster.job.spec.suspend

    def _is_healthy(self, child: Child) -> bool:
        """Whether an attempt runs or starts, and the operator has seen all of it."""
        stage = self.cluster.status.stage(child.stage)
        pods = self.cluster.pods_of(child.name)
        known = (
            stage.child_uid == child.uid
            and stage.attempt_end is None
            and {pod.uid for pod in pods} >= set(stage.pod_uids)
        )
        return known and child.state == "Active" and all(is_alive(pod) and not pod.deleting_since for pod in pods)

    def _done(self) -> set[str]:
        """Children whose attempt did its work, whatever became of their pods and of the status since."""
        for child in self.children():
            stage, pods = self.cluster.status.stage(child.stage), self.cluster.pods_of(child.name)
            succeeded = bool(pods) and all(map(has_succeeded, pods))
            if succeeded or (stage.state == "Succeeded" and stage.child in (child.name, None)):
                self.done.add(child.name)
        return self.done

    def _known_uid(self, name: str) -> str | None:
        return next((stage.child_uid for stage in self.cluster.status.stages if stage.child == name), None)

    def _can_heal(self) -> bool:
        """Whether the children still say what the status does: the newest attempt of each stage is there."""
        begun = [stage for stage in self.cluster.status.stages if stage.attempt]
        return all(stage.child in self.cluster.children for stage in begun)


def checked(examples: int) -> settings:
    """Settings for so many jobs, with up to 50 steps each."""
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(max_examples=examples, stateful_step_count=50, suppress_health_check=checks)


TestOperatorModel = OperatorModel.TestCase
TestOperatorModel.settings = checked(100)


@pytest.mark.long
@pytest.mark.timeout(7200)
class TestOperatorModelAtLength(OperatorModel.TestCase):  # type: ignore[name-defined, misc, valid-type]
    """At least 100,000 steps."""

    settings = checked(2750)

    def runTest(self) -> None:  # noqa: N802 (unittest calls it)
        before = OperatorModel.steps
        super().runTest()
        assert OperatorModel.steps - before >= 100_000
