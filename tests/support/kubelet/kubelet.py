"""The kubelet itself: nodes, their leases, and which pods they run."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.certificates import loopback, write_server_certificate
from tests.support.kubelet.api import Api, Object
from tests.support.kubelet.logs import LogServer
from tests.support.kubelet.pods import Place, Pod
from tests.support.kubelet.status import timestamp

LEASE_SECONDS = 1.0
"""How often leases are renewed; the control plane of the tests gives up a node after 8 s."""
HOST = "127.0.0.1"
_log = logging.getLogger(__name__)


class Node:
    """One node object, and the server of its pods' logs."""

    def __init__(self, name: str, server: LogServer) -> None:
        self.name = name
        self.server = server
        self.alive = True


class Kubelet:
    """Its public methods are the commands of `handle.ProcessKubelet`; they come from one thread."""

    def __init__(self, api: Api, folder: Path, pods_folder: Path) -> None:
        self._api = api
        self._folder = folder
        self._pods_folder = pods_folder
        self._certificate = write_server_certificate(folder, loopback([HOST]))
        self._lock = threading.Lock()
        self._nodes: dict[str, Node] = {}
        self._pods: dict[str, Pod] = {}
        self._numbers = iter(range(1, 1 << 30))
        # Kubelets of several sessions share the machine's loopback addresses.
        self._network = f"127.{random.SystemRandom().randint(1, 254)}"
        # The image: this Python with what is installed in it, this machine's programs, and nothing of our environment.
        # A home that all pods share keeps what their programs would otherwise make anew each time.
        self._image = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "GLOO_SOCKET_IFNAME": "lo",
        }
        (folder / "home").mkdir(exist_ok=True)
        for name in ("LANG", "OMP_NUM_THREADS"):
            if name in os.environ:
                self._image[name] = os.environ[name]

    def start(self) -> None:
        """Start renewing leases and following pods."""
        threading.Thread(target=self._renew, name="leases", daemon=True).start()
        follow = ("/api/v1/pods", self._changed, self._listed)
        threading.Thread(target=self._api.follow, args=follow, name="pods", daemon=True).start()

    def stop(self) -> None:
        """Kill everything, and take away the folders of pods."""
        for pod in list(self._pods.values()):
            pod.abandon()
        for pod in list(self._pods.values()):
            pod.join()
        shutil.rmtree(self._pods_folder, ignore_errors=True)

    # --- commands -------------------------------------------------------------------------------------------

    def environment(self, values: Mapping[str, str]) -> None:
        """Add to the image's environment."""
        self._image |= values

    def add_node(self, name: str, cpu: int, memory: str, gpus: int, labels: Mapping[str, str]) -> None:
        """Register a node and its lease."""
        server = LogServer(HOST, self._certificate, lambda namespace, pod: self._find(namespace, pod, name))
        capacity = {"cpu": str(cpu), "memory": memory, "pods": "110", "ephemeral-storage": "100Gi"}
        if gpus:
            capacity["nvidia.com/gpu"] = str(gpus)
        now = timestamp(time.time())
        reports = {"Ready": "True", "MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False"}
        conditions = [
            {"type": kind, "status": value, "reason": "ProcessKubelet", "message": "plays a node"}
            | {"lastHeartbeatTime": now, "lastTransitionTime": now}
            for kind, value in reports.items()
        ]
        own_labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {**own_labels, **labels}},
            "status": {
                "capacity": capacity,
                "allocatable": capacity,
                "conditions": conditions,
                # Without a host name, which the API server would prefer and could not resolve.
                "addresses": [{"type": "InternalIP", "address": HOST}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": server.port}},
                "nodeInfo": _node_info(),
            },
        }
        # First, as a pod may be bound as soon as the node is there.
        self._nodes[name] = Node(name, server)
        self._api.request("POST", "/api/v1/nodes", node)
        self._api.request("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", _lease(name))

    def kill_node(self, name: str) -> None:
        """Stop everything of a node, silently."""
        node = self._nodes[name]
        node.alive = False
        node.server.close()
        with self._lock:
            pods = [pod for pod in self._pods.values() if pod.pod["spec"]["nodeName"] == name]
        for pod in pods:
            pod.abandon()
        for pod in pods:
            pod.join()

    def kill_container(self, pod: str, namespace: str, number: int, container: str | None, reason: str) -> None:
        """Send a signal to a container's main process."""
        found = self._running(namespace, pod)
        running = [item for item in found.containers if item.state.running and container in (None, item.state.name)]
        if not running:
            raise LookupError(f"no container {container or ''} runs in pod {namespace}/{pod}")
        running[0].signal(number, "" if reason == "Error" else reason)

    def processes(self, pod: str, namespace: str) -> list[int]:
        """Return the pids of a pod's processes."""
        return [process for item in self._running(namespace, pod).containers for process in item.processes()]

    # --- pods -----------------------------------------------------------------------------------------------

    def _listed(self, pods: list[Object]) -> None:
        present = {pod["metadata"]["uid"] for pod in pods}
        for uid in [uid for uid in self._pods if uid not in present]:
            self._removed(uid)
        for pod in pods:
            self._present(pod)

    def _changed(self, change: Object) -> None:
        if change["type"] == "DELETED":
            self._removed(change["object"]["metadata"]["uid"])
        else:
            self._present(change["object"])

    def _present(self, pod: Object) -> None:
        metadata = pod["metadata"]
        node = self._nodes.get(pod["spec"].get("nodeName", ""))
        if node is None or not node.alive:
            return
        known = self._pods.get(metadata["uid"])
        if known is None and pod["status"].get("phase") in ("Succeeded", "Failed"):
            return
        if known is None:
            number = next(self._numbers)
            logs = self._folder / "logs" / metadata["namespace"] / f"{metadata['name']}.{number}"
            address = f"{self._network}.{number // 250 % 250}.{number % 250 + 1}"
            folder = self._pods_folder / str(number)
            folder.mkdir()
            logs.mkdir(parents=True)
            known = Pod(self._api, pod, Place(address, HOST, folder, logs, dict(self._image)))
            with self._lock:
                self._pods[metadata["uid"]] = known
            known.start()
        if "deletionTimestamp" in metadata:
            known.terminate(float(metadata.get("deletionGracePeriodSeconds", 0)))

    def _removed(self, uid: str) -> None:
        with self._lock:
            pod = self._pods.pop(uid, None)
        if pod is not None:
            pod.abandon()

    def _running(self, namespace: str, name: str) -> Pod:
        if pod := self._find(namespace, name):
            return pod
        raise LookupError(f"pod {namespace}/{name} does not run here")

    def _find(self, namespace: str, name: str, node: str | None = None) -> Pod | None:
        with self._lock:
            pods = list(self._pods.values())
        for pod in pods:
            metadata = pod.pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, name) and node in (
                None,
                pod.pod["spec"]["nodeName"],
            ):
                return pod
        return None

    # --- leases ---------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        while True:
            for node in list(self._nodes.values()):
                if node.alive:
                    path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node.name}"
                    try:
                        body = {"spec": _lease(node.name)["spec"]}
                        self._api.request("PATCH", path, body, "application/merge-patch+json")
                    except Exception as error:
                        _log.warning("lease of %s: %s", node.name, error)
            time.sleep(LEASE_SECONDS)


def _lease(node: str) -> Object:
    spec = {"holderIdentity": node, "leaseDurationSeconds": 40}
    spec["renewTime"] = timestamp(time.time()).replace("Z", ".000000Z")
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node}, "spec": spec}


def _node_info() -> Object:
    unknown = ("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "kubeProxyVersion")
    return {
        **dict.fromkeys(unknown, "unknown"),
        "containerRuntimeVersion": "process://1",
        "kubeletVersion": "v1.37.0",
        "operatingSystem": "linux",
        "architecture": "amd64",
    }
