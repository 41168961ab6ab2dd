"""A whole cluster: control plane, kubelet, S3, MLflow, and the operator with no more than its own account's rights.

A test gets one with a namespace of its own, installs, starts the operator and applies jobs; where a job does not get
there in time, the failure shows its status, its children, its pods and the ends of all logs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.control_plane import ControlPlane, KubectlError
from tests.support.guarded import GuardedProcess
from tests.support.kubelet import ProcessKubelet
from tests.support.mlflow_server import MlflowServer
from tests.support.ports import free_port, http_status
from tests.support.s3_server import S3Server
from unimrg_api.cluster import ATTEMPT_LABEL, GROUP, JOB_LABEL, PLURAL, STAGE_LABEL, node_rank

Object = dict[str, Any]

SYSTEM_NAMESPACE = "unimrg-system"
ACCOUNT = "unimrg-operator"
S3_SECRET = "s3-credentials"
READY_SECONDS = 30.0
TERMINAL = ("Succeeded", "Failed")
_PROJECT = Path(__file__).parents[2]
_LOG_LINES = 40


class Cluster:
    """One namespace of the session's cluster, and an operator that looks after it."""

    def __init__(
        self,
        control_plane: ControlPlane,
        kubelet: ProcessKubelet,
        s3_server: S3Server,
        mlflow_server: MlflowServer,
        namespace: str,
        folder: Path,
    ) -> None:
        self.control_plane = control_plane
        self.kubelet = kubelet
        self.s3 = s3_server
        self.mlflow = mlflow_server
        self.namespace = namespace
        self.folder = folder
        self.operator: GuardedProcess | None = None
        self.operator_log = folder / "operator.log"
        """One JSON line per decision, of all its processes in turn."""
        self.metrics_address = ""
        """HOST:PORT of the running operator's /metrics, /healthz and /readyz."""

    # --- set up ---------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Install what a cluster's administrator does: definition, roles, account, and the keys of the store."""
        account = {"name": ACCOUNT, "namespace": SYSTEM_NAMESPACE}
        self.control_plane.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
        )
        self.kubectl("apply", "--server-side", "-f", str(_PROJECT / "manifests" / "crd.yaml"))
        self.control_plane.wait_until_served(f"{PLURAL}.{GROUP}")
        self.kubectl("apply", "-f", str(_PROJECT / "manifests" / "namespace" / "role.yaml"))
        self.create_secret(
            S3_SECRET, {"AWS_ACCESS_KEY_ID": self.s3.access_key, "AWS_SECRET_ACCESS_KEY": self.s3.secret_key}
        )

    def create_secret(self, name: str, values: Mapping[str, str]) -> None:
        """Create a secret in the jobs' namespace, or replace its values."""
        metadata = {"name": name, "namespace": self.namespace}
        self.control_plane.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {**values}})

    def allow_nodes(self) -> None:
        """Give the operator's account the optional right to see nodes (`--watch-nodes`)."""
        self._allow("ClusterRole", f"{ACCOUNT}-nodes", {"": ("nodes", ["list", "watch"])})

    def use_backend(self, backend: str) -> None:
        """Have what makes pods of such children run, and let the operator make them."""
        if backend == "JobSet":
            self.control_plane.start_jobset()
            self.allow_queues_and_jobsets()

    def allow_queues_and_jobsets(self) -> None:
        """Give it the optional rights to see what waits in queues (`--kueue`), and to make JobSets."""
        verbs = ["get", "list", "watch", "create", "delete"]
        rules = {"kueue.x-k8s.io": ("workloads", ["list", "watch"]), "jobset.x-k8s.io": ("jobsets", verbs)}
        self._allow("Role", f"{ACCOUNT}-more", rules)

    def _allow(self, kind: str, name: str, rules: Mapping[str, tuple[str, list[str]]]) -> None:
        """Bind a role of these rules, resource and verbs by API group, to the operator's account."""
        api = "rbac.authorization.k8s.io"
        metadata = {"name": name, "namespace": self.namespace} if kind == "Role" else {"name": name}
        account = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM_NAMESPACE}
        found = [{"apiGroups": [group], "resources": [what], "verbs": verbs} for group, (what, verbs) in rules.items()]
        self.control_plane.apply(
            {"apiVersion": f"{api}/v1", "kind": kind, "metadata": metadata, "rules": found},
            {
                "apiVersion": f"{api}/v1",
                "kind": f"{kind}Binding",
                "metadata": metadata,
                "roleRef": {"apiGroup": api, "kind": kind, "name": name},
                "subjects": [account],
            },
        )

    def start_operator(self, profile: Mapping[str, Any] | None = None, *more_flags: str) -> None:
        """Start the operator, with fields of its site profile; returns when it has seen everything there is."""
        kubeconfig = self.control_plane.service_account_kubeconfig(SYSTEM_NAMESPACE, ACCOUNT)
        path = self.folder / "profile.yaml"
        path.write_text(yaml.safe_dump({"image": "unimrg-trainer:test", **(profile or {})}))
        self.metrics_address = f"127.0.0.1:{free_port()}"
        flags = [
            f"--namespace={self.namespace}",
            f"--profile={path}",
            f"--kubeconfig={kubeconfig}",
            f"--metrics-address={self.metrics_address}",
            "--progress-seconds=1",
            *more_flags,
        ]
        program = Path(sys.executable).with_name("unimrg-operator")
        # KUBECONFIG is set so that a flag that is not heeded shows.
        environment = {**os.environ, "KUBECONFIG": "/nowhere"}
        self.operator = GuardedProcess([program, *flags], self.operator_log, environment=environment)
        self.operator.wait_until(lambda: http_status(f"http://{self.metrics_address}/readyz") == 200, READY_SECONDS)

    def kill_operator(self) -> None:
        """kill -9; nothing happens if it does not run."""
        if self.operator is not None:
            self.operator.kill()
            self.operator = None

    # --- what a job needs to know of this cluster -----------------------------------------------------------

    def storage(self) -> Object:
        """Return `spec.storage` for the S3 server, with the secret that `install` made."""
        return {"endpoint": self.s3.endpoint, "addressing": "Path", "credentials": {"secretName": S3_SECRET}}

    def tracking(self, experiment: str) -> Object:
        """Return `spec.tracking` for the MLflow server."""
        return {"mlflow": {"uri": self.mlflow.uri, "experiment": experiment}}

    # --- jobs -----------------------------------------------------------------------------------------------

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """Run kubectl as admin in the jobs' namespace; raises KubectlError."""
        return self.control_plane.kubectl(*arguments, f"--namespace={self.namespace}", input=input)

    def apply(self, job: Mapping[str, Any]) -> None:
        """Create a UniMRGJob, or update it; raises KubectlError with what the API server says."""
        self.control_plane.apply(job, namespace=self.namespace)

    def job(self, name: str) -> Object:
        """Return a UniMRGJob as it is now; raises KubectlError."""
        result: Object = self.control_plane.get(f"{PLURAL}.{GROUP}", name, f"--namespace={self.namespace}")
        return result

    def children(self, job: str, stage: str | None = None) -> list[Object]:
        """Return the PyTorchJobs and Jobs of a job, the oldest first."""
        found: list[Object] = self._labelled("pytorchjobs.kubeflow.org,jobs.batch", job, stage)
        return sorted(found, key=lambda child: (child["metadata"]["creationTimestamp"], child["metadata"]["name"]))

    def pods(self, job: str, stage: str | None = None, attempt: int | None = None) -> list[Object]:
        """Return the pods of a job, of one stage or attempt if given: by creation, then node rank."""
        labels = [item for item in self._labelled("pods", job, stage) if attempt in (None, _attempt(item))]
        return sorted(labels, key=lambda pod: (pod["metadata"]["creationTimestamp"], node_rank(pod)))

    def wait_for(self, job: str, holds: Callable[[Object], Any], seconds: float = 60.0, what: str = "") -> Object:
        """Return the job as soon as something holds of it; fails with everything that is known about it."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.job(job)
            if holds(found):
                return found
            if time.monotonic() > deadline:
                self._fail(f"job {job} does not get there within {seconds:.0f} s {what}", job)
            time.sleep(0.2)

    def wait_for_phase(self, job: str, *phases: str, seconds: float = 120.0) -> Object:
        """Return the job as soon as it is in one of the phases; fails at once if it ends in another one."""

        def holds(found: Object) -> bool:
            phase = _phase(found)
            if phase in TERMINAL and phase not in phases:
                self._fail(f"job {job} is {phase}, not {' or '.join(phases)}", job)
            return phase in phases

        return self.wait_for(job, holds, seconds, f"(phase {' or '.join(phases)})")

    def log(self, pod: str, lines: int = -1) -> str:
        """Return the end of a pod's log, or why there is none."""
        try:
            return self.kubectl("logs", pod, f"--tail={lines}")
        except KubectlError as error:
            return f"({error})"

    def describe(self, job: str) -> str:
        """Return everything that helps to see why a job does not get there."""
        parts = [f"job {job}: {_summary(self.job(job).get('status', {}))}"]
        for child in self.children(job):
            parts.append(f"{child['kind']} {child['metadata']['name']}: {_conditions(child.get('status', {}))}")
        for pod in self.pods(job):
            name, status = pod["metadata"]["name"], pod["status"]
            states = [item["state"] for item in status.get("containerStatuses", [])]
            where = f"{status['phase']} on {pod['spec'].get('nodeName', 'no node')}"
            parts.append(f"pod {name}: {where}, {json.dumps(states)}\n{self.log(name, _LOG_LINES)}")
        events = self.kubectl("get", "events", "--sort-by=.lastTimestamp", "--field-selector=type=Warning")
        parts.append(f"warnings:\n{events}")
        if self.operator is not None:
            parts.append(f"operator (status {self.operator.status}):\n{self.operator.last_lines()}")
        return "\n\n".join(parts)

    def _labelled(self, kinds: str, job: str, stage: str | None) -> list[Object]:
        selector = f"{JOB_LABEL}={job}" + (f",{STAGE_LABEL}={stage}" if stage else "")
        found: list[Object] = self.control_plane.get(kinds, f"--namespace={self.namespace}", "-l", selector)["items"]
        return found

    def _fail(self, why: str, job: str) -> None:
        pytest.fail(f"{why}\n\n{self.describe(job)}", pytrace=False)


