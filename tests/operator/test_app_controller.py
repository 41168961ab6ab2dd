"""The loop around decisions: failed creations, their retries, errors that stay with one job, metrics and log lines."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest

from tests.operator.raw_objects import CHILD_UID, JOB_UID, Raw, child_object, job_object, pod_object, terminated
from tests.support.virtual_clock import VirtualClock
from unimrg_api.status import AttemptEnd, JobStatus, RestartCounters, StageStatus
from unimrg_operator.app.apply import Applier, Outcome
from unimrg_operator.app.controller import Controller, Decide
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


class Shell:
    """A controller with a cache that a test fills, and an applier that does nothing."""

    def __init__(self, clock: VirtualClock) -> None:
        self.item: Raw | None = job_object()
        self.children: list[Raw] = []
        self.pods: list[Raw] = []
        self.namesakes_pods: list[Raw] = []
        self.unserved: Resource | None = None
        self.usable = True
        self.asked: list[str] = []
        """The uids whose Warning events were read."""
        self.applier, self.metrics = create_autospec(Applier, instance=True), Metrics()
        self.applier.apply.return_value, self.applier.create.return_value = Outcome(), None
        self.queue: WorkQueue[JobKey] = WorkQueue(clock=clock, chance=lambda: 1.0)
        self.seen: list[Observation] = []
        self.decide: Decide = lambda *_: Decision(JobStatus())
        world: Any = SimpleNamespace(
            usable=lambda _: self.usable,
            job=lambda _: self.item,
            children=lambda _, uid: self.children if uid == JOB_UID else [],
            pod_owners=lambda _, items: {item["metadata"]["uid"]: item["metadata"]["name"] for item in items},
            pods=lambda *_: self.pods,
            namesakes_pods=lambda *_: self.namesakes_pods,
            unserved=lambda *_: self.unserved,
            workloads=lambda *_: None,
        )
        warnings: Any = SimpleNamespace(about=self._warnings)
        backends, poller = SiteBackends(SiteProfile()), ProgressPoller(list, self.queue.add)
        self.controller = Controller(
            world, backends, self.queue, self.applier, self._decide, poller, warnings, self.metrics, clock=clock
        )

    def reconcile(self) -> float | None:
        return self.controller.reconcile(KEY)

    def applied(self) -> Decision:
        """Return the newest decision."""
        decision: Decision = self.applier.apply.call_args.args[2]
        return decision

    def work(self) -> None:
        """Let a worker take one job."""
        key = self.queue.take(0)
        assert key is not None
        self.controller._look_at(key)
        self.queue.done(key)

    def _decide(self, observation: Observation, now: float) -> Decision:
        self.seen.append(observation)
        return self.decide(observation, now)

    def _warnings(self, namespace: str, uid: str) -> tuple[str, ...]:
        self.asked.append(uid)
        return (f"warning about {uid}",)


@pytest.fixture
def shell(virtual_clock: VirtualClock) -> Shell:
    return Shell(virtual_clock)


def test_a_job_whose_pods_cannot_be_seen_is_looked_at_again_and_left_alone(shell: Shell) -> None:
    shell.usable, shell.decide = False, decide
    shell.children, shell.pods = [child_object()], [pod_object()]
    assert shell.reconcile() == 1.0
    (seen,) = shell.seen
    assert (seen.complete, seen.children, seen.pods) == (False, (), ())
    shell.item = None
    assert shell.reconcile() == 1.0
    shell.usable = True
    assert shell.reconcile() is None
    shell.applier.apply.assert_not_called()


def test_a_job_is_looked_at_again_as_soon_as_anything_asks_for_it(shell: Shell) -> None:
    shell.decide = lambda *_: Decision(JobStatus(), requeue_after=40.0)
    for outcome, seconds in ((Outcome(), 40.0), (Outcome(retry_after=2.0), 2.0), (Outcome(conflict=True), 0.5)):
        shell.applier.apply.return_value = outcome
        assert shell.reconcile() == seconds


def test_a_status_from_which_nothing_follows_waits_for_a_second(virtual_clock: VirtualClock, shell: Shell) -> None:
    def hold() -> bool:
        return bool(shell.applier.apply.call_args.kwargs["hold"])

    shell.applier.apply.return_value = Outcome(wrote_status=True)
    shell.reconcile()
    assert not hold()
    virtual_clock.advance(0.4)
    shell.applier.apply.return_value = Outcome(held=True)
    assert shell.reconcile() == pytest.approx(0.6)
    assert hold()
    virtual_clock.advance(0.6)
    shell.reconcile()
    assert not hold()


def test_a_failed_creation_is_shown_at_once_and_retried_every_30_seconds(
    virtual_clock: VirtualClock, shell: Shell
) -> None:
    shell.decide = lambda seen, _: Decision(JobStatus(), () if seen.creation_error else (CREATE,), requeue_after=30.0)
    shell.applier.apply.return_value = Outcome(creation_error=("BackendMissing", "no such kind"))
    assert shell.reconcile() == 0.0
    shell.applier.apply.return_value = Outcome(wrote_status=True)
    assert shell.reconcile() == 30.0
    assert shell.seen[-1].creation_error == ("BackendMissing", "no such kind")
    shell.applier.create.assert_not_called()
    for error in (("BackendMissing", "still none"), None):
        virtual_clock.advance(31.0)
        shell.applier.create.return_value = error
        shell.reconcile()
        assert shell.seen[-1].creation_error == error
        assert shell.applied().actions == (() if error else (CREATE,))
    assert [call.args[1] for call in shell.applier.create.call_args_list] == [CREATE, CREATE]


def test_a_child_whose_kind_is_not_served_just_now_is_not_lost(shell: Shell) -> None:
    stage = {"name": "train", "state": "Running", "attempt": 2, "child": "tiny-train-2", "childUid": CHILD_UID}
    over = [{"name": name, "state": "Succeeded", "attempt": 1, "attemptEnd": DONE} for name in ("check", "prepare")]
    shell.item = job_object(status={"phase": "Running", "stages": [*over, stage], "attempt": 2})
    shell.decide = decide
    shell.reconcile()
    end = shell.applied().status.stage("train").attempt_end
    assert end is not None
    assert end.reason == "ChildLost"
    shell.unserved = Resource("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob")
    assert shell.reconcile() == 15.0
    assert shell.seen[-1].creation_error is not None
    assert shell.seen[-1].creation_error[0] == "BackendMissing"
    decision = shell.applied()
    assert (decision.status.stage("train").attempt_end, decision.actions) == (None, ())
    shell.unserved, shell.children = None, [child_object(attempt=2)]
    shell.reconcile()
    assert (shell.seen[-1].creation_error, len(shell.seen[-1].children)) == (None, 1)


def test_the_operators_clock_says_since_when_a_pod_is_ending(virtual_clock: VirtualClock, shell: Shell) -> None:
    shell.pods = [pod_object(rank=0, deletionTimestamp="2026-11-24T10:00:00Z"), pod_object(rank=1)]
    first = virtual_clock.now
    for _ in range(2):
        shell.reconcile()
        assert [pod.deletion_observed_at for pod in shell.seen[-1].pods] == [first, None]
        virtual_clock.advance(100.0)
    seen = FirstSeen()
    assert [seen.of("a", moment) for moment in (1.0, 80_000.0, 160_000.0, 250_000.0)] == [1.0, 1.0, 1.0, 250_000.0]


def test_live_pods_of_an_earlier_job_of_the_name_are_noticed(shell: Shell) -> None:
    shell.namesakes_pods = [pod_object(rank=1), pod_object(rank=0), pod_object(rank=2, status=terminated(0))]
    shell.reconcile()
    assert shell.seen[-1].previous_job_pods == ("tiny-train-1-worker-0", "tiny-train-1-worker-1")


def test_warnings_are_read_only_where_pods_are_late(virtual_clock: VirtualClock, shell: Shell) -> None:
    virtual_clock.now = 1_795_514_460.0 + 5.0  # 5 s after the child was created
    shell.children = [child_object()]
    shell.pods = [pod_object(rank=0), pod_object(rank=1)]
    assert shell.reconcile() is None
    shell.pods = [pod_object(rank=0), pod_object(rank=1, status={"phase": "Pending"})]
    assert shell.reconcile() == 5.0
    assert shell.asked == []
    virtual_clock.advance(6.0)
    assert shell.reconcile() == 15.0
    assert shell.seen[-1].children[0].warnings == (f"warning about {CHILD_UID}",)
    assert [bool(pod.warnings) for pod in shell.seen[-1].pods] == [False, True]


def test_an_error_stays_with_its_job_is_counted_and_backs_off(shell: Shell, virtual_clock: VirtualClock) -> None:
    shell.applier.apply.side_effect = Unavailable(503, "ServiceUnavailable", "etcd is away", retry_after=9.0)
    shell.queue.add(KEY)
    shell.work()
    assert b'unimrg_reconcile_errors_total{reason="Unavailable"} 1.0' in shell.metrics.text()
    virtual_clock.advance(8.9)
    assert shell.queue.take(0) is None
    virtual_clock.advance(0.1)
    shell.applier.apply.side_effect = RuntimeError("a bug")
    shell.work()
    assert b'unimrg_reconcile_errors_total{reason="RuntimeError"} 1.0' in shell.metrics.text()


def restarting(budget: str) -> JobStatus:
    end = AttemptEnd.model_validate(
        {"time": "2026-11-24T10:00:00Z", "reason": "Stall", "action": "Restart", "budget": budget}
    )
    return JobStatus(
        phase="Restarting", reason="Stall", attempt=2, stages=[StageStatus(name="train", attempt=2, attempt_end=end)]
    )


def test_restarts_are_counted_once_and_only_when_they_are_written(shell: Shell) -> None:
    shell.decide = lambda *_: Decision(restarting("Infra"))
    shell.applier.apply.return_value = Outcome(conflict=True)
    shell.reconcile()
    assert b'unimrg_restarts_total{cause="Infra"}' not in shell.metrics.text()
    shell.applier.apply.return_value = Outcome(wrote_status=True)
    shell.reconcile()
    shell.item = job_object(status=restarting("Infra").model_dump(by_alias=True, exclude_none=True))
    shell.reconcile()
    assert b'unimrg_restarts_total{cause="Infra"} 1.0' in shell.metrics.text()


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(JsonFormatter().format(record)) for record in caplog.records]


def test_a_decision_is_one_log_line_with_nothing_of_the_spec(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unimrg_operator")
    shell.reconcile()  # nothing changes, so nothing is logged
    shell.decide = lambda *_: Decision(restarting("User"), (CreateChild("train", 3, 3, RestartCounters()),))
    shell.reconcile()
    (line,) = logged(caplog)
    assert line.pop("time").endswith("Z")
    assert line == {
        "job": "lab/tiny",
        "uid": JOB_UID,
        "attempt": 2,
        "stages": ["train-2 Pending"],
        "from": "Pending",
        "to": "Restarting",
        "reason": "Stall",
        "actions": ["CreateChild train-3"],
    }


def test_no_secret_is_logged_not_even_from_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise RuntimeError("password=hunter2222")
    except RuntimeError:
        logging.getLogger("unimrg_operator").exception("it failed with token: abcdefgh12345")
    (line,) = logged(caplog)
    assert set(line) == {"time", "level", "message"}
    assert "hunter2" not in line["message"]
    assert "abcdefgh" not in line["message"]
    assert "RuntimeError" in line["message"]
