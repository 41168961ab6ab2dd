"""Which pod ended first, and what it means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.operator.simulated_cluster import make_job
from unimrg_api.exit_codes import Budget
from unimrg_api.stages import STAGES
from unimrg_api.status import StageStatus
from unimrg_api.termination import TerminationRecord
from unimrg_operator.core.classification import Cause, Classification, classify
from unimrg_operator.core.observation import Child, Pod, Terminated

NOW = 1000.0
CHILD = Child("tiny-train-1", "child", "train", 1, 0.0, "Active")
FAILED = replace(CHILD, state="Failed")
STAGE = StageStatus(name="train", state="Running", attempt=1, child="tiny-train-1", pod_uids=["pod-0", "pod-1"])
STARTING = STAGE.model_copy(update={"state": "Starting", "pod_uids": []})


def pod(rank: int, **fields: Any) -> Pod:
    defaults: dict[str, Any] = {"phase": "Running", "created": 0.0, "node": f"node-{rank}"}
    return Pod(f"worker-{rank}", f"pod-{rank}", "tiny-train-1", rank, **{**defaults, **fields})


def ended(rank: int, code: int, finished: float = NOW - 1, *, reason: str = "Error", **fields: Any) -> Pod:
    record = fields.pop("record", TerminationRecord(exit_code=code))
    phase = "Failed" if code else "Succeeded"
    return pod(rank, **{"phase": phase, "terminated": Terminated(code, reason, finished, record), **fields})


def look(*pods: Pod, child: Child | None = CHILD, stage: StageStatus = STAGE, now: float = NOW) -> Classification:
    return classify(stage, child, list(pods), STAGES["train"], make_job(nodes=2), now)


def cause(*pods: Pod, **fields: Any) -> Cause:
    found = look(*pods, **fields).cause
    assert found is not None
    return found


def test_an_attempt_goes_on_until_all_pods_or_its_child_succeeded() -> None:
    assert look(pod(0), pod(1)) == Classification()
    assert not look(ended(0, 0), pod(1)).succeeded
    assert look(ended(0, 0), ended(1, 0)).succeeded
    assert look(child=replace(CHILD, state="Succeeded")).succeeded


def test_the_container_that_failed_first_is_the_cause() -> None:
    found = cause(ended(0, 84, NOW - 2), ended(1, 70, NOW - 5))
    assert (found.reason, found.pod, found.node, found.exit_code) == ("ProgramFailed", "worker-1", "node-1", 70)
    early = ended(0, 84, NOW - 4)
    assert look(early, pod(1)) == Classification(
        requeue_after=6.0, failing=True
    )  # an earlier failure may still be reported
    assert cause(early, pod(1), now=NOW + 6).reason == "CommunicationFailed"
    assert cause(early, ended(1, 70, NOW - 5)).reason == "ProgramFailed"


@pytest.mark.parametrize("code", [84, 85, 130, 137, 143])
def test_what_follows_from_a_failure_in_the_same_second_is_not_its_cause(code: int) -> None:
    assert cause(ended(0, code, NOW - 1.9), ended(1, 70, NOW - 1.1)).reason == "ProgramFailed"


@pytest.mark.parametrize("code", [70, 137])
def test_a_connection_lost_just_before_a_peer_ended_is_not_the_cause(code: int) -> None:
    found = cause(ended(0, 84, NOW - 3), ended(1, code, NOW - 1.5))
    assert (found.reason, found.pod, found.rule.budget) == (
        "ProgramFailed" if code == 70 else "Killed",
        "worker-1",
        Budget.USER,
    )
    assert cause(ended(0, 84, NOW - 5), ended(1, code, NOW - 1.5)).reason == "CommunicationFailed"


def test_an_unknown_exit_code_is_the_programs() -> None:
    assert cause(ended(0, 42), ended(1, 42)).reason == "ProgramFailed"


@pytest.mark.parametrize("evidence", [{"reason": "OOMKilled"}, {"record": TerminationRecord(reason="OutOfMemory")}])
def test_an_out_of_memory_kill_names_the_limit_and_what_to_change(evidence: dict[str, Any]) -> None:
    found = cause(ended(0, 137, memory_limit="128Gi", **evidence), ended(1, 143))
    assert found.reason == "OutOfMemory"
    assert "at the limit of 128Gi (resources.gpuPod.memory in the site profile)" in found.message
    assert "raise it, e.g. to 256Gi, or lower spec.training.batch.microBatchRows" in found.message
    assert "set resources.gpuPod.memory" in cause(ended(0, 137, **evidence), ended(1, 143)).message
    assert cause(ended(0, 70, **evidence), ended(1, 84)).reason == "ProgramFailed"
    leaving = pod(0, deleting_since=NOW - 20)
    assert cause(leaving, ended(1, 137, NOW - 17, **evidence)).reason == "OutOfMemory"


@pytest.mark.parametrize(
    ("first", "second", "reason", "budget"),
    [
        (ended(0, 137, disruption="PreemptionByScheduler"), ended(1, 84), "PreemptionByScheduler", Budget.FREE),
        (ended(0, 143, deleting_since=NOW - 9), ended(1, 84), "Disrupted", Budget.FREE),
        (ended(0, 85, deleting_since=NOW - 3), pod(1), "Interrupted", Budget.FREE),
        (ended(0, 70, disruption="Evicted"), ended(1, 84), "ProgramFailed", Budget.USER),
        (pod(0, phase="Failed", disruption="Evicted"), ended(1, 0), "Evicted", Budget.FREE),
        (pod(0, phase="Failed", disruption="Evicted"), ended(1, 70), "ProgramFailed", Budget.USER),
        (pod(0, disruption="NodeLost", deleting_since=NOW - 1), pod(1), "PodLost", Budget.FREE),
        (pod(0, phase="Unknown"), pod(1), "PodLost", Budget.FREE),
        (pod(0), replace(pod(1), uid="pod-9"), "PodLost", Budget.FREE),
    ],
    ids=[
        "preempted and killed",
        "deleted and terminated",
        "deleted and interrupted",
        "evicted, but it chose its exit code",
        "evicted without a container",
        "another pod's container failed",
        "on a lost node",
        "of an unknown phase",
        "replaced",
    ],
)
def test_a_pod_that_was_taken_away_costs_nothing(first: Pod, second: Pod, reason: str, budget: Budget) -> None:
    found = cause(first, second)
    assert (found.reason, found.rule.budget) == (reason, budget)


def test_pods_and_children_that_vanished_are_lost() -> None:
    assert cause(pod(0)).reason == "PodLost"
    assert look(pod(0), replace(pod(1), uid="pod-9"), stage=STARTING) == Classification()
    assert cause(ended(0, 70), stage=STARTING).reason == "ProgramFailed"
    assert cause(child=FAILED, stage=STARTING).reason == "PodLost"
    assert look(pod(0), pod(1), child=FAILED) == Classification()
    lost = cause(pod(0), pod(1), child=None)
    assert (lost.reason, lost.rule.budget) == ("ChildLost", Budget.INFRA)


@pytest.mark.parametrize(
    ("since", "seen", "now", "wait"),
    [
        (NOW - 10, None, NOW, 350.0),
        (NOW - 500, NOW - 10, NOW, 350.0),
        (NOW + 500, NOW - 10, NOW, 860.0),
        (NOW, NOW, NOW - 3600, 3960.0),
    ],
)
def test_a_deleted_pod_has_its_grace_by_the_operators_clock(
    since: float, seen: float | None, now: float, wait: float
) -> None:
    leaving = pod(0, deleting_since=since, deletion_observed_at=seen, grace_seconds=300)
    assert look(leaving, pod(1), now=now) == Classification(requeue_after=wait)
    assert cause(leaving, pod(1), now=now + wait).reason == "PodLost"


def test_the_message_names_pod_node_code_and_what_the_pod_reported() -> None:
    record = TerminationRecord(exit_code=70, rank=9, message="rank 9: RuntimeError:\nboom\x07")
    assert cause(ended(0, 70, record=record), ended(1, 84)).message == (
        "pod worker-0 on node-0: exit code 70, the program failed; rank 9: RuntimeError: boom"
    )


@pytest.mark.parametrize("code", [1, 69, 70, 75, 84, 137, 143])
def test_a_failure_after_a_peer_was_asked_to_end_is_the_drains(code: int) -> None:
    leaving = pod(0, deleting_since=NOW - 20, disruption="EvictionByEvictionAPI")
    found = cause(leaving, ended(1, code, NOW - 17))
    assert (found.reason, found.rule.budget, found.exit_code, found.pod) == ("PodLost", Budget.FREE, code, "worker-1")
    assert "pod worker-0 on node-0 was terminating before; EvictionByEvictionAPI" in found.message


@pytest.mark.parametrize(
    ("code", "reason"), [(64, "ConfigInvalid"), (77, "CredentialsDenied"), (80, "GpuFault"), (85, "Interrupted")]
)
def test_what_no_missing_peer_causes_keeps_its_reason(code: int, reason: str) -> None:
    assert cause(pod(0, deleting_since=NOW - 20), ended(1, code, NOW - 17)).reason == reason


def test_a_pod_deleted_for_a_suspension_excuses_no_later_failure() -> None:
    resumed = replace(CHILD, resumed_at=NOW - 30)
    suspended = ended(0, 0, NOW - 40, deleting_since=NOW - 50)
    assert cause(suspended, ended(1, 70, NOW - 17), child=resumed).reason == "ProgramFailed"
    assert cause(suspended, ended(1, 70, NOW - 17)).reason == "PodLost"


def test_only_a_peer_that_was_lost_before_excuses_a_failure() -> None:
    for asked in (NOW - 17, NOW - 16):
        assert cause(pod(0, deleting_since=asked), ended(1, 70, NOW - 17)).reason == "ProgramFailed"
    followed = ended(0, 143, NOW - 3, deleting_since=NOW - 4)
    assert cause(followed, ended(1, 70, NOW - 5)).reason == "ProgramFailed"
    vanished = cause(ended(1, 84))
    assert (vanished.reason, vanished.rule.budget) == ("PodLost", Budget.FREE)
    assert "a pod was missing before" in vanished.message
    assert cause(ended(1, 70), child=FAILED).reason == "ProgramFailed"  # the controller removed the other
    for created, reason in ((NOW - 3, "PodLost"), (NOW - 1, "ProgramFailed")):
        replaced = replace(pod(0, created=created), uid="pod-9")
        assert cause(replaced, ended(1, 70, NOW - 2), child=FAILED, now=NOW + 20).reason == reason