def _summary(status: Object) -> str:
    lines = [f"{status.get('phase', 'no phase')} {status.get('reason', '')}", _conditions(status)]
    for stage in status.get("stages", []):
        lines.append(f"{stage['name']} {stage.get('attempt')}: {stage['state']} {json.dumps(stage.get('end', {}))}")
    return "\n  ".join([*lines, f"progress {json.dumps(status.get('progress'))}"])


def _conditions(status: Object) -> str:
    found = status.get("conditions") or []
    texts = [f"{item['type']}={item['status']} {item.get('reason', '')} {item.get('message', '')}" for item in found]
    return "; ".join(text.strip() for text in texts) or "no conditions"


def _phase(job: Object) -> str:
    return str(job.get("status", {}).get("phase", ""))


def _attempt(item: Object) -> int:
    return int(item["metadata"]["labels"][ATTEMPT_LABEL])


BACKENDS = [pytest.param("PyTorchJob", marks=pytest.mark.slow), pytest.param("JobSet", marks=pytest.mark.long)]
"""Values of `spec.backend` for a test that both pass."""


@pytest.fixture
def cluster(
    control_plane: ControlPlane,
    kubelet: ProcessKubelet,
    s3_server: S3Server,
    mlflow_server: MlflowServer,
    namespace: str,
    tmp_path: Path,
) -> Iterator[Cluster]:
    """The session's cluster with a namespace of the test's own, where UniMRG is installed; no operator runs yet."""
    cluster = Cluster(control_plane, kubelet, s3_server, mlflow_server, namespace, tmp_path)
    cluster.install()
    yield cluster
    cluster.kill_operator()
