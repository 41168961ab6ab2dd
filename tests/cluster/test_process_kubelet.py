"""The kubelet of the tests keeps a kubelet's contract, seen through the API server."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.alive import alive
from tests.support.control_plane import ControlPlane, KubectlError
from tests.support.kubelet import ProcessKubelet
from tests.support.pods import Pods, condition, container_state, shell, terminated


def test_a_pod_reports_its_exit_code_message_and_times(pods: Pods) -> None:
    pods.run("ends", shell('echo out; echo err >&2; printf "finished" > $UNIMRG_TERMINATION_LOG; sleep 1.2; exit 75'))
    pod = pods.wait_for_phase("ends", "Failed")
    end = terminated(pod)
    assert (end["exitCode"], end["reason"], end["message"]) == (75, "Error", "finished")
    assert end["startedAt"] < end["finishedAt"]
    assert pod["status"]["podIP"].startswith("127.")
    assert pod["status"]["hostIP"] == "127.0.0.1"
    for name, value in {
        "PodScheduled": "True",
        "Initialized": "True",
        "ContainersReady": "False",
        "Ready": "False",
    }.items():
        assert condition(pod, name)["status"] == value, name
    assert pods.logs("ends").split() == ["out", "err"]


def test_a_running_pod_is_ready_and_its_log_can_be_followed(pods: Pods, control_plane: ControlPlane) -> None:
    pods.run("writes", shell("for i in 1 2 3 4; do echo line $i; sleep 0.4; done"))
    pod = pods.wait("writes", lambda pod: container_state(pod).get("running"))
    assert (pod["status"]["phase"], condition(pod, "Ready")["status"]) == ("Running", "True")
    assert "line 4" in pods.logs("writes", "--follow")
    assert pods.logs("writes", "--tail=1") == "line 4\n"


def test_a_container_waits_for_its_secret(pods: Pods, control_plane: ControlPlane) -> None:
    def key(variable: str, secret: str, optional: bool = False) -> dict[str, object]:
        return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": "k", "optional": optional}}}

    variables = [key("KEY", "late"), key("OTHER", "never", optional=True)]
    pods.run("waits", shell("echo $KEY ${OTHER-unset}", env=variables))
    pod = pods.wait("waits", lambda pod: container_state(pod).get("waiting", {}).get("message"))
    waiting = container_state(pod)["waiting"]
    assert waiting == {"reason": "CreateContainerConfigError", "message": 'secret "late" not found'}
    assert pod["status"]["phase"] == "Pending"
    control_plane.kubectl("create", "secret", "generic", "late", "--from-literal=k=v", f"--namespace={pods.namespace}")
    pods.wait_for_phase("waits", "Succeeded")
    assert pods.logs("waits") == "v unset\n"


def test_a_pod_that_ignores_sigterm_is_killed_after_its_grace(pods: Pods, kubelet: ProcessKubelet) -> None:
    pods.run("ignores", shell("trap '' TERM; echo up; setsid sleep 600 & while :; do sleep 0.1; done"))
    pods.wait("ignores", lambda pod: container_state(pod).get("running") and pods.logs("ignores"))
    processes = kubelet.processes("ignores", pods.namespace)
    assert len(processes) >= 2
    began = time.monotonic()
    pods.delete("ignores", grace=2)
    pods.wait_until_gone("ignores")
    assert 1.5 < time.monotonic() - began < 10
    assert not any(map(alive, processes))


def test_a_killed_container_takes_all_its_descendants_along(pods: Pods, kubelet: ProcessKubelet) -> None:
    # The middle process ends at once, so that the last one is an orphan, as ranks are when their launcher dies.
    pods.run("tree", shell("(setsid sh -c 'sleep 600 & sleep 601' &); echo up; sleep 602"))
    pods.wait("tree", lambda pod: container_state(pod).get("running") and pods.logs("tree"))
    deadline = time.monotonic() + 10
    while len(processes := kubelet.processes("tree", pods.namespace)) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert {_command(process)[0] for process in processes} == {"sh", "sleep"}
    kubelet.kill_container("tree", pods.namespace)
    pod = pods.wait_for_phase("tree", "Failed")
    assert (terminated(pod)["exitCode"], terminated(pod)["reason"]) == (137, "Error")
    assert not any(map(alive, processes))


def test_an_end_during_an_outage_of_the_api_server_is_reported_later(pods: Pods, control_plane: ControlPlane) -> None:
    pods.run("meanwhile", shell("sleep 0.5; exit 4"))
    pods.wait("meanwhile", lambda pod: container_state(pod).get("running"))
    control_plane.restart("kube-apiserver")
    assert terminated(pods.wait_for_phase("meanwhile", "Failed"))["exitCode"] == 4


def test_a_dead_node_is_detected_and_its_pod_stays_as_it_was(
    pods: Pods, kubelet: ProcessKubelet, control_plane: ControlPlane, doomed_node: str
) -> None:
    pods.run("lost", shell("sleep 600", resources={"limits": {"nvidia.com/gpu": 2}}))
    pod = pods.wait("lost", lambda pod: container_state(pod).get("running"))
    assert pod["spec"]["nodeName"] == doomed_node
    processes = kubelet.processes("lost", pods.namespace)
    kubelet.kill_node(doomed_node)
    assert not any(map(alive, processes))
    control_plane.kubectl("wait", "--for=condition=Ready=Unknown", f"node/{doomed_node}", "--timeout=30s")
    pod = pods.wait("lost", lambda pod: condition(pod, "Ready")["status"] == "False")
    assert (pod["status"]["phase"], "running" in container_state(pod)) == ("Running", True)
    with pytest.raises(KubectlError):
        pods.logs("lost")
    pods.delete("lost", grace=1)
    time.sleep(3)
    assert pods.get("lost") is not None


def test_processes_of_pods_die_with_the_kubelet(control_plane: ControlPlane, namespace: str) -> None:
    own = ProcessKubelet(control_plane, nodes=["short-lived"], folder=control_plane.folder / "short-lived")
    own.start()
    pods = Pods(control_plane, namespace)
    pods.run("orphan", shell("setsid sleep 600 & sleep 600"), nodeName="short-lived")
    pods.wait("orphan", lambda pod: container_state(pod).get("running"))
    deadline = time.monotonic() + 10
    while len(processes := own.processes("orphan", namespace)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert own.process is not None
    own.process.kill()
    own.process.wait()
    own.stop()
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, processes))
    control_plane.kubectl("delete", "node", "short-lived")


def _command(process: int) -> list[str]:
    return Path(f"/proc/{process}/cmdline").read_text().split("\0")
