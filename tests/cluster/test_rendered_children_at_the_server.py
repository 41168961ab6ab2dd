"""Rendered children and the operator's manifests at a real API server, with Training Operator and Pod Security."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.control_plane import ControlPlane, KubectlError
from tests.support.rendered_children import (
    PRIORITY_CLASS,
    ROOT,
    attempt,
    backend,
    cpu_job,
    documents,
    pod_template,
    rdma_job,
)
from tools.crd import crd
from unimrg_operator.backends.base import Manifest
from unimrg_operator.backends.children import first_attempts
from unimrg_operator.backends.profile import SiteProfile

RENDERED = [
    *documents()["pytorchjob.yaml"],
    *documents()["jobset.yaml"],
    *(backend(SiteProfile()).render(first) for first in first_attempts(cpu_job(), "research")),
]
CHILDREN = [pytest.param(manifest, id=f"{manifest['kind']} {manifest['metadata']['name']}") for manifest in RENDERED]
SYSTEM = "unimrg-system"
PSA = "pod-security.kubernetes.io/enforce"
SECONDS = 30.0


@pytest.fixture(scope="module")
def restricted(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace in which things are only tried out, with what the example jobs name."""
    name = "rendered-children"
    control_plane.start_jobset()
    control_plane.create_namespace(name)
    priority = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": PRIORITY_CLASS}}
    control_plane.apply(
        {**priority, "value": 10},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "trainer", "namespace": name}},
    )
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


def try_out(control_plane: ControlPlane, manifest: Manifest, namespace: str) -> None:
    """Have an object validated without keeping it; a warning or a field that the server does not know is a refusal."""
    text = json.dumps({**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}})
    strictly = ["--validate=strict", "--warnings-as-errors"]
    control_plane.kubectl("create", "--dry-run=server", *strictly, "-f", "-", input=text)


@pytest.mark.parametrize("manifest", CHILDREN)
def test_the_server_accepts_a_rendered_child_and_its_pod(
    control_plane: ControlPlane, restricted: str, manifest: Manifest
) -> None:
    try_out(control_plane, manifest, restricted)
    template = pod_template(manifest)
    pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {**template["metadata"], "name": "one"}}
    try_out(control_plane, pod, restricted)


@pytest.mark.parametrize(
    ("ipc_lock", "host_network", "taken", "refused"),
    [
        ("Never", "Never", "restricted", None),
        ("Always", "Never", "privileged", "baseline"),
        ("Never", "Always", "privileged", "baseline"),
    ],
)
def test_pods_with_rdma_need_this_level_of_pod_security(
    control_plane: ControlPlane, restricted: str, ipc_lock: str, host_network: str, taken: str, refused: str | None
) -> None:
    rdma = {"resource": "rdma/hca", "ipcLock": ipc_lock, "hostNetwork": host_network}
    profile = SiteProfile.model_validate({"image": "a:1", "rdma": rdma})
    template = pod_template(backend(profile).render(attempt(rdma_job())))
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": template["spec"]}
    for level in filter(None, (taken, refused)):
        control_plane.kubectl("label", "namespace", restricted, f"{PSA}={level}", "--overwrite")
        try:
            try_out(control_plane, pod, restricted)
            assert level == taken
        except KubectlError as error:
            assert level == refused and f'violates PodSecurity "{level}' in str(error)
        finally:
            control_plane.kubectl("label", "namespace", restricted, f"{PSA}=restricted", "--overwrite")


def test_pod_security_and_the_schema_are_really_checked(control_plane: ControlPlane, restricted: str) -> None:
    check, train = (backend(SiteProfile()).render(attempt(cpu_job(), stage)) for stage in ("check", "train"))
    spec = pod_template(check)["spec"]
    del spec["containers"][0]["securityContext"]
    with pytest.raises(KubectlError, match='violates PodSecurity "restricted'):
        try_out(
            control_plane, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}, restricted
        )
    train["spec"]["nprocPerNode"] = 1
    with pytest.raises(KubectlError, match="nprocPerNode"):
        try_out(control_plane, train, restricted)


