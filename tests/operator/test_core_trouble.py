"""What people read about everyday trouble, from what a real kubelet, scheduler and API server said of it.

`fixtures/trouble.json` holds statuses of pods and texts of events as Kubernetes 1.37, containerd 2.4 and Training
Operator 1.9 wrote them, without what is not read.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.operator.raw_objects import pod_object
from tests.operator.simulated_cluster import make_job
from unimrg_api.job import UniMRGJob
from unimrg_api.spec_platform import SecretSpec, VolumeSpec
from unimrg_api.stages import STAGES
from unimrg_api.status import RestartCounters, StageStatus
from unimrg_operator.app.observe import observe_node, observe_pod
from unimrg_operator.core.classification import Cause, classify
from unimrg_operator.core.observation import Child, Node, Pod
from unimrg_operator.core.trouble.finding import Trouble, last_cause, shorten, shorten_middle
from unimrg_operator.core.trouble.refusals import refused_child
from unimrg_operator.core.trouble.waiting import Waiting, why_waiting

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures" / "trouble.json").read_text())
CHILD = Child("tiny-train-1", "child", "train", 1, 0.0, "Active")
MOST = 250
"""Characters of cause and remedy."""


def recorded_pod(raw: dict[str, Any], rank: int = 0) -> Pod:
    item = pod_object(rank=rank, status=raw["status"])
    item["spec"]["nodeName"] = raw.get("node")
    item["spec"]["containers"][0]["resources"] = {"limits": {"memory": raw["memory"]}}
    return observe_pod(item)


def a_job(**changes: Any) -> UniMRGJob:
    job = make_job(nodes=2)
    trainer = job.spec.trainer.model_copy(update={"volumes": [VolumeSpec(claim_name="scratch", mount_path="/s")]})
    storage = job.spec.storage.model_copy(update={"credentials": SecretSpec(secret_name="s3-keys")})
    spec = job.spec.model_copy(update={"trainer": trainer, "storage": storage, **changes})
    return job.model_copy(update={"spec": spec})


def waiting_for(*pods: Pod, child: Child = CHILD, job: UniMRGJob | None = None) -> Waiting:
    return why_waiting(child, list(pods), STAGES["train"], job or a_job(), 5.0)


IMAGE = "ImagePull"
PODS = {
    "image, registry does not resolve": (
        IMAGE,
        "name registry.invalid cannot be resolved",
        "image in the site profile",
    ),
    "image, registry refuses connections": (
        IMAGE,
        "127.0.0.1:9 does not answer: connection refused",
        "check the regis",
    ),
    "image, unknown tag": (IMAGE, 'trainer:9": 127.0.0.1:5123 has no such image or tag', "or push the image"),
    "image, private": (IMAGE, "127.0.0.1:5123 refuses access, or has no such", "add a pull Secret to imagePullSecrets"),
    "image, rate limit": (IMAGE, "127.0.0.1:5123 limits how often it is asked", "wait, pull with credentials"),
    "image, registry down": (IMAGE, "trouble of its own: 503 Service Unavailable", "ask who runs the registry"),
    "image, name that is none": (IMAGE, "repository name (library/Trainer) must be lowercase", "correct image"),
    "image, never pulled": (IMAGE, "it is not on node-1 and is never pulled", "imagePullPolicy: IfNotPresent"),
    "secret": ("SecretMissing", 'Secret "s3-keys" does not exist', "correct spec.storage.credentials.secretName"),
    "secret, key": ("SecretMissing", 'Secret "has-other" has no key AWS_ACCESS_KEY_ID', "add the key"),
    "config map": ("ConfigMapMissing", 'ConfigMap "settings" does not exist', "create it in the job's namespace"),
    "config map, volume": ("ConfigMapMissing", 'ConfigMap "settings" does not exist', "create it"),
    "secret, volume": ("SecretMissing", 'Secret "certs" does not exist', "create it"),
    "claim": ("VolumeClaimMissing", '"scratch" does not exist', "correct claimName in spec.trainer.volumes"),
    "claim, unbound": ("VolumeClaimUnbound", "scratch has no volume yet", "kubectl describe pvc scratch"),
    "GPUs": ("Unschedulable", "0/1 nodes are available: 1 Insufficient nvidia.com/gpu", "spec.trainer.gpusPerNode"),
    "labels": (
        "Unschedulable",
        "1 node(s) didn't match Pod's node affinity/selector",
        "nodeSelector in the site profile",
    ),
}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_that_waits_tells_cause_and_remedy(name: str) -> None:
    reason, cause, remedy = PODS[name]
    pod = replace(recorded_pod(RECORDED["pods"][name]), warnings=tuple(RECORDED["warnings"].get(name, ())))
    found = waiting_for(pod)
    assert found.reason == reason
    assert found.message.startswith("pod tiny-train-1-worker-0 waits: ")
    assert cause in found.message.partition("; ")[0]
    assert remedy in found.message.partition("; ")[2]
    assert len(found.message) <= MOST + len("pod tiny-train-1-worker-0 waits: ")
    assert "preemption" not in found.message


def test_every_recorded_trouble_is_looked_at() -> None:
    assert set(PODS) | {"out of memory", "command"} == set(RECORDED["pods"])
    assert set(REFUSALS) | {name for name in PODS if "volume" in name} == set(RECORDED["warnings"])


def test_an_older_kubelet_tells_why_only_in_an_event() -> None:
    pod = recorded_pod(RECORDED["pods"]["image, unknown tag"])
    short, _, chain = pod.waiting_message.partition(": ")
    assert waiting_for(replace(pod, waiting_message=short)).reason == IMAGE
    older = replace(pod, waiting_message=short, warnings=(f"Failed: Failed to pull image: {chain}",))
    assert "has no such image or tag; correct image in the site profile" in waiting_for(older).message
    assert "correct spec.image" in waiting_for(older, job=a_job(image="x/y:1")).message


REFUSALS = {
    "quota, Job": ("QuotaExceeded", "asked for requests.nvidia.com/gpu=8, used", "or have the quota raised"),
    "quota, PyTorchJob": ("QuotaExceeded", "ResourceQuota gpus is used up", "wait until other jobs end"),
    "LimitRange, Job": ("LimitRangeExceeded", "at most 1Gi of memory per container", "lower it"),
    "LimitRange, PyTorchJob": ("LimitRangeExceeded", "and resources.gpuPod.memory is 4Gi", "lower it"),
    "Pod Security, Job": ("PodSecurityViolation", 'enforces Pod Security "restricted:latest"', "the level"),
    "Pod Security, PyTorchJob": (
        "PodSecurityViolation",
        "allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile",
        "a webhook",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_pods_that_are_refused_tell_cause_and_remedy(name: str) -> None:
    reason, cause, remedy = REFUSALS[name]
    found = waiting_for(child=replace(CHILD, warnings=tuple(RECORDED["warnings"][name])))
    assert found.reason == reason
    assert cause in found.message
    assert remedy in found.message.partition("; ")[2]
    assert len(found.message) <= MOST + 20
    assert "containers[" not in found.message


@pytest.mark.parametrize(
    ("text", "reason", "cause"),
    [
        (
            'Internal error occurred: failed calling webhook "validator.pytorchjob.example": failed to call webhook: '
            'Post "https://localhost:1/validate?timeout=10s": dial tcp 127.0.0.1:1: connect: connection refused',
            "BackendUnavailable",
            "webhook validator.pytorchjob.example does not answer: connection refused",
        ),
        (
            'pytorchjobs.kubeflow.org "tiny-train-1" is forbidden: unable to create new content in namespace lab '
            "because it is being terminated",
            "NamespaceTerminating",
            "namespace lab is being deleted",
        ),
        (
            'pods "p" is forbidden: error looking up service account lab/nobody: serviceaccount "nobody" not found',
            "ServiceAccountMissing",
            'ServiceAccount "nobody" does not exist',
        ),
        (
            'pods "p" is forbidden: no PriorityClass with name nope was found',
            "PriorityClassMissing",
            'PriorityClass "nope" does not exist',
        ),
        (
            'jobs.batch is forbidden: User "system:serviceaccount:a:b" cannot create resource "jobs" in API group '
            '"batch" in the namespace "lab"',
            "RightMissing",
            "no right to create jobs.batch",
        ),
        (
            'admission webhook "policy.example" denied the request: images come from registry.example only',
            "PodsRefused",
            "policy.example refuses it: images come from registry.example only",
        ),
        ("spec.x: Invalid value: 3", "ChildRefused", "the API server refuses tiny-train-1: spec.x: Invalid value: 3"),
    ],
)
def test_what_an_api_server_refuses_tells_cause_and_remedy(text: str, reason: str, cause: str) -> None:
    found = refused_child(text, "tiny-train-1", STAGES["train"], a_job(), answers=True)
    assert found.reason == reason
    assert cause in found.cause
    assert found.remedy
    assert len(found.message) <= MOST
    events = replace(CHILD, warnings=(f"FailedCreatePod: Error creating: {text}",))
    assert waiting_for(child=events).reason == reason.replace("ChildRefused", "PodsRefused")


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        (
            "0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient memory.",
            "lower resources.gpuPod (cpu and memory)",
        ),
        ("0/3 nodes are available: 3 Insufficient ephemeral-storage.", "cacheSize in the site profile"),
        ("0/3 nodes are available: 3 node(s) had untolerated taint(s).", "tolerations of its profile"),
        ("0/3 nodes are available: 3 node(s) were unschedulable.", "kubectl uncordon NODE"),
        ("0/3 nodes are available: 3 node(s) had volume node affinity conflict.", "spec.trainer.volumes is tied"),
        ("no nodes available to schedule pods", "kubectl describe pod"),
        ("", "kubectl describe pod"),
    ],
)
def test_the_remedy_fits_what_the_scheduler_lacks(message: str, remedy: str) -> None:
    pod = replace(recorded_pod(RECORDED["pods"]["GPUs"]), waiting_message=message)
    assert remedy in waiting_for(pod).message


def test_nodes_that_a_job_avoids_are_named_where_none_is_left() -> None:
    child = replace(CHILD, restart_counters=RestartCounters(excluded_nodes=["n1", "n2", "n3", "n4"]))
    found = waiting_for(recorded_pod(RECORDED["pods"]["labels"]), child=child)
    assert "avoids n1, n2, n3 and 1 more after faults there" in found.message


# ---- ends


def cause(*pods: Pod, nodes: tuple[Node, ...] = ()) -> Cause:
    stage = StageStatus(name="train", state="Running", attempt=1, child=CHILD.name, pod_uids=[pod.uid for pod in pods])
    now = max(pod.terminated.finished for pod in pods if pod.terminated) + 60
    found = classify(stage, CHILD, list(pods), STAGES["train"], a_job(), now, nodes).cause
    assert found is not None
    return found


def test_a_kill_for_memory_tells_the_limit_its_field_and_a_larger_one() -> None:
    found = cause(recorded_pod(RECORDED["pods"]["out of memory"]))
    assert found.reason == "OutOfMemory"
    assert found.message == (
        "pod tiny-train-1-worker-0 on node-1: exit code 137, out of host memory at the limit of 64Mi "
        "(resources.gpuPod.memory in the site profile): raise it, e.g. to 128Mi, or lower "
        "spec.training.batch.microBatchRows"
    )


def test_an_image_without_the_program_is_never_tried_again() -> None:
    pod = recorded_pod(RECORDED["pods"]["command"])
    found = cause(pod)
    assert (found.reason, found.rule.action.value) == ("ImageUnusable", "Fail")
    assert "no program unimrg-launch" in found.message
    assert pod.terminated is not None
    other = pod.terminated.record.model_copy(update={"message": "runc create failed: device or resource busy"})
    found = cause(replace(pod, terminated=replace(pod.terminated, record=other)))
    assert (found.reason, found.rule.budget.value) == ("ContainerNotStarted", "Infra")


@pytest.mark.parametrize("name", RECORDED["restarted nodes"])
def test_a_machine_that_restarts_costs_no_budget(name: str) -> None:
    record = RECORDED["restarted nodes"][name]
    node = observe_node({"metadata": {"name": "node-1"}, "status": record["node"]})
    pods = [recorded_pod(record["pod"], rank) for rank in range(2)]
    found = cause(*pods, nodes=(node,))
    assert (found.reason, found.rule.budget.value) == ("PodLost" if "reset" in name else "Disrupted", "Free")
    assert "node node-1 was away when the pod ended, and is ready again since 2026-11-30T04:3" in found.message


def test_a_node_that_was_ready_all_the_time_excuses_nobody() -> None:
    record = RECORDED["restarted nodes"]["kubelet stopped, containers killed"]
    pod = recorded_pod(record["pod"])
    assert pod.terminated is not None
    end = pod.terminated.finished
    for since, ready in ((end - 3600, "True"), (end + 7200, "False"), (end + 7200, "True")):
        found = cause(pod, nodes=(Node("node-1", ready, since),))
        assert (found.reason, found.rule.budget.value) == ("Killed", "User")
    assert cause(pod, nodes=(Node("node-1", "False", end - 3600),)).reason == "Disrupted"
    failed = replace(pod, terminated=replace(pod.terminated, exit_code=70))
    assert cause(failed, nodes=(Node("node-1", "True", end + 30),)).reason == "ProgramFailed"


# ---- texts


def test_texts_are_cut_where_words_or_names_allow() -> None:
    assert shorten("one two  three", 10) == "one two…"
    assert shorten("x" * 20, 10) == "x" * 9 + "…"
    assert shorten_middle("registry.example/team/trainer:1", 15) == "registr…ainer:1"
    assert len(shorten_middle("registry.example/team/trainer:1", 16)) == 16
    assert last_cause("a: b: c d.") == "c d"
    assert all(trouble.value[0].isupper() for trouble in Trouble)
