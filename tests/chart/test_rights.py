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
from unimrg_api.exit_codes import ExitCode

pytestmark = pytest.mark.slow

Right = tuple[str, str, str]
WATCHES: dict[str, Object] = {"minimal": {}}
"""`watch` in the chart's values, by the name of a profile."""


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


def stranger(api: str, kind: str, name: str) -> Object:
    """Somebody else's object where the operator wants to make a child, which starts nothing."""
    container = {"name": "pytorch", "image": "x"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    job = {"suspend": True, "template": template}
    replicas = {"Worker": {"replicas": 1, "restartPolicy": "Never", "template": template}}
    torch = {"runPolicy": {"suspend": True}, "pytorchReplicaSpecs": replicas}
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": job if kind == "Job" else torch}


def fail_repeatedly(operator: Operator, stage: str, pods: int, first: int, last: int) -> None:
    """End attempts of a stage as a store out of reach does: the oldest children are deleted."""
    for number in range(first, last + 1):
        first = operator.until_pods(f"tiny-{stage}-{number}", pods)[0]  # the controller ends the others
        operator.end_pod(first, int(ExitCode.UNAVAILABLE), reason="StoreUnavailable")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", WATCHES)
def test_every_right_is_used_and_none_is_missing(
    name: str, plane: ControlPlane, render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The grace of a pod that does not go away, and a minute more.
    monkeypatch.setattr(test_operator_at_the_server, "SECONDS", 240.0)
    namespace = f"rights-{name}"
    plane.create_namespace(namespace)
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}, crd())
    plane.wait_until_served("unimrgjobs.training.unimrg.dev")
    items = render(values_file(tmp_path, {"watchNamespaces": [namespace], "watch": WATCHES[name]}))
    rights = [item for item in items if item["kind"].startswith(("Role", "ClusterRole", "ServiceAccount"))]
    plane.apply(*rights)
    (deployment,) = (item for item in items if item["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    flags = [flag for flag in container["args"] if not flag.startswith(("--namespace", "--profile"))]
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    plane.apply(
        quota,
        stranger("batch/v1", "Job", "tiny-check-1"),
        stranger("kubeflow.org/v1", "PyTorchJob", "tiny-train-1"),
        namespace=namespace,
    )
    operator = Operator(plane, namespace, tmp_path, *flags)
    try:
        operator.submit()
        live_through_everything(operator)
    finally:
        operator.process.stop()
    assert plane.rights_used(namespace) == granted(items, "Role", "unimrg-operator")
    assert plane.rights_used(SYSTEM) == granted(items, "Role", "unimrg-operator-leader")
    assert plane.rights_used("") == granted(items, "ClusterRole", "unimrg-operator-nodes")


def live_through_everything(operator: Operator) -> None:
    """A name that is taken, a quota, failures in a row, a pod that does not go away, and success in the end."""

    def free(kind: str, child: str) -> None:
        operator.until(lambda: operator.condition("Accepted").get("reason") == "NameConflict")
        operator.control_plane.kubectl("delete", kind, child, f"--namespace={operator.namespace}")
        operator.process.signal(signal.SIGTERM)  # the Lease is given back, and the next one tries at once
        operator.process.wait(30.0)
        operator.start()

    free("job", "tiny-check-1")
    operator.until(lambda: "exceeded quota: none" in operator.condition("Running").get("message", ""))
    operator.control_plane.kubectl("delete", "quota", "none", f"--namespace={operator.namespace}")
    fail_repeatedly(operator, "check", 1, 1, 3)
    (pod,) = operator.until_pods("tiny-check-4", 1)
    operator.end_pod(pod)
    free("pytorchjob", "tiny-train-1")
    fail_repeatedly(operator, "train", 2, 1, 3)
    first, second = operator.until_pods("tiny-train-4", 2)
    for pod in (first, second):
        operator.run_pod(pod)
    keep_forever(operator, second)
    operator.end_pod(first, int(ExitCode.UNAVAILABLE), reason="StoreUnavailable")
    for pod in operator.until_pods("tiny-train-5", 2):
        operator.end_pod(pod)
    (pod,) = operator.until_pods("tiny-finish-1", 1)
    operator.end_pod(pod)
    operator.until(lambda: operator.condition("Complete").get("status") == "True")


def keep_forever(operator: Operator, pod: Object) -> None:
    """Bind a pod to a node whose kubelet never answers, so that its deletion does not end."""
    name, where = pod["metadata"]["name"], f"--namespace={operator.namespace}"
    operator.control_plane.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "silent"}})
    target = {"apiVersion": "v1", "kind": "Node", "name": "silent"}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
    path = f"/api/v1/namespaces/{operator.namespace}/pods/{name}/binding"
    operator.control_plane.kubectl("create", f"--raw={path}", "--filename=-", where, input=json.dumps(binding))
