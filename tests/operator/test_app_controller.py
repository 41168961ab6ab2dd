"""The loop around decisions: faults and how they are tried again, errors that stay with one job, and what is logged."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection
from typing import Any

import pytest

from tests.operator.raw_objects import CHILD_UID, JOB_UID, Raw, child_object, job_object, pod_object, terminated
from tests.support.virtual_clock import VirtualClock
from unimrg_api.status import AttemptEnd, JobStatus, RestartCounters, StageStatus
from unimrg_operator.app.apply import Fault, Outcome
from unimrg_operator.app.controller import Controller
from unimrg_operator.app.first_seen import FirstSeen
from unimrg_operator.app.log import JsonFormatter
from unimrg_operator.app.metrics import Metrics
from unimrg_operator.app.progress_poller import ProgressPoller
from unimrg_operator.app.world import JobKey
from unimrg_operator.backends.base import Resource
from unimrg_operator.backends.profile import SiteProfile
from unimrg_operator.backends.registry import SiteBackends
from unimrg_operator.core.decide import decide
from unimrg_operator.core.decision import CreateChild, Decision
from unimrg_operator.core.observation import Observation
from unimrg_operator.kube.errors import Unavailable
from unimrg_operator.kube.queue import WorkQueue

KEY = ("lab", "tiny")
CREATE = CreateChild("check", 1, 1, RestartCounters())
DONE = {"time": "2026-11-24T10:00:00Z", "reason": "Completed", "action": "Done"}


class World:
    """The cached part of a cluster, written down."""

    def __init__(self) -> None:
        self.ready = True
        self.item: Raw | None = job_object()
        self.child_objects: list[Raw] = []
        self.pod_objects: list[Raw] = []
        self.namesake_objects: list[Raw] = []
        self.missing: Resource | None = None

    def usable(self, _: str) -> bool:
        return self.ready

    def job(self, _: JobKey) -> Raw | None:
        return self.item

    def children(self, _: JobKey, uid: str) -> list[Raw]:
        assert uid == JOB_UID
        return self.child_objects

    def pod_owners(self, _: JobKey, children: list[Raw]) -> dict[str, str]:
        return {child["metadata"]["uid"]: child["metadata"]["name"] for child in children}

    def namesakes_pods(self, _: JobKey, uid: str, owner_uids: Collection[str]) -> list[Raw]:
        return self.namesake_objects

    def unserved(self, namespace: str, stage: str) -> Resource | None:
        return self.missing

    def pods(self, _: JobKey, uid: str, owner_uids: Collection[str]) -> list[Raw]:
        return self.pod_objects


class Hands:
    """Carries nothing out, but says what a test wants to have come of it."""

    def __init__(self) -> None:
        self.outcome: Outcome | Exception = Outcome()
        self.applied: list[Decision] = []
        self.tried: list[CreateChild] = []
        self.fault: Fault | None = None

    def apply(self, item: Raw, observation: Observation, decision: Decision) -> Outcome:
        self.applied.append(decision)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def create(self, observation: Observation, action: CreateChild) -> tuple[Fault | None, float | None]:
        self.tried.append(action)
        return self.fault, None


class Talk:
    """Warnings that were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def about(self, namespace: str, uid: str) -> tuple[str, ...]:
        self.asked.append(uid)
        return (f"warning about {uid}",)


class Shell:
    """A controller over all of these."""

    def __init__(self, clock: VirtualClock, decide: Callable[[Observation, float], Decision] | None = None) -> None:
        self.world, self.hands, self.talk, self.metrics = World(), Hands(), Talk(), Metrics()
        self.queue: WorkQueue[JobKey] = WorkQueue(clock=clock, chance=lambda: 1.0)
        self.seen: list[Observation] = []
        self.decision = Decision(JobStatus())
        self.decide = decide or (lambda *_: self.decision)
        poller = ProgressPoller(list, self.queue.add)

        def watched(observation: Observation, now: float) -> Decision:
            self.seen.append(observation)
            return self.decide(observation, now)

        self.controller = Controller(
            self.world,  # type: ignore[arg-type]
            SiteBackends(SiteProfile()),
            self.queue,
            self.hands,  # type: ignore[arg-type]
            watched,
            poller,
            self.talk,  # type: ignore[arg-type]
            self.metrics,
            clock=clock,
        )


@pytest.fixture
def shell(virtual_clock: VirtualClock) -> Shell:
    return Shell(virtual_clock)


def test_nothing_is_decided_before_everything_was_heard_once(shell: Shell) -> None:
    shell.world.ready = False
    assert shell.controller.reconcile(KEY) == 1.0
    assert not shell.seen


