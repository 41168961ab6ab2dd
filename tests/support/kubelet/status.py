"""The status of a pod as a kubelet reports it, from the states of its containers: pure."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any, Literal

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
    restarts: int = 0
    last: Object = field(default_factory=dict)
    """The terminated state before the last restart."""

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

    def status(self, init: bool) -> Object:
        """Return the API's `containerStatuses` entry; an init container is ready once it has succeeded."""
        return {
            "name": self.name,
            "image": self.image,
            "imageID": self.image if self.process else "",
            "containerID": f"process://{self.process}" if self.process else "",
            "ready": self.exit_code == 0 if init else self.running,
            "started": self.running,
            "restartCount": self.restarts,
            "state": self.state(),
            "lastState": self.last,
        }


Phase = Literal["Pending", "Running", "Succeeded", "Failed"]


def phase(init: list[ContainerState], main: list[ContainerState], restart_policy: str, ending: bool = False) -> Phase:
    """Return the phase of a pod; `ending` where nothing will be started or restarted any more."""
    again = not ending
    if any(item.exit_code for item in init) and not (again and restart_policy != "Never"):
        return "Failed"
    ended = [item for item in main if item.exit_code is not None]
    if len(ended) == len(main) and not (again and restart_policy == "Always"):
        if all(item.exit_code == 0 for item in ended):
            return "Succeeded"
        if not again or restart_policy == "Never":
            return "Failed"
    return "Running" if any(item.process for item in main) else "Pending"


def pod_status(
    init: list[ContainerState],
    main: list[ContainerState],
    *,
    pod_phase: Phase,
    started: float,
    now: float,
    changed: dict[str, tuple[str, float]],
    address: str,
    host: str,
) -> Object:
    """Return the pod's status. `changed` holds each condition's last (status, since) and is brought up to date."""
    over = pod_phase in ("Succeeded", "Failed")
    ready = all(item.running for item in main)
    why = {"reason": "PodCompleted"} if pod_phase == "Succeeded" else {"reason": "ContainersNotReady"}
    conditions = []
    for name, holds, reason in (
        ("PodReadyToStartContainers", not over, {}),
        ("Initialized", all(item.exit_code == 0 for item in init), {"reason": "ContainersNotInitialized"}),
        ("ContainersReady", ready, why),
        ("Ready", ready, why),
    ):
        value = "True" if holds else "False"
        if changed.get(name, ("", 0.0))[0] != value:
            changed[name] = (value, now)
        condition = {"type": name, "status": value, "lastTransitionTime": timestamp(changed[name][1])}
        # None takes away the reason of before: reports are merged.
        conditions.append(condition | ({"reason": None} if holds else reason))
    return {
        "phase": pod_phase,
        "startTime": timestamp(started),
        "hostIP": host,
        "hostIPs": [{"ip": host}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": conditions,
        "initContainerStatuses": [item.status(init=True) for item in init],
        "containerStatuses": [item.status(init=False) for item in main],
    }
