"""Which pod ended first, and what it means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.operator.simulated_cluster import make_job
from unimrg_api.exit_codes import Action, Budget, ExitCode
from unimrg_api.stages import STAGES
from unimrg_api.status import StageStatus
from unimrg_api.termination import TerminationRecord
from unimrg_operator.core.evidence import REASONS, Classification, classify
from unimrg_operator.core.observation import Child, Pod, Terminated

NOW = 1000.0
CHILD = Child("tiny-train-1", "child", "train", 1, 0.0, "Active")
STAGE = StageStatus(name="train", state="Running", attempt=1, child="tiny-train-1", pod_uids=["pod-0", "pod-1"])


def pod(rank: int, **fields: Any) -> Pod:
    defaults: dict[str, Any] = {"phase": "Running", "created": 0.0, "node": f"node-{rank}"}
    return Pod(f"worker-{rank}", f"pod-{rank}", "tiny-train-1", rank, **{**defaults, **fields})


def ended(rank: int, code: int, finished: float = NOW - 1, *, reason: str = "Error", **fields: Any) -> Pod:
    record = fields.pop("record", TerminationRecord(exit_code=code))
    phase = "Failed" if code else "Succeeded"
    return pod(rank, **{"phase": phase, "terminated": Terminated(code, reason, finished, record), **fields})


def look(*pods: Pod, child: Child | None = CHILD, stage: StageStatus = STAGE, now: float = NOW) -> Classification:
    return classify(stage, child, list(pods), STAGES["train"], make_job(nodes=2), now)


def reason(classification: Classification) -> str | None:
    return classification.cause.reason if classification.cause is not None else None


def test_an_attempt_whose_pods_run_goes_on() -> None:
    assert look(pod(0), pod(1)) == Classification()


def test_success_is_that_of_all_pods_or_the_childs_word() -> None:
    assert not look(ended(0, 0), pod(1)).done
    assert look(ended(0, 0), ended(1, 0)).done
    assert look(child=replace(CHILD, state="Succeeded")).done


def test_the_container_that_failed_first_is_the_cause() -> None:
    classification = look(ended(0, 84, NOW - 2), ended(1, 70, NOW - 5))
    assert classification.cause is not None
    assert (classification.cause.reason, classification.cause.pod, classification.cause.node) == (
        "ProgramFailed",
        "worker-1",
        "node-1",
    )
    assert classification.cause.exit_code == 70


@pytest.mark.parametrize("code", [84, 85, 130, 137, 143])
def test_within_the_same_second_what_follows_from_a_failure_is_not_its_cause(code: int) -> None:
    assert reason(look(ended(0, code, NOW - 1.9), ended(1, 70, NOW - 1.1))) == "ProgramFailed"


def test_a_first_failure_waits_a_moment_for_those_that_were_earlier() -> None:
    first = ended(0, 84, NOW - 4)
    assert look(first, pod(1)) == Classification(wait=6.0)
    assert reason(look(first, pod(1), now=NOW + 6)) == "CommunicationFailed"
    assert reason(look(first, ended(1, 70, NOW - 5))) == "ProgramFailed"


def test_a_failed_pod_that_is_being_deleted_is_judged_while_it_can_be_seen() -> None:
    assert reason(look(ended(0, 85, deleting_since=NOW - 3), pod(1))) == "Interrupted"


def test_every_exit_code_has_its_word() -> None:
    assert set(REASONS) == {int(code) for code in ExitCode} - {0}
    assert reason(look(ended(0, 42), ended(1, 42))) == "ProgramFailed"


@pytest.mark.parametrize("said", [{"reason": "OOMKilled"}, {"record": TerminationRecord(reason="OutOfMemory")}])
def test_want_of_memory_is_known_from_the_kernel_or_the_launcher(said: dict[str, Any]) -> None:
    assert reason(look(ended(0, 137, **said), ended(1, 84))) == "OutOfMemory"
    assert reason(look(ended(0, 70, **said), ended(1, 84))) == "ProgramFailed"


@pytest.mark.parametrize(
    ("fields", "word"),
    [({"disruption": "PreemptionByScheduler"}, "PreemptionByScheduler"), ({"deleting_since": NOW - 9}, "Disrupted")],
)
def test_a_pod_that_was_taken_away_and_killed_is_disrupted(fields: dict[str, Any], word: str) -> None:
    for code in (137, 143):
        classification = look(ended(0, code, **fields), ended(1, 84))
        assert classification.cause is not None
        assert classification.cause.reason == word
        assert classification.cause.rule.budget is Budget.FREE


def test_a_pod_that_was_taken_away_and_chose_its_code_is_believed() -> None:
    assert reason(look(ended(0, 70, disruption="Evicted"), ended(1, 84))) == "ProgramFailed"


def test_an_evicted_pod_without_a_container_is_a_disruption() -> None:
    classification = look(pod(0, phase="Failed", disruption="Evicted"), ended(1, 0))
    assert classification.cause is not None
    assert (classification.cause.reason, classification.cause.exit_code, classification.cause.node) == (
        "Evicted",
        None,
        "node-0",
    )
    assert classification.cause.rule.budget is Budget.FREE


def test_a_container_that_failed_is_asked_before_a_pod_that_was_evicted() -> None:
    assert reason(look(pod(0, phase="Failed", disruption="Evicted"), ended(1, 70))) == "ProgramFailed"


def test_a_deleted_pod_has_its_grace_to_say_how_it_ends() -> None:
    leaving = pod(0, deleting_since=NOW - 10, grace_seconds=300)
    assert look(leaving, pod(1)) == Classification(wait=350.0)
    assert reason(look(leaving, pod(1), now=NOW + 350)) == "PodLost"


def test_a_pod_on_a_lost_node_is_not_waited_for() -> None:
    assert reason(look(pod(0, disruption="NodeLost", deleting_since=NOW - 1), pod(1))) == "PodLost"
    assert reason(look(pod(0, phase="Unknown"), pod(1))) == "PodLost"


def test_a_pod_that_vanished_or_was_replaced_is_lost() -> None:
    replaced = replace(pod(1), uid="pod-9")
    for pods in ([pod(0)], [pod(0), replaced]):
        classification = look(*pods)
        assert classification.cause is not None
        assert classification.cause.reason == "PodLost"
        assert (classification.cause.rule.action, classification.cause.rule.budget) == (Action.RESTART, Budget.FREE)


def test_before_all_pods_were_seen_a_replaced_one_is_none_that_is_lost() -> None:
    starting = STAGE.model_copy(update={"state": "Starting", "pod_uids": []})
    assert look(pod(0), replace(pod(1), uid="pod-9"), stage=starting) == Classification()
    assert reason(look(ended(0, 70), stage=starting)) == "ProgramFailed"


def test_a_failed_child_without_pods_lost_them_and_one_whose_pods_live_is_not_judged_yet() -> None:
    failed = replace(CHILD, state="Failed")
    starting = STAGE.model_copy(update={"pod_uids": []})
    assert reason(look(child=failed, stage=starting)) == "PodLost"
    assert look(pod(0), pod(1), child=failed) == Classification()


def test_a_missing_child_is_infrastructures_fault() -> None:
    classification = look(pod(0), pod(1), child=None)
    assert classification.cause is not None
    assert (classification.cause.reason, classification.cause.rule.budget) == ("ChildLost", Budget.INFRA)


def test_the_cause_line_names_pod_node_rank_code_and_what_the_pod_said() -> None:
    record = TerminationRecord(exit_code=70, rank=9, message="RuntimeError:\nboom\x07")
    classification = look(ended(0, 70, record=record), ended(1, 84))
    assert classification.cause is not None
    assert classification.cause.message == (
        "pod worker-0 on node-0: exit code 70, the program failed; rank 9: RuntimeError: boom"
    )


def test_a_rank_that_the_launcher_named_is_not_named_twice() -> None:
    record = TerminationRecord(exit_code=70, rank=9, message="rank 9: boom")
    classification = look(ended(0, 70, record=record), ended(1, 84))
    assert classification.cause is not None
    assert classification.cause.message.count("rank 9") == 1


@pytest.mark.parametrize("code", [1, 69, 70, 75, 84, 137, 143])
def test_what_fails_after_a_peer_was_asked_to_end_is_the_drains_fault(code: int) -> None:
    leaving = pod(0, deleting_since=NOW - 20, disruption="EvictionByEvictionAPI")
    classification = look(leaving, ended(1, code, NOW - 17))
    assert classification.cause is not None
    assert (classification.cause.reason, classification.cause.rule.budget) == ("PodLost", Budget.FREE)
    assert (classification.cause.exit_code, classification.cause.pod) == (code, "worker-1")
    assert "pod worker-0 on node-0 was asked to end before; EvictionByEvictionAPI" in classification.cause.message


def test_a_peer_that_was_asked_to_end_after_the_failure_or_because_of_it_excuses_nothing() -> None:
    for asked in (NOW - 17, NOW - 16):
        assert reason(look(pod(0, deleting_since=asked), ended(1, 70, NOW - 17))) == "ProgramFailed"
    assert reason(look(ended(0, 143, NOW - 3, deleting_since=NOW - 4), ended(1, 70, NOW - 5))) == "ProgramFailed"


@pytest.mark.parametrize(
    ("code", "word"), [(64, "ConfigInvalid"), (77, "CredentialsDenied"), (80, "GpuFault"), (85, "Interrupted")]
)
def test_what_no_missing_peer_causes_keeps_its_verdict(code: int, word: str) -> None:
    assert reason(look(pod(0, deleting_since=NOW - 20), ended(1, code, NOW - 17))) == word


def test_memory_that_runs_out_during_a_drain_has_still_run_out() -> None:
    leaving = pod(0, deleting_since=NOW - 20)
    assert reason(look(leaving, ended(1, 137, NOW - 17, reason="OOMKilled"))) == "OutOfMemory"


def test_what_fails_when_a_peer_is_missing_is_the_lost_peers_fault() -> None:
    classification = look(ended(1, 84))
    assert classification.cause is not None
    assert (classification.cause.reason, classification.cause.rule.budget) == ("PodLost", Budget.FREE)
    assert "a pod had vanished before" in classification.cause.message


def test_once_the_failure_was_noticed_only_a_peer_that_was_replaced_before_was_lost_before() -> None:
    failed = replace(CHILD, state="Failed")
    assert reason(look(ended(1, 70), child=failed)) == "ProgramFailed"
    replaced = replace(pod(0, created=NOW - 3), uid="pod-9")
    assert reason(look(replaced, ended(1, 70, NOW - 2), child=failed, now=NOW + 20)) == "PodLost"
    late = replace(pod(0, created=NOW - 1), uid="pod-9")
    assert reason(look(late, ended(1, 70, NOW - 2), child=failed, now=NOW + 20)) == "ProgramFailed"


def test_the_grace_of_a_pod_is_counted_from_when_it_was_seen_to_be_asked_to_end() -> None:
    behind = pod(0, deleting_since=NOW - 500, deleting_seen=NOW - 10, grace_seconds=300)
    assert look(behind, pod(1)) == Classification(wait=350.0)
    ahead = pod(0, deleting_since=NOW + 500, deleting_seen=NOW - 10, grace_seconds=300)
    assert look(ahead, pod(1)) == Classification(wait=860.0)


def test_a_clock_that_was_set_back_only_lengthens_a_pods_grace() -> None:
    leaving = pod(0, deleting_since=NOW, deleting_seen=NOW, grace_seconds=30)
    assert look(leaving, pod(1), now=NOW - 3600) == Classification(wait=3690.0)


def test_an_out_of_memory_kill_names_the_limit_and_what_to_change() -> None:
    found = look(ended(0, 137, reason="OOMKilled", memory_limit="128Gi"), ended(1, 143)).cause
    assert found is not None
    assert "beyond its limit of 128Gi" in found.message
    assert "raise resources.gpuPod.memory in the site profile" in found.message