def test_a_job_that_is_gone_is_left_alone(shell: Shell) -> None:
    shell.world.item = None
    assert shell.controller.reconcile(KEY) is None
    assert not shell.seen


def test_the_next_look_is_at_the_earliest_of_all_wishes(shell: Shell) -> None:
    shell.decision = Decision(JobStatus(), requeue_after=40.0)
    assert shell.controller.reconcile(KEY) == 40.0
    shell.hands.outcome = Outcome(retry_after=2.0)
    assert shell.controller.reconcile(KEY) == 2.0
    shell.hands.outcome = Outcome(conflict=True)
    assert shell.controller.reconcile(KEY) == 0.5


def test_a_fault_is_shown_at_once_and_kept_until_a_child_can_be_made(virtual_clock: VirtualClock, shell: Shell) -> None:
    shell.decide = lambda observation, _: Decision(
        JobStatus(), () if observation.fault else (CREATE,), requeue_after=60.0
    )
    shell.hands.outcome = Outcome(fault=("BackendMissing", "no such kind"))
    assert shell.controller.reconcile(KEY) == 0.0
    assert shell.seen[-1].fault is None
    shell.hands.outcome = Outcome(wrote_status=True)
    assert shell.controller.reconcile(KEY) == 30.0
    assert shell.seen[-1].fault == ("BackendMissing", "no such kind")
    assert shell.hands.tried == []

    virtual_clock.advance(31.0)  # it is tried again, and nothing is written that says otherwise
    shell.hands.fault = ("BackendMissing", "still none")
    shell.controller.reconcile(KEY)
    assert shell.hands.tried == [CREATE]
    assert shell.seen[-1].fault == ("BackendMissing", "still none")
    assert shell.hands.applied[-1].actions == ()

    virtual_clock.advance(31.0)
    shell.hands.fault = None
    shell.controller.reconcile(KEY)
    assert shell.hands.tried == [CREATE, CREATE]
    assert shell.seen[-1].fault is None


def test_a_fault_does_not_pass_to_a_new_job_of_the_same_name(shell: Shell) -> None:
    shell.hands.outcome = Outcome(fault=("NameConflict", "x"))
    shell.controller.reconcile(KEY)
    shell.hands.outcome = Outcome()
    item = job_object()
    item["metadata"] = {**item["metadata"], "uid": "another"}
    shell.world.children = lambda *_: []  # type: ignore[method-assign]
    shell.world.item = item
    shell.controller.reconcile(KEY)
    assert shell.seen[-1].fault is None


def test_a_child_whose_kind_is_not_served_just_now_is_not_taken_for_lost(shell: Shell) -> None:
    stage = {"name": "train", "state": "Running", "attempt": 2, "child": "tiny-train-2", "childUid": CHILD_UID}
    over = [{"name": name, "state": "Succeeded", "attempt": 1, "end": DONE} for name in ("check", "prepare")]
    shell.world.item = job_object(status={"phase": "Running", "stages": [*over, stage], "attempt": 2})
    shell.decide = decide
    shell.controller.reconcile(KEY)
    end = shell.hands.applied[-1].status.stage("train").end
    assert end is not None
    assert end.reason == "ChildLost"

    shell.world.missing = Resource("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob")
    assert shell.controller.reconcile(KEY) == 30.0
    assert shell.seen[-1].fault is not None
    assert shell.seen[-1].fault[0] == "BackendMissing"
    decision = shell.hands.applied[-1]
    assert decision.status.stage("train").end is None
    assert decision.actions == ()

    shell.world.missing = None
    shell.world.child_objects = [child_object(attempt=2)]
    shell.controller.reconcile(KEY)
    assert shell.seen[-1].fault is None
    assert len(shell.seen[-1].children) == 1


def test_when_a_pod_was_first_seen_to_end_is_kept_by_the_own_clock(virtual_clock: VirtualClock, shell: Shell) -> None:
    shell.world.pod_objects = [pod_object(rank=0, deletionTimestamp="2026-11-24T10:00:00Z"), pod_object(rank=1)]
    first = virtual_clock.now
    for _ in range(2):
        shell.controller.reconcile(KEY)
        assert [pod.deleting_seen for pod in shell.seen[-1].pods] == [first, None]
        virtual_clock.advance(100.0)


def test_what_nobody_asked_about_for_a_day_is_forgotten() -> None:
    seen = FirstSeen()
    assert [seen.of("a", moment) for moment in (1.0, 80_000.0, 160_000.0, 250_000.0)] == [1.0, 1.0, 1.0, 250_000.0]


def test_live_pods_of_an_earlier_job_of_the_name_are_predecessors(shell: Shell) -> None:
    shell.world.namesake_objects = [pod_object(rank=1), pod_object(rank=0), pod_object(rank=2, status=terminated(0))]
    shell.controller.reconcile(KEY)
    assert shell.seen[-1].predecessors == ("tiny-train-1-worker-0", "tiny-train-1-worker-1")


