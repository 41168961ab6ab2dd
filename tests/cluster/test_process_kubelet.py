"""The kubelet of the tests keeps a kubelet's contract, seen through the API server; and a gang trains on it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.alive import alive
from tests.support.control_plane import ControlPlane, KubectlError
from tests.support.kubelet import ProcessKubelet
from tests.support.pods import RESTRICTED, Pods, condition, container_state, shell, terminated


def test_a_pod_reports_its_exit_code_its_last_word_and_its_times(pods: Pods) -> None:
    pods.run("ends", shell('echo out; echo err >&2; printf "last word" > $UNIMRG_TERMINATION_LOG; sleep 1.2; exit 75'))
    pod = pods.wait_for_phase("ends", "Failed")
    end = terminated(pod)
    assert (end["exitCode"], end["reason"], end["message"]) == (75, "Error", "last word")
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


def test_a_termination_message_is_cut_at_4096_bytes(pods: Pods) -> None:
    pods.run("talks", shell("head -c 5000 /dev/zero | tr '\\0' x > $UNIMRG_TERMINATION_LOG"))
    assert terminated(pods.wait_for_phase("talks", "Succeeded"))["message"] == "x" * 4096


def test_a_running_pod_is_ready_and_its_log_can_be_followed(pods: Pods, control_plane: ControlPlane) -> None:
    pods.run("writes", shell("for i in 1 2 3 4; do echo line $i; sleep 0.4; done"))
    pod = pods.wait("writes", lambda pod: container_state(pod).get("running"))
    assert (pod["status"]["phase"], condition(pod, "Ready")["status"]) == ("Running", "True")
    assert "line 4" in pods.logs("writes", "--follow")
    assert pods.logs("writes", "--tail=1") == "line 4\n"


def test_a_missing_secret_keeps_a_container_waiting_until_it_is_there(pods: Pods, control_plane: ControlPlane) -> None:
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


def test_variables_come_from_the_pod_from_config_maps_and_from_each_other(
    pods: Pods, control_plane: ControlPlane
) -> None:
    control_plane.kubectl(
        "create", "configmap", "settings", "--from-literal=COLOUR=red", f"--namespace={pods.namespace}"
    )

    def of_pod(variable: str, path: str) -> dict[str, object]:
        return {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    variables = [
        of_pod("RANK", "metadata.labels['training.kubeflow.org/replica-index']"),
        of_pod("NOTE", "metadata.annotations['note']"),
        of_pod("NAME", "metadata.name"),
        of_pod("UID", "metadata.uid"),
        of_pod("IP", "status.podIP"),
        of_pod("NODE", "spec.nodeName"),
        {"name": "BOTH", "value": "$(NAME)-$(RANK)-$(UNKNOWN)-$$(NAME)"},
    ]
    script = 'printf "%s\\n" "$RANK" "$NOTE" "$NAME" "$UID" "$IP" "$NODE" "$BOTH" "$APP_COLOUR" "$HOSTNAME" "$1"'
    container = shell(script, env=variables, envFrom=[{"prefix": "APP_", "configMapRef": {"name": "settings"}}])
    container["args"] = ["sh", "$(NAME)"]
    labels = {"training.kubeflow.org/replica-index": "7"}
    pods.run("asks", container, labels=labels, annotations={"note": "n"})
    pod = pods.wait_for_phase("asks", "Succeeded")
    about = [pod["metadata"]["uid"], pod["status"]["podIP"], pod["spec"]["nodeName"]]
    expected = ["7", "n", "asks", *about, "asks-7-$(UNKNOWN)-$(NAME)", "red", "asks", "asks"]
    assert pods.logs("asks").splitlines() == expected


def test_volumes_are_folders_behind_the_variables_that_name_their_paths(
    pods: Pods, control_plane: ControlPlane, tmp_path: Path
) -> None:
    where = f"--namespace={pods.namespace}"
    control_plane.kubectl("create", "configmap", "files", "--from-literal=hello=world", where)
    (tmp_path / "claimed").mkdir()
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}
    volume = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": str(tmp_path / "claimed")},
        "claimRef": {"namespace": pods.namespace, "name": "data"},
    }
    control_plane.apply(
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": pods.namespace}, "spec": volume},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data", "namespace": pods.namespace},
            "spec": {**claim, "volumeName": pods.namespace},
        },
    )
    volumes = [
        {"name": "scratch", "emptyDir": {}},
        {"name": "files", "configMap": {"name": "files"}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
    ]
    mounts = [
        {"name": "scratch", "mountPath": "/run/unimrg"},
        {"name": "files", "mountPath": "/etc/files"},
        {"name": "data", "mountPath": "/data"},
    ]
    variables = [
        {"name": "UNIMRG_RUN_DIR", "value": "/run/unimrg"},
        {"name": "FILE", "value": "/etc/files/hello"},
        {"name": "ADDRESS", "value": "file:///data/out"},
    ]
    script = 'cat $FILE && echo kept > "${ADDRESS#file://}" && cat $UNIMRG_RUN_DIR/note && cat $TOKEN_FOLDER/token'
    token = {"name": "TOKEN_FOLDER", "value": "/var/run/secrets/kubernetes.io/serviceaccount"}
    pods.run(
        "files",
        shell(script, env=[*variables, token], volumeMounts=mounts),
        initContainers=[
            shell("echo note > $UNIMRG_RUN_DIR/note", name="init", env=variables[:1], volumeMounts=mounts[:1])
        ],
        volumes=volumes,
    )
    pods.wait_for_phase("files", "Succeeded", "Failed")
    log = pods.logs("files")
    assert log.startswith("worldnote\neyJ")
    assert (tmp_path / "claimed" / "out").read_text() == "kept\n"
    control_plane.kubectl("delete", "persistentvolume", pods.namespace, "--wait=false")


def test_init_containers_run_in_order_and_the_first_failure_ends_the_pod(pods: Pods) -> None:
    first, second = shell("sleep 0.5", name="first"), shell("exit 3", name="second")
    pods.run("begins", shell("true"), initContainers=[first, second])
    pod = pods.wait_for_phase("begins", "Failed")
    one, two = (item["state"]["terminated"] for item in pod["status"]["initContainerStatuses"])
    assert (one["exitCode"], two["exitCode"]) == (0, 3)
    assert one["finishedAt"] <= two["startedAt"]
    assert "waiting" in container_state(pod)


def test_a_pod_that_restarts_on_failure_keeps_its_last_end(pods: Pods) -> None:
    script = "n=$(cat $STATE/n 2>/dev/null || echo 0); echo run $n; echo $((n + 1)) > $STATE/n; test $n = 1"
    state = {"env": [{"name": "STATE", "value": "/state"}], "volumeMounts": [{"name": "s", "mountPath": "/state"}]}
    pods.run("again", shell(script, **state), restartPolicy="OnFailure", volumes=[{"name": "s", "emptyDir": {}}])
    pod = pods.wait_for_phase("again", "Succeeded")
    status = pod["status"]["containerStatuses"][0]
    assert (status["restartCount"], status["lastState"]["terminated"]["exitCode"]) == (1, 1)
    assert (pods.logs("again"), pods.logs("again", "--previous")) == ("run 1\n", "run 0\n")


def test_a_deleted_pod_has_its_grace_to_end_by_itself(pods: Pods) -> None:
    pods.run("obeys", shell("trap 'echo heard; sleep 1; exit 85' TERM; echo up; while :; do sleep 0.1; done"))
    pods.wait("obeys", lambda pod: container_state(pod).get("running") and pods.logs("obeys"))
    # A finalizer keeps the object so that its last report can be read.
    pods.control_plane.kubectl(
        "patch", "pod", "obeys", f"--namespace={pods.namespace}", "--patch", '{"metadata":{"finalizers":["a/b"]}}'
    )
    pods.delete("obeys", grace=20)
    pod = pods.wait("obeys", terminated)
    assert terminated(pod)["exitCode"] == 85
    assert pod["status"]["phase"] == "Failed"
    pods.control_plane.kubectl(
        "patch", "pod", "obeys", f"--namespace={pods.namespace}", "--patch", '{"metadata":{"finalizers":null}}'
    )
    pods.wait_until_gone("obeys")


def test_a_deleted_pod_that_does_not_listen_is_killed_after_its_grace(pods: Pods, kubelet: ProcessKubelet) -> None:
    pods.run("ignores", shell("trap '' TERM; echo up; setsid sleep 600 & while :; do sleep 0.1; done"))
    pods.wait("ignores", lambda pod: container_state(pod).get("running") and pods.logs("ignores"))
    processes = kubelet.processes("ignores", pods.namespace)
    assert len(processes) >= 2
    began = time.monotonic()
    pods.delete("ignores", grace=2)
    pods.wait_until_gone("ignores")
    assert 1.5 < time.monotonic() - began < 10
    assert not any(map(alive, processes))


def test_a_killed_container_takes_grandchildren_in_sessions_of_their_own_along(
    pods: Pods, kubelet: ProcessKubelet
) -> None:
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


def test_one_process_of_a_pod_can_be_killed_by_its_variable(pods: Pods, kubelet: ProcessKubelet) -> None:
    pods.run("ranks", shell("RANK=0 sleep 600 & RANK=1 sleep 600 & wait $!; echo rank 1: $?"))
    pods.wait("ranks", lambda pod: container_state(pod).get("running"))
    deadline = time.monotonic() + 10
    while not (killed := kubelet.kill_process("ranks", pods.namespace, "^RANK=1$")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert killed == 1
    pods.wait_for_phase("ranks", "Succeeded")
    assert "rank 1: 137" in pods.logs("ranks")


def test_a_container_can_end_as_if_memory_had_run_out(pods: Pods, kubelet: ProcessKubelet) -> None:
    pods.run("eats", shell("sleep 600"))
    pods.wait("eats", lambda pod: container_state(pod).get("running"))
    kubelet.kill_container("eats", pods.namespace, reason="OOMKilled")
    end = terminated(pods.wait_for_phase("eats", "Failed"))
    assert (end["exitCode"], end["reason"]) == (137, "OOMKilled")


def test_a_command_that_is_not_there_is_a_start_error(pods: Pods) -> None:
    pods.run("wrong", {**shell(""), "command": ["no-such-program"]})
    end = terminated(pods.wait_for_phase("wrong", "Failed"))
    assert (end["exitCode"], end["reason"]) == (128, "StartError")
    assert "no-such-program" in end["message"]


def test_an_end_while_the_api_server_is_away_is_reported_when_it_is_back(
    pods: Pods, control_plane: ControlPlane
) -> None:
    pods.run("meanwhile", shell("sleep 0.5; exit 4"))
    pods.wait("meanwhile", lambda pod: container_state(pod).get("running"))
    control_plane.restart("kube-apiserver")
    assert terminated(pods.wait_for_phase("meanwhile", "Failed"))["exitCode"] == 4


def test_a_dead_node_is_found_out_and_its_pod_is_never_heard_of_again(
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


_ALL_REDUCE = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1) * (dist.get_rank() + 1)
dist.all_reduce(total)
print("rank", dist.get_rank(), "of", dist.get_world_size(), "total", int(total), flush=True)
dist.destroy_process_group()
"""


