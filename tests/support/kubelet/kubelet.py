"""The kubelet itself: nodes, their leases, and which pods they run."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_plane import ControlPlane
from tests.support.kubelet.api import Api, Object
from tests.support.kubelet.logs import LogServer
from tests.support.kubelet.pods import Place, Pod
from tests.support.kubelet.status import timestamp

NODES = ("node-0", "node-1")
LEASE_SECONDS = 1.0
"""How often leases are renewed; the control plane of the tests gives up a node after 8 s."""
HOST = "127.0.0.1"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_log = logging.getLogger(__name__)


class ProcessKubelet:
    """Plays two nodes of 64 CPUs in threads of the test process; what it runs dies with that.

    Logs of containers stay in `kubelet/logs/NAMESPACE/POD.NUMBER/` of the control plane's folder.
    """

    def __init__(self, control_plane: ControlPlane) -> None:
        self.folder = control_plane.folder / "kubelet"
        self._control_plane = control_plane
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._pods: dict[str, Pod] = {}
        self._lost: set[str] = set()
        """Nodes that are switched off."""
        self._numbers = iter(range(1, 1 << 30))
        # Kubelets of several sessions share the machine's loopback addresses.
        self._network = f"127.{random.SystemRandom().randint(1, 254)}"
        # The image: this Python with what is installed in it, this machine's programs, and nothing of our environment.
        # A home that all pods share keeps what their programs would otherwise make anew each time.
        self._image = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "GLOO_SOCKET_IFNAME": "lo",
            **{name: os.environ[name] for name in ("LANG", "OMP_NUM_THREADS") if name in os.environ},
        }

    def start(self) -> None:
        """Register the nodes and run what is bound to them; returns when they are Ready."""
        (self.folder / "home").mkdir(parents=True)
        # Not below the test's folder: paths of sockets (108 characters at most) lie in there.
        self._pods_folder = Path(tempfile.mkdtemp(prefix="kubelet-"))
        self._api = Api(self._control_plane.kubeconfig, self._stopped)
        certificates = self._control_plane.folder / "certificates"
        self._log_server = LogServer(HOST, certificates / "apiserver.crt", certificates / "apiserver.key", self._find)
        for name in NODES:
            self._api.request("POST", "/api/v1/nodes", _node(name, self._log_server.port))
            self._api.request("POST", _LEASES, _lease(name))
        threading.Thread(target=self._renew_leases, name="leases", daemon=True).start()
        follow = ("/api/v1/pods", self._changed, self._listed)
        threading.Thread(target=self._api.follow, args=follow, name="pods", daemon=True).start()
        self._control_plane.kubectl("wait", "--for=condition=Ready", "node", *NODES, "--timeout=30s")

    def stop(self) -> None:
        """Kill everything that it runs, without a word to the API server, and take away the folders of pods."""
        self._stopped.set()
        self._log_server.close()
        pods = list(self._pods.values())
        for pod in pods:
            pod.abandon()
        for pod in pods:
            pod.join()
        shutil.rmtree(self._pods_folder, ignore_errors=True)

    def kill_container(self, pod: str, namespace: str) -> None:
        """Send SIGKILL to the first container of a pod that runs and to all its descendants; it ends with 137."""
        running = [item for item in self._running(namespace, pod).containers if item.state.running]
        running[0].signal(signal.SIGKILL)

    def processes(self, pod: str, namespace: str) -> list[int]:
        """Return the pids of all processes of a pod."""
        return [process for item in self._running(namespace, pod).containers for process in item.processes()]

    def switch_off(self, node: str) -> None:
        """Let a node vanish with all its processes, without a word to the API server."""
        self._lost.add(node)
        with self._lock:
            pods = [pod for pod in self._pods.values() if pod.pod["spec"]["nodeName"] == node]
        for pod in pods:
            pod.abandon()

    def switch_on(self, node: str) -> None:
        """Let it come back, with no process; returns when it is Ready."""
        status = {"status": {"conditions": _node(node, self._log_server.port)["status"]["conditions"]}}
        self._lost.discard(node)
        self._renew_lease(node)
        self._api.request("PATCH", f"/api/v1/nodes/{node}/status", status, "application/strategic-merge-patch+json")
        self._control_plane.kubectl("wait", "--for=condition=Ready", "node", node, "--timeout=30s")

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
        if pod["spec"].get("nodeName") not in {*NODES} - self._lost:
            return
        known = self._pods.get(metadata["uid"])
        if known is None and pod["status"].get("phase") in ("Succeeded", "Failed"):
            return
        if known is None:
            number = next(self._numbers)
            logs = self.folder / "logs" / metadata["namespace"] / f"{metadata['name']}.{number}"
            address = f"{self._network}.{number // 250 % 250}.{number % 250 + 1}"
            folder = self._pods_folder / str(number)
            folder.mkdir()
            logs.mkdir(parents=True)
            known = Pod(self._api, pod, Place(address, HOST, folder, logs, self._image))
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

    def _find(self, namespace: str, name: str) -> Pod | None:
        with self._lock:
            pods = list(self._pods.values())
        wanted = {"namespace": namespace, "name": name}
        return next((pod for pod in pods if pod.pod["metadata"].items() >= wanted.items()), None)

    # --- leases ---------------------------------------------------------------------------------------------

    def _renew_leases(self) -> None:
        while not self._stopped.wait(LEASE_SECONDS):
            for name in {*NODES} - self._lost:
                try:
                    self._renew_lease(name)
                except Exception as error:
                    _log.warning("lease of %s: %s", name, error)

    def _renew_lease(self, node: str) -> None:
        body = {"spec": _lease(node)["spec"]}
        self._api.request("PATCH", f"{_LEASES}/{node}", body, "application/merge-patch+json")


def _node(name: str, log_port: int) -> Object:
    capacity = {"cpu": "64", "memory": "256Gi", "pods": "110", "ephemeral-storage": "100Gi"}
    now = timestamp(time.time())
    times = {"lastHeartbeatTime": now, "lastTransitionTime": now}
    reports = {"Ready": "True", "MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False"}
    unknown = ("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "kubeProxyVersion")
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [
                {"type": kind, "status": value, "reason": "ProcessKubelet", "message": "plays a node", **times}
                for kind, value in reports.items()
            ],
            # Without a host name, which the API server would prefer and could not resolve.
            "addresses": [{"type": "InternalIP", "address": HOST}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": log_port}},
            "nodeInfo": {
                **dict.fromkeys(unknown, "unknown"),
                "containerRuntimeVersion": "process://1",
                "kubeletVersion": "v1.37.0",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
        },
    }


def _lease(node: str) -> Object:
    spec = {"holderIdentity": node, "leaseDurationSeconds": 40}
    spec["renewTime"] = timestamp(time.time()).replace("Z", ".000000Z")
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node}, "spec": spec}


@pytest.fixture(scope="session")
def kubelet(control_plane: ControlPlane) -> Iterator[ProcessKubelet]:
    """The nodes node-0 and node-1 (64 CPUs, no GPU), on which all tests of a session run pods."""
    kubelet = ProcessKubelet(control_plane)
    kubelet.start()
    yield kubelet
    kubelet.stop()