def test_warnings_are_asked_for_only_where_pods_are_late(virtual_clock: VirtualClock, shell: Shell) -> None:
    virtual_clock.now = 1_795_514_460.0 + 5.0  # 5 s after the child was created
    shell.world.child_objects = [child_object()]
    shell.world.pod_objects = [pod_object(rank=0), pod_object(rank=1)]
    assert shell.controller.reconcile(KEY) is None
    shell.world.pod_objects = [pod_object(rank=0), pod_object(rank=1, status={"phase": "Pending"})]
    assert shell.controller.reconcile(KEY) == 5.0
    assert shell.talk.asked == []
    virtual_clock.advance(6.0)
    assert shell.controller.reconcile(KEY) == 30.0
    child, pods = shell.seen[-1].children[0], shell.seen[-1].pods
    assert child.warnings == (f"warning about {CHILD_UID}",)
    assert [bool(pod.warnings) for pod in pods] == [False, True]
    shell.world.pod_objects = []
    shell.talk.asked.clear()
    shell.controller.reconcile(KEY)
    assert shell.talk.asked == [CHILD_UID]


def test_an_error_stays_with_its_job_is_counted_and_backs_off(shell: Shell, virtual_clock: VirtualClock) -> None:
    shell.hands.outcome = Unavailable(503, "ServiceUnavailable", "etcd is away", retry_after=9.0)
    works = threading_free_worker(shell)
    shell.queue.add(KEY)
    works()
    assert b'unimrg_reconcile_errors_total{reason="Unavailable"} 1.0' in shell.metrics.text()
    virtual_clock.advance(8.9)
    assert shell.queue.take(0) is None
    virtual_clock.advance(0.1)
    shell.hands.outcome = RuntimeError("a bug")
    works()
    assert b'unimrg_reconcile_errors_total{reason="RuntimeError"} 1.0' in shell.metrics.text()
    assert len(shell.hands.applied) == 2


def threading_free_worker(shell: Shell) -> Callable[[], None]:
    """One turn of a worker."""

    def turn() -> None:
        key = shell.queue.take(0)
        assert key is not None
        shell.controller._look_at(key)
        shell.queue.done(key)

    return turn


def restarting(budget: str) -> JobStatus:
    end = AttemptEnd.model_validate(
        {"time": "2026-11-24T10:00:00Z", "reason": "Stall", "action": "Restart", "budget": budget}
    )
    return JobStatus(phase="Restarting", reason="Stall", stages=[StageStatus(name="train", attempt=2, end=end)])


def test_restarts_are_counted_by_budget_once_and_only_when_they_are_written(shell: Shell) -> None:
    shell.decision = Decision(restarting("Infra"))
    shell.hands.outcome = Outcome(conflict=True)
    shell.controller.reconcile(KEY)
    assert b'unimrg_restarts_total{cause="Infra"}' not in shell.metrics.text()
    shell.hands.outcome = Outcome(wrote_status=True)
    shell.controller.reconcile(KEY)
    shell.world.item = job_object(status=restarting("Infra").model_dump(by_alias=True, exclude_none=True))
    shell.controller.reconcile(KEY)
    assert b'unimrg_restarts_total{cause="Infra"} 1.0' in shell.metrics.text()


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(JsonFormatter().format(record)) for record in caplog.records]


def test_a_decision_that_does_something_is_one_line_with_fixed_keys_and_nothing_of_the_spec(
    shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "unimrg_operator")
    shell.decision = Decision(restarting("User"), (CreateChild("train", 3, 3, RestartCounters()),))
    shell.controller.reconcile(KEY)
    (line,) = logged(caplog)
    assert line.pop("time").endswith("Z")
    assert line == {
        "job": "lab/tiny",
        "uid": JOB_UID,
        "stage": "train",
        "attempt": 3,
        "from": "Pending",
        "to": "Restarting",
        "reason": "Stall",
        "actions": ["CreateChild train-3"],
    }


def test_progress_alone_is_no_line(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unimrg_operator")
    shell.decision = Decision(JobStatus(attempt=0))
    shell.controller.reconcile(KEY)
    assert logged(caplog) == []


def test_other_lines_hold_no_keys_even_from_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise RuntimeError("password=hunter2222")
    except RuntimeError:
        logging.getLogger("unimrg_operator").exception("it failed with token: abcdefgh12345")
    (line,) = logged(caplog)
    assert set(line) == {"time", "level", "message"}
    assert "hunter2" not in line["message"]
    assert "abcdefgh" not in line["message"]
    assert "RuntimeError" in line["message"]
