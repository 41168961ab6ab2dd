"""What the chart grants is what the operator uses, by the API server's audit log over an eventful job."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.chart.conftest import Object, Render, values_file
from tests.cluster import test_operator_at_the_server
from tests.cluster.test_operator_at_the_server import SYSTEM, Operator
from tests.support.control_plane import ControlPlane
from tools.crd import crd

Right = tuple[str, str, str]
WATCHES: dict[str, Object] = {
    "minimal": {},
    "nodes-and-kueue": {"nodes": True, "kueue": True},
    "all": {"nodes": True, "kueue": True, "jobset": True},
}
"""`watch` in the chart's values, by the name of a profile."""
MARKS = {"minimal": pytest.mark.slow}


def granted(items: list[Object], kind: str, name: str) -> set[Right]:
    """The rights of a role that is rendered; none if it is not."""
    return {
        (group, resource, verb)
        for item in items
        if (item["kind"], item["metadata"]["name"]) == (kind, name)
        for rule in item["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def stranger(kind: str, name: str) -> Object:
    """Somebody else's object where the operator wants to make a child, which starts nothing."""
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "pytorch", "image": "x"}]}}
    replicas = {"Worker": {"replicas": 1, "restartPolicy": "Never", "template": template}}
    api, spec = {
        "Job": ("batch/v1", {"suspend": True, "template": template}),
        "PyTorchJob": ("kubeflow.org/v1", {"runPolicy": {"suspend": True}, "pytorchReplicaSpecs": replicas}),
        "JobSet": (
            "jobset.x-k8s.io/v1alpha2",
            {"suspend": True, "replicatedJobs": [{"name": "w", "template": {"spec": {"template": template}}}]},
        ),
    }[kind]
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": spec}


def suspend_and_resume(operator: Operator, job: str = "tiny") -> None:
    """Have the child that runs deleted, as its user may: nothing is waited for, unlike after failures."""
    where = ["unimrgjob", job, f"--namespace={operator.namespace}", "--type=merge"]
    operator.control_plane.kubectl("patch", *where, '--patch={"spec": {"suspend": true}}')
    operator.until(lambda: operator.condition("Suspended", job).get("status") == "True")
    operator.control_plane.kubectl("patch", *where, '--patch={"spec": {"suspend": false}}')


def free(operator: Operator, kind: str, child: str) -> None:
    """Wait for the complaint about somebody else's object, and take the object away."""
    job = child.split("-")[0]
    operator.until(lambda: operator.condition("Accepted", job).get("reason") == "NameConflict")
    operator.control_plane.kubectl("delete", kind, child, f"--namespace={operator.namespace}")
    operator.process.signal(signal.SIGTERM)  # the Lease is given back, and the next one tries at once
    operator.process.wait(30.0)
    operator.start()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, pytest.mark.long)) for name in WATCHES])
def test_every_right_is_used_and_none_is_missing(
    name: str, plane: ControlPlane, render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_operator_at_the_server, "SECONDS", 120.0)  # Kueue and JobSet beside the rest are slow
    namespace, watch = f"rights-{name}", WATCHES[name]
    if "kueue" in watch:
        plane.start_kueue()  # and JobSet
    plane.create_namespace(namespace)
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}, crd())
    plane.wait_until_served("unimrgjobs.training.unimrg.dev")
    items = render(values_file(tmp_path, {"watchNamespaces": [namespace], "watch": watch}))
    rights = [item for item in items if item["kind"].startswith(("Role", "ClusterRole", "ServiceAccount"))]
    plane.apply(*rights)
    (deployment,) = (item for item in items if item["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    flags = [flag for flag in container["args"] if not flag.startswith(("--namespace", "--profile"))]
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    plane.apply(quota, stranger("Job", "tiny-check-1"), stranger("PyTorchJob", "tiny-train-1"), namespace=namespace)
    operator = Operator(plane, namespace, tmp_path, *flags)
    try:
        operator.submit()
        live_through_everything(operator)
        if "jobset" in watch:
            train_as_a_jobset(operator)
    finally:
        operator.process.stop()
    assert plane.rights_used(namespace) == granted(items, "Role", "unimrg-operator")
    assert plane.rights_used(SYSTEM) == granted(items, "Role", "unimrg-operator-leader")
    assert plane.rights_used("") == granted(items, "ClusterRole", "unimrg-operator-nodes")


def live_through_everything(operator: Operator) -> None:
    """A name that is taken, a quota, a suspension, a pod on a lost node, and success."""
    free(operator, "job", "tiny-check-1")
    operator.until(lambda: operator.job()["status"].get("reason") == "QuotaExceeded")
    operator.control_plane.kubectl("delete", "quota", "none", f"--namespace={operator.namespace}")
    suspend_and_resume(operator)
    (pod,) = operator.until_pods("tiny-check-2", 1)
    operator.end_pod(pod)
    free(operator, "pytorchjob", "tiny-train-1")
    _, second = operator.until_pods("tiny-train-1", 2)
    lose(operator, second)
    for pod in operator.until_pods("tiny-train-2", 2):
        operator.end_pod(pod)
    (pod,) = operator.until_pods("tiny-finish-1", 1)
    operator.end_pod(pod)
    operator.until(lambda: operator.condition("Complete").get("status") == "True")


def train_as_a_jobset(operator: Operator) -> None:
    """The same of a JobSet: a name that is taken, a suspension, success."""
    operator.control_plane.apply(stranger("JobSet", "sets-train-1"), namespace=operator.namespace)
    operator.submit("sets", backend="JobSet")
    (pod,) = operator.until_pods("sets-check-1", 1)
    operator.end_pod(pod)
    free(operator, "jobset", "sets-train-1")
    operator.until_pods("sets-train-1-w-0", 2)
    suspend_and_resume(operator, "sets")
    for pod in operator.until_pods("sets-train-2-w-0", 2):
        operator.end_pod(pod)
    (pod,) = operator.until_pods("sets-finish-1", 1)
    operator.end_pod(pod)
    operator.until(lambda: operator.condition("Complete", "sets").get("status") == "True")


def lose(operator: Operator, pod: Object) -> None:
    """Bind a pod to a node that is lost, so that its deletion does not end."""
    name, where = pod["metadata"]["name"], f"--namespace={operator.namespace}"
    operator.control_plane.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "silent"}})
    target = {"apiVersion": "v1", "kind": "Node", "name": "silent"}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
    path = f"/api/v1/namespaces/{operator.namespace}/pods/{name}/binding"
    operator.control_plane.kubectl("create", f"--raw={path}", "--filename=-", where, input=json.dumps(binding))
    status = ["--subresource=status", "--type=merge", '--patch={"status": {"phase": "Unknown"}}']
    operator.control_plane.kubectl("patch", "pod", name, where, *status)
