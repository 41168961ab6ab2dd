"""The status of a pod as a kubelet reports it, from the states of its containers: pure."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
MESSAGE_BYTES = 4096
"""Longest termination message."""


def timestamp(seconds: float) -> str:
    """Return a Unix time as the API writes it, to the second."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class ContainerState:
    """Where a container stands. Times are Unix times in seconds."""

    name: str
    image: str
    waiting_reason: str = "ContainerCreating"
    waiting_message: str = ""
    started: float | None = None
    exit_code: int | None = None
    """Set where it has ended; 128 + N if signal N killed it."""
    reason: str = ""
    message: str = ""
    finished: float = 0.0
    process: int = 0

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self.started is not None and self.exit_code is None

    def state(self) -> Object:
        """Return the API's `state`."""
        identity = f"process://{self.process}"
        if self.exit_code is not None:
            ended = {
                "exitCode": self.exit_code,
                "reason": self.reason,
                "startedAt": timestamp(self.started or self.finished),
                "finishedAt": timestamp(self.finished),
                "containerID": identity,
            }
            return {"terminated": ended | ({"message": self.message} if self.message else {})}
        if self.started is not None:
            return {"running": {"startedAt": timestamp(self.started)}}
        waiting = {"reason": self.waiting_reason}
        return {"waiting": waiting | ({"message": self.waiting_message} if self.waiting_message else {})}

    def status(self) -> Object:
        """Return the API's `containerStatuses` entry."""
        return {
            "name": self.name,
            "image": self.image,
            "imageID": self.image if self.process else "",
            "containerID": f"process://{self.process}" if self.process else "",
            "ready": self.running,
            "started": self.running,
            "restartCount": 0,
            "state": self.state(),
            "lastState": {},
        }


def phase_of(containers: list[ContainerState]) -> str:
    """Return the phase of a pod whose containers are never started again."""
    codes = [item.exit_code for item in containers]
    if None not in codes:
        return "Failed" if any(codes) else "Succeeded"
    return "Running" if any(item.process for item in containers) else "Pending"


def pod_status(
    containers: list[ContainerState],
    *,
    started: float,
    now: float,
    changed: dict[str, tuple[str, float]],
    address: str,
    host: str,
) -> Object:
    """Return the pod's status. `changed` holds each condition's last (status, since) and is brought up to date."""
    phase = phase_of(containers)
    ready = all(item.running for item in containers)
    why = {"reason": "PodCompleted"} if phase == "Succeeded" else {"reason": "ContainersNotReady"}
    conditions = []
    for name, holds in (
        ("PodReadyToStartContainers", phase not in ("Succeeded", "Failed")),
        ("Initialized", True),
        ("ContainersReady", ready),
        ("Ready", ready),
    ):
        value = "True" if holds else "False"
        if changed.get(name, ("", 0.0))[0] != value:
            changed[name] = (value, now)
        condition = {"type": name, "status": value, "lastTransitionTime": timestamp(changed[name][1])}
        # None takes away the reason of before: reports are merged.
        conditions.append(condition | ({"reason": None} if holds else why))
    return {
        "phase": phase,
        "startTime": timestamp(started),
        "hostIP": host,
        "hostIPs": [{"ip": host}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": conditions,
        "containerStatuses": [item.status() for item in containers],
    }
