"""The operator as a process with the rights of its own service account, at a real API server, through kill -9.

Nobody runs the pods here: the tests write into a pod's status what a kubelet would.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.control_plane import ControlPlane
from tests.support.guarded import GuardedProcess
from tests.support.ports import free_port
from tests.support.thread_job import stage
from tools.crd import crd
from unimrg_api.environment import ports
from unimrg_api.exit_codes import ExitCode
from unimrg_api.progress import Progress
from unimrg_api.termination import TerminationRecord
from unimrg_trainer.launch.progress_server import serve_progress

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
SYSTEM = "unimrg-system"
ACCOUNT = "unimrg-operator"
SECONDS = 30.0


class Operator:
    """The operator's process, started, killed and started again; and its namespace through an admin's eyes."""

    def __init__(self, control_plane: ControlPlane, namespace: str, folder: Path, *flags: str) -> None:
        self._flags = flags
        self.control_plane = control_plane
        self.namespace = namespace
        self._folder = folder
        self._kubeconfig = control_plane.service_account_kubeconfig(SYSTEM, ACCOUNT)
        self._starts = 0
        self._profile = folder / "profile.yaml"
        # No node is so large, so that no kubelet of the session runs these pods.
        pods = ("smallPod", "cpuPod", "gpuPod")
        self._profile.write_text(json.dumps({"resources": {pod: {"cpu": "1000", "memory": "1Gi"} for pod in pods}}))
        self.process = self.start()

    def start(self) -> GuardedProcess:
        self._starts += 1
        self.process = GuardedProcess(
            [
                Path(sys.executable).parent / "unimrg-operator",
                f"--namespace={self.namespace}",
                f"--kubeconfig={self._kubeconfig}",
                f"--profile={self._profile}",
                f"--metrics-address=127.0.0.1:{free_port()}",
                "--progress-seconds=1",
                *self._flags,
            ],
            self._folder / f"operator-{self._starts}.log",
            environment={**os.environ, "KUBECONFIG": "/nowhere"},
        )
        return self.process

    def kill_and_start(self) -> None:
        """Kill it where it stands and start another."""
        self.process.kill()
        self.start()

    def lines(self) -> list[Object]:
        """Everything that it logged, all processes."""
        logs = [self._folder / f"operator-{number + 1}.log" for number in range(self._starts)]
        return [json.loads(line) for log in logs for line in log.read_text().splitlines()]

    def submit(self, name: str = "tiny", **spec: Any) -> Object:
        """Create a job of two pods without GPUs that needs no preparation; with further fields of its spec."""
        item = YAML(typ="safe").load(ROOT / "examples" / "quickstart-s3.yaml")
        item["metadata"] = {"name": name, "namespace": self.namespace}
        del item["spec"]["data"]["sources"]
        item["spec"] |= {"runPolicy": {"backoffSeconds": 0}, "stages": {"evaluate": {"mode": "Never"}}, **spec}
        self.control_plane.kubectl("create", "-f", "-", input=json.dumps(item))
        return self.job(name)

    def job(self, name: str = "tiny") -> Object:
        found: Object = self.control_plane.get("unimrgjob", name, f"--namespace={self.namespace}")
        return found

    def condition(self, name: str, job: str = "tiny") -> Object:
        """A condition of a job; empty if it has none of that name."""
        conditions = self.job(job).get("status", {}).get("conditions", [])
        return next((item for item in conditions if item["type"] == name), {})

    def list(self, kind: str, selector: str = "") -> list[Object]:
        """The objects of a kind, oldest name first."""
        arguments = [f"--selector={selector}"] if selector else []
        items: list[Object] = self.control_plane.get(kind, f"--namespace={self.namespace}", *arguments)["items"]
        return sorted(items, key=lambda item: str(item["metadata"]["name"]))

    def children(self) -> dict[str, str]:
        """Name and uid of every child."""
        items = self.list("jobs.batch") + self.list("pytorchjobs")
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in items}

    def until(self, what: Callable[[], Any]) -> Any:
        """Return what is asked for as soon as it is true; fails with what there is and what was logged."""
        deadline = time.monotonic() + SECONDS
        while True:
            found = what()
            if found:
                return found
            if time.monotonic() > deadline:
                job = json.dumps(self.job().get("status"), indent=1)
                pytest.fail(f"it does not get there: {self.children()}\n{job}\n{self.process.last_lines()}")
            time.sleep(0.1)

    def until_pods(self, child: str, count: int) -> list[Object]:
        """Return the pods of a child once all of them are there."""

        def pods() -> list[Object]:
            found = self.list("pods", "training.unimrg.dev/job")
            return [pod for pod in found if pod["metadata"]["ownerReferences"][0]["name"] == child]

        self.until(lambda: len(pods()) == count)
        return pods()

    def run_pod(self, pod: Object) -> None:
        """Write what a kubelet writes about a pod that runs."""
        address = {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}
        self._set(pod, {"phase": "Running", **address, **container({"running": {"startedAt": now()}})})

    def end_pod(self, pod: Object, code: int = 0, **record: Any) -> None:
        """Write what a kubelet writes about a pod whose container ended, with the launcher's record."""
        message = TerminationRecord(exit_code=code, **record).to_json()
        reason = "Error" if code else "Completed"
        end = {"exitCode": code, "reason": reason, "message": message, "startedAt": now(), "finishedAt": now()}
        self._set(pod, {"phase": "Failed" if code else "Succeeded", **container({"terminated": end})})

    def _set(self, pod: Object, status: Object) -> None:
        where = ["pod", pod["metadata"]["name"], f"--namespace={self.namespace}", "--subresource=status"]
        self.control_plane.kubectl("patch", *where, "--type=merge", f"--patch={json.dumps({'status': status})}")


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def container(state: Object) -> Object:
    status = {"name": "pytorch", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": state}
    return {"containerStatuses": [status]}


@pytest.fixture
def operator(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Operator]:
    """An operator that looks after the test's own namespace, with the Role that is shipped."""
    control_plane.apply(
        crd(),
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": SYSTEM}},
    )
    control_plane.kubectl("wait", "--for=condition=Established", "crd/unimrgjobs.training.unimrg.dev")
    control_plane.kubectl(
        "apply", f"--namespace={namespace}", f"--filename={ROOT / 'manifests' / 'namespace' / 'role.yaml'}"
    )
    running = Operator(control_plane, namespace, tmp_path)
    yield running
    running.process.stop()


def test_a_job_succeeds_though_the_operator_is_killed_at_every_step(operator: Operator, tmp_path: Path) -> None:
    uid = operator.submit()["metadata"]["uid"]
    operator.until(lambda: "tiny-check-1" in operator.children())
    operator.kill_and_start()
    made = operator.children()
    (check,) = operator.list("jobs.batch")
    assert check["metadata"]["ownerReferences"][0]["uid"] == uid
    (pod,) = operator.until_pods("tiny-check-1", 1)
    operator.until(lambda: operator.job().get("status", {}).get("phase") == "Checking")
    assert operator.children() == made

    operator.process.kill()
    operator.end_pod(pod)  # it ends while nobody watches
    operator.start()
    pods = operator.until_pods("tiny-train-1", 2)
    for member in pods:
        operator.run_pod(member)
    progress = Progress(stage="train", step=120, total_steps=400, updated=time.time())
    (tmp_path / "progress.json").write_text(progress.to_json())
    with serve_progress(tmp_path, "127.0.0.1", ports(uid, 1)[1]):
        operator.until(lambda: operator.job()["status"].get("progress", {}).get("steps") == "120/400")
    assert operator.job()["status"]["phase"] == "Running"

    operator.process.kill()
    operator.end_pod(pods[1], int(ExitCode.INTERRUPTED), reason="Interrupted", step=130)
    operator.start()
    second = operator.until_pods("tiny-train-2", 2)
    operator.kill_and_start()
    for member in second:
        operator.run_pod(member)
    operator.until(lambda: operator.job()["status"]["phase"] == "Running")
    for member in second:
        operator.end_pod(member, step=400, total_steps=400)
    (finish,) = operator.until_pods("tiny-finish-1", 1)
    operator.end_pod(finish)
    operator.until(lambda: operator.job()["status"]["phase"] == "Succeeded")

    children = operator.children()
    assert list(children) == ["tiny-check-1", "tiny-finish-1", "tiny-train-1", "tiny-train-2"]
    assert children.items() >= made.items()
    train = stage(operator.job(), "train")
    assert (train["attempt"], train["state"]) == (2, "Succeeded")
    assert train["restartCounters"]["userRestarts"] == 0
    created = [line for line in operator.lines() if "CreateChild train-2" in line.get("actions", [])]
    assert created and set(created[0]) == {"time", "job", "uid", "attempt", "stages", "from", "to", "reason", "actions"}
    assert "s3-credentials" not in json.dumps(operator.lines())
    reasons = {
        event["reason"] for event in operator.list("events.events.k8s.io") if event["regarding"]["name"] == "tiny"
    }
    assert {"StageStarted", "AttemptFailed", "Completed"} <= reasons


def test_an_object_of_another_owner_blocks_the_job_until_it_is_gone(operator: Operator) -> None:
    pod = {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}
    foreign = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "tiny-check-1", "namespace": operator.namespace},
        "spec": {"suspend": True, "template": {"spec": pod}},
    }
    operator.control_plane.apply(foreign)
    operator.submit()

    operator.until(lambda: operator.condition("Accepted").get("reason") == "NameConflict")
    assert "tiny-check-1" in operator.condition("Accepted")["message"]
    assert "ownerReferences" not in operator.list("jobs.batch")[0]["metadata"]
    operator.control_plane.kubectl("delete", "job", "tiny-check-1", f"--namespace={operator.namespace}")
    operator.kill_and_start()  # it forgets the fault and tries at once
    operator.until(lambda: operator.condition("Accepted").get("status") == "Unknown")
    assert operator.list("jobs.batch")[0]["metadata"]["ownerReferences"][0]["name"] == "tiny"


def test_it_continues_after_an_outage_and_stops_at_sigterm(operator: Operator) -> None:
    operator.submit("first")
    operator.until(lambda: "first-check-1" in operator.children())
    operator.control_plane.restart("kube-apiserver")
    operator.submit("second")
    operator.until(lambda: "second-check-1" in operator.children())
    operator.process.signal(signal.SIGTERM)
    assert operator.process.wait(10.0) == 0


def test_a_job_of_the_name_of_a_deleted_one_starts_anew(operator: Operator) -> None:
    operator.submit()
    before = operator.until(operator.children)
    # (The garbage collector learns of new kinds every half minute; that is why this test is the last.)
    operator.control_plane.kubectl("delete", "unimrgjob", "tiny", f"--namespace={operator.namespace}")
    uid = operator.submit()["metadata"]["uid"]

    def is_new() -> bool:
        checks = operator.list("jobs.batch")
        return bool(checks) and checks[0]["metadata"]["ownerReferences"][0]["uid"] == uid

    operator.until(is_new)
    assert set(operator.children().values()).isdisjoint(before.values())
    operator.until(lambda: operator.job().get("status", {}).get("phase") == "Checking")
    assert operator.condition("Accepted")["reason"] != "NameConflict"