def test_the_controllers_make_the_pods_of_the_rendered_children(control_plane: ControlPlane, namespace: str) -> None:
    rendered = {item.stage: backend(SiteProfile()).render(item) for item in first_attempts(cpu_job(), namespace)}
    control_plane.apply(rendered["check"], rendered["train"])

    def pods() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = control_plane.get("pods", f"--namespace={namespace}")["items"]
        return found

    found = eventually(pods, lambda items: len(items) >= 3)
    trains = [pod for pod in found if pod["metadata"]["labels"]["training.unimrg.dev/stage"] == "train"]
    assert sorted(pod["metadata"]["name"] for pod in trains) == [
        "quickstart-s3-train-1-worker-0",
        "quickstart-s3-train-1-worker-1",
    ]
    assert {pod["metadata"]["labels"]["training.kubeflow.org/replica-index"] for pod in trains} == {"0", "1"}
    added = {entry["name"] for entry in trains[0]["spec"]["containers"][0]["env"]} - {
        entry["name"] for entry in pod_template(rendered["train"])["spec"]["containers"][0]["env"]
    }
    assert added == {"PYTHONUNBUFFERED", "PET_NNODES", "PET_NPROC_PER_NODE"}


def eventually(look: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + SECONDS
    while not good(seen := look()):
        assert time.monotonic() < deadline, f"still {seen}"
        time.sleep(0.2)
    return seen


@pytest.fixture
def system(control_plane: ControlPlane, namespace: str) -> Iterator[str]:
    """The operator as its manifests install it, in a namespace of the test's own, with `namespace` to look after."""
    name = f"{namespace}-system"
    control_plane.apply(crd())
    for file in ("operator", "profile", "user-roles", "namespace/role"):
        text = (ROOT / "manifests" / f"{file}.yaml").read_text().replace(SYSTEM, name)
        where = [f"--namespace={namespace}"] if file == "namespace/role" else []
        control_plane.kubectl("apply", "--warnings-as-errors", *where, "-f", "-", input=text)
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


ALLOWED = [
    ("watch", "unimrgjobs.training.unimrg.dev"),
    ("patch", "unimrgjobs.training.unimrg.dev/status"),
    ("create", "pytorchjobs.kubeflow.org"),
    ("delete", "jobs.batch"),
    ("delete", "pods"),
    ("list", "events"),
    ("create", "events.events.k8s.io"),
]
FORBIDDEN = [
    ("patch", "unimrgjobs.training.unimrg.dev"),
    ("create", "unimrgjobs.training.unimrg.dev"),
    ("update", "pytorchjobs.kubeflow.org"),
    ("create", "pods"),
    ("create", "pods/exec"),
    ("get", "pods/log"),
    ("get", "secrets"),
    ("get", "configmaps"),
    ("create", "serviceaccounts/token"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
]


def test_the_operators_pod_is_admitted_and_its_account_has_these_rights(
    control_plane: ControlPlane, namespace: str, system: str
) -> None:
    pods = eventually(  # the process kubelet has no profile at its path for them: they end, and others follow
        lambda: control_plane.get("pods", f"--namespace={system}")["items"], lambda found: len(found) >= 2
    )
    assert {pod["spec"]["serviceAccountName"] for pod in pods} == {"unimrg-operator"}
    account = f"--kubeconfig={control_plane.service_account_kubeconfig(system, 'unimrg-operator')}"

    def may(verb: str, resource: str, where: str = namespace) -> bool:
        kind, _, part = resource.partition("/")
        question = [verb, kind, f"--subresource={part}", f"--namespace={where}"]
        try:
            return control_plane.kubectl("auth", "can-i", *question, account) == "yes\n"
        except KubectlError as error:
            assert str(error).endswith(": "), error  # "no" is a failure without a message
            return False

    assert [right for right in ALLOWED if not may(*right)] == []
    assert [right for right in FORBIDDEN if may(*right)] == []
    assert [where for where in ("default", "kube-system", system) if may("list", "pods", where)] == []
