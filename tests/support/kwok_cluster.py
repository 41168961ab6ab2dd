"""A control plane whose pods run as nothing: kwok plays their kubelet, so that hundreds of jobs go their way here.

A job's check ends at once, and the pods of a training when they are told to: after `run_seconds`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from ruamel.yaml import YAML

from tests.support.control_plane import ControlPlane, find_assets
from tests.support.guarded import GuardedProcess
from tests.support.ports import free_port, http_status
from tools.crd import crd
from unimrg_api.cluster import GROUP, PLURAL
from unimrg_operator.kube.client import Client

Object = dict[str, Any]

SYSTEM = "unimrg-system"
ACCOUNT = "unimrg-operator"
NODE = "kwok-0"
LARGE = "1000"
"""CPUs that each pod asks for: only kwok's node has so many."""
_ROOT = Path(__file__).parents[2]
_TERMINAL = ("Succeeded", "Failed")


class KwokCluster:
    """One namespace with kwok's node beneath it, and any number of operators' processes."""

    def __init__(self, control_plane: ControlPlane, namespace: str, folder: Path) -> None:
        self.control_plane = control_plane
        self.namespace = namespace
        self.folder = folder
        self.processes: list[GuardedProcess] = []
        self.metrics_address = ""
        """HOST:PORT of /metrics of the operator that was started last."""
        folder.mkdir(parents=True, exist_ok=True)
        self._profile = folder / "profile.yaml"
        resources = {pod: {"cpu": LARGE, "memory": "1Gi"} for pod in ("smallPod", "cpuPod", "gpuPod")}
        self._profile.write_text(json.dumps({"image": "unimrg-trainer:test", "resources": resources}))

    def start(self, run_seconds: float = 1.0) -> None:
        """Install UniMRG in the namespace, and start kwok with one large node."""
        lease_rule = {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "verbs": ["get", "create", "update"],
        }
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": ACCOUNT, "namespace": SYSTEM}}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT}
        account = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM}
        self.control_plane.apply(
            crd(),
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": role["metadata"]},
            {**role, "kind": "Role", "rules": [lease_rule]},
            {**role, "kind": "RoleBinding", "roleRef": reference, "subjects": [account]},
        )
        self.control_plane.wait_until_served(f"{PLURAL}.{GROUP}")
        self.kubectl("apply", f"--filename={_ROOT / 'manifests' / 'namespace' / 'role.yaml'}")
        self._start_kwok(run_seconds)

    def stop(self) -> None:
        """End what was started; the node goes, so that nobody else's pods land on it."""
        for process in self.processes:
            process.kill()
        self.control_plane.kubectl("delete", "node", NODE, "--ignore-not-found")

    def client(self) -> Client:
        """Return the operator's own client, with an admin's rights."""
        return Client.from_environment(self.control_plane.kubeconfig)

    def operator(self, *flags: str, server: str = "", ready: bool = True) -> GuardedProcess:
        """Start an operator with its own account's rights, by way of another address of the API server if given."""
        kubeconfig = self.control_plane.service_account_kubeconfig(SYSTEM, ACCOUNT)
        number = len(self.processes)
        if server:
            config = yaml.safe_load(kubeconfig.read_text())
            config["clusters"][0]["cluster"] = {"server": server}
            kubeconfig = self.folder / f"kubeconfig-{number}"
            kubeconfig.write_text(yaml.safe_dump(config))
        address = self.metrics_address = f"127.0.0.1:{free_port()}"
        command: list[str | Path] = [
            Path(sys.executable).with_name("unimrg-operator"),
            f"--namespace={self.namespace}",
            f"--kubeconfig={kubeconfig}",
            f"--profile={self._profile}",
            f"--metrics-address={address}",
            "--progress-seconds=3600",  # there is nobody to ask
            *flags,
        ]
        process = GuardedProcess(command, self.folder / f"operator-{number}.log")
        self.processes.append(process)
        if ready:
            process.wait_until(lambda: http_status(f"http://{address}/readyz") == 200, 300.0)
        return process

    def submit(self, *names: str, nodes: int = 2) -> None:
        """Create jobs that are checked and trained, and neither prepared nor evaluated."""
        items = [job_object(name, self.namespace, nodes) for name in names]
        self.kubectl("create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """Run kubectl as admin in the namespace; raises KubectlError."""
        return self.control_plane.kubectl(*arguments, f"--namespace={self.namespace}", input=input, seconds=300.0)

    def list(self, kinds: str) -> list[Object]:
        """Return the objects of these kinds in the namespace."""
        found: list[Object] = json.loads(self.kubectl("get", kinds, "-o", "json"))["items"]
        return found

    def jobs(self) -> dict[str, Object]:
        """Return the UniMRGJobs by name."""
        return {item["metadata"]["name"]: item for item in self.list(f"{PLURAL}.{GROUP}")}

    def phases(self) -> dict[str, str]:
        """Return the phase of each job."""
        return {name: item.get("status", {}).get("phase", "Pending") for name, item in self.jobs().items()}

    def children(self) -> dict[str, str]:
        """Return name and uid of every child."""
        items = self.list("jobs.batch,pytorchjobs.kubeflow.org")
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in items}

    def ends(self) -> dict[str, Any]:
        """Return what must not depend on disturbances: each job's phase, and its stages' attempts and states."""
        return {
            name: (
                item["status"].get("phase"),
                [
                    (stage["name"], stage.get("attempt", 0), stage["state"])
                    for stage in item["status"].get("stages", [])
                ],
            )
            for name, item in self.jobs().items()
        }

    def all_over(self) -> bool:
        """Whether every job has ended."""
        return all(phase in _TERMINAL for phase in self.phases().values())

    def until(self, holds: Callable[[], Any], seconds: float = 60.0) -> Any:
        """Return what is asked for as soon as it is true; fails with the state of all jobs and the operators' logs."""
        deadline = time.monotonic() + seconds
        while not (found := holds()):
            if time.monotonic() > deadline:
                logs = "\n\n".join(process.last_lines() for process in self.processes)
                pytest.fail(f"it does not get there: {self.phases()}\n{self.children()}\n{logs}", pytrace=False)
            time.sleep(0.2)
        return found

    def _start_kwok(self, run_seconds: float) -> None:
        assets = find_assets("kwok")
        stages = []
        for stage in yaml.safe_load_all((assets / "manifests" / "kwok" / "stages.yaml").read_text()):
            if stage["metadata"]["name"].startswith("pod-"):
                stage["spec"]["delay"] = {"durationMilliseconds": 50}
            if stage["metadata"]["name"] == "pod-complete":
                stages.append(_of_trainings(stage, run_seconds))
                stage["spec"]["selector"]["matchExpressions"] += [
                    {"key": ".metadata.ownerReferences.[].kind", "operator": "In", "values": ["Job"]}
                ]
            stages.append(stage)
        path, port = self.folder / "stages.yaml", free_port()
        path.write_text(yaml.safe_dump_all(stages))
        kwok = GuardedProcess(
            [
                assets / "kwok",
                f"--kubeconfig={self.control_plane.kubeconfig}",
                "--node-lease-duration-seconds=40",
                f"--config={path}",
                "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
                f"--server-address=127.0.0.1:{port}",
            ],
            self.folder / "kwok.log",
            environment={**os.environ, "HOME": str(self.folder)},
        )
        self.processes.append(kwok)
        kwok.wait_until(lambda: http_status(f"http://127.0.0.1:{port}/healthz") == 200, 60.0)
        amounts = {"cpu": "100000k", "memory": "1Pi", "pods": "1M"}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        }
        self.control_plane.kubectl("create", "-f", "-", input=json.dumps(node))
        status = json.dumps({"status": {"capacity": amounts, "allocatable": amounts}})
        self.control_plane.kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", f"--patch={status}")


