"""Pods of one namespace, made and watched by a test through the API server alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.support.control_plane import ControlPlane, KubectlError

Object = dict[str, Any]
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""A container's security context that the level `restricted` takes."""


def shell(script: str, *, name: str = "main", **fields: Any) -> Object:
    """Return a container that runs a shell script."""
    command = ["sh", "-c", script]
    return {"name": name, "image": "none", "command": command, "securityContext": RESTRICTED, **fields}


class Pods:
    """Makes pods and waits for what becomes of them."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self.control_plane = control_plane
        self.namespace = namespace

    def run(
        self,
        name: str,
        *containers: Object,
        annotations: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        **spec: Any,
    ) -> None:
        """Create a pod that is not restarted, unless the spec says otherwise."""
        metadata = {"name": name, "labels": dict(labels or {}), "annotations": dict(annotations or {})}
        spec = {"restartPolicy": "Never", "containers": list(containers), **spec}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        self.control_plane.apply(pod, namespace=self.namespace)

    def get(self, name: str) -> Object | None:
        """Return a pod, None if there is none."""
        try:
            found: Object = self.control_plane.get("pod", name, f"--namespace={self.namespace}")
        except KubectlError as error:
            if "NotFound" in str(error):
                return None
            raise
        return found

    def wait(self, name: str, holds: Callable[[Object], Any], seconds: float = 30.0) -> Object:
        """Return the pod as soon as something holds of it; fails with the pod as it is then."""
        deadline = time.monotonic() + seconds
        while True:
            pod = self.get(name)
            if pod is not None and holds(pod):
                return pod
            assert time.monotonic() < deadline, f"pod {name} does not get there: {json.dumps(pod, indent=1)}"
            time.sleep(0.1)

    def wait_for_phase(self, name: str, *phases: str, seconds: float = 30.0) -> Object:
        """Return the pod as soon as it is in one of the phases."""
        return self.wait(name, lambda pod: pod["status"]["phase"] in phases, seconds)

    def wait_until_gone(self, name: str, seconds: float = 30.0) -> None:
        """Return as soon as there is no such pod."""
        deadline = time.monotonic() + seconds
        while self.get(name) is not None:
            assert time.monotonic() < deadline, f"pod {name} does not go"
            time.sleep(0.1)

    def delete(self, name: str, grace: int) -> None:
        """Ask a pod to end within so many seconds."""
        self.control_plane.kubectl(
            "delete", "pod", name, f"--namespace={self.namespace}", f"--grace-period={grace}", "--wait=false"
        )

    def logs(self, name: str, *options: str) -> str:
        """Return what `kubectl logs` prints."""
        return self.control_plane.kubectl("logs", name, f"--namespace={self.namespace}", *options)


def container_state(pod: Object, container: str = "main") -> Object:
    """Return the `state` of a container."""
    statuses: Sequence[Object] = pod["status"].get("containerStatuses", [])
    return next((item["state"] for item in statuses if item["name"] == container), {})


def terminated(pod: Object, container: str = "main") -> Object:
    """Return how a container has ended; {} if it has not."""
    result: Object = container_state(pod, container).get("terminated", {})
    return result


def condition(pod: Object, name: str) -> Object:
    """Return a condition of the pod, {} if it has none of that name."""
    return next((item for item in pod["status"].get("conditions", []) if item["type"] == name), {})