def test_a_gang_of_two_workers_without_a_master_reduces_and_succeeds(pods: Pods, control_plane: ControlPlane) -> None:
    control_plane.kubectl(
        "create", "configmap", "program", f"--from-literal=reduce.py={_ALL_REDUCE}", f"--namespace={pods.namespace}"
    )
    rank = {"fieldRef": {"fieldPath": "metadata.labels['training.kubeflow.org/replica-index']"}}
    container = {
        "name": "pytorch",
        "image": "none",
        "command": ["torchrun", "--nnodes=2", "--nproc-per-node=1", "--node-rank=$(NODE_RANK)"],
        "args": ["--master-addr=$(MASTER)", "--master-port=29500", "$(PROGRAM)"],
        "env": [
            {"name": "NODE_RANK", "valueFrom": rank},
            {"name": "MASTER", "value": "gang-worker-0"},
            {"name": "PROGRAM", "value": "/program/reduce.py"},
        ],
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "program", "mountPath": "/program"}],
    }
    volumes = [{"name": "program", "configMap": {"name": "program"}}]
    worker = {
        "replicas": 2,
        "restartPolicy": "Never",
        "template": {"spec": {"containers": [container], "volumes": volumes}},
    }
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "gang"},
        "spec": {
            "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": 0},
            "pytorchReplicaSpecs": {"Worker": worker},
        },
    }
    control_plane.apply(job, namespace=pods.namespace)
    control_plane.kubectl(
        "wait", "--for=condition=Succeeded", "pytorchjob/gang", f"--namespace={pods.namespace}", "--timeout=60s"
    )
    for index in (0, 1):
        assert f"rank {index} of 2 total 3" in pods.logs(f"gang-worker-{index}")


def _command(process: int) -> list[str]:
    return Path(f"/proc/{process}/cmdline").read_text().split("\0")