def job_object(name: str, namespace: str, nodes: int = 2) -> Object:
    """Return a job of pods without GPUs that needs no preparation and is not evaluated."""
    item: Object = YAML(typ="safe").load(_ROOT / "examples" / "quickstart-s3.yaml")
    item["metadata"] = {"name": name, "namespace": namespace}
    del item["spec"]["data"]["sources"]
    item["spec"] |= {"runPolicy": {"backoffSeconds": 0}, "stages": {"evaluate": {"mode": "Never"}}}
    item["spec"]["trainer"]["nodes"] = nodes
    return item


def _of_trainings(stage: Object, run_seconds: float) -> Object:
    own: Object = json.loads(json.dumps(stage))
    own["metadata"]["name"] = "pod-complete-training"
    own["spec"]["delay"] = {"durationMilliseconds": int(run_seconds * 1000)}
    own["spec"]["selector"]["matchExpressions"] += [
        {"key": ".metadata.ownerReferences.[].kind", "operator": "In", "values": ["PyTorchJob"]}
    ]
    return own


@contextmanager
def fresh_kwok_cluster(folder: Path, run_seconds: float = 1.0) -> Iterator[KwokCluster]:
    """A control plane of its own with such a namespace, for benchmarks."""
    plane = ControlPlane(folder / "control-plane", find_assets())
    plane.start()
    try:
        plane.create_namespace("bench")
        cluster = KwokCluster(plane, "bench", folder)
        try:
            cluster.start(run_seconds)
            yield cluster
        finally:
            for process in cluster.processes:
                process.kill()
    finally:
        plane.stop()


@pytest.fixture
def kwok_cluster(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[KwokCluster]:
    """A namespace of the test's own with UniMRG's objects, where kwok runs the pods; no operator runs yet."""
    cluster = KwokCluster(control_plane, namespace, tmp_path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
