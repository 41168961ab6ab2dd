"""A real Kubernetes control plane on loopback, started from the programs in $KUBEBUILDER_ASSETS: no root, no network.

Etcd, API server, controller manager, scheduler, and Training Operator with its webhook; JobSet and Kueue on demand.
No kubelet: `tests/support/kubelet` plays that one.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.support.certificates import write_certificate
from tests.support.controllers import JOBSET, KUEUE, TRAINING_OPERATOR, Controller
from tests.support.guarded import GuardedProcess
from tests.support.ports import free_port, http_status

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "training-operator", "kubectl")
READY_SECONDS = 90.0
_ADMIN_TOKEN = "loopback-admin"
_AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: Metadata, userGroups: [system:serviceaccounts:unimrg-system]}
  - {level: None}
"""
"""Requests of the operator's account: a line each, in `FOLDER/audit.log`."""


class KubectlError(Exception):
    """What kubectl wrote when it failed."""


class ControlPlane:
    """One control plane in a folder of its own; several run side by side. Logs are `FOLDER/logs/NAME.log`."""

    def __init__(self, folder: Path, assets: Path) -> None:
        self.folder = folder
        self.assets = assets
        self.kubeconfig = folder / "kubeconfig"
        """Of user `admin` in group system:masters; the context is called `local`."""
        self.ports: dict[str, int] = {}
        """Port of each program by its name; of Training Operator that of its metrics."""
        self.processes: dict[str, GuardedProcess] = {}
        self._starts: dict[str, Callable[[], GuardedProcess]] = {}

    @property
    def server(self) -> str:
        """The API server's address."""
        return f"https://127.0.0.1:{self.ports['kube-apiserver']}"

    @property
    def authority(self) -> Path:
        """The certificate by which clients know the API server."""
        return self.folder / "certificates" / "apiserver.crt"

    def start(self) -> None:
        """Start everything; returns when all of it answers. Raises RuntimeError with the end of the log else."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        try:
            self._start_etcd()
            self._start_api_server()
            manager = self._start_controller_manager()
            scheduler = self._start_scheduler()
            self._start_training_operator()
            self._wait("kube-controller-manager", manager)
            self._wait("kube-controller-manager", lambda: self._exists("serviceaccount/default"))
            self._wait("kube-scheduler", scheduler)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End everything, the youngest first; etcd's data go, logs stay."""
        running = list(self.processes.values())[::-1]
        for process in running:
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + 2.0
        for process in running:
            process.stop(max(0.0, deadline - time.monotonic()))
        shutil.rmtree(self.folder / "etcd", ignore_errors=True)

    def restart(self, name: str) -> None:
        """SIGKILL one program and start it again with the same flags; returns when the API server answers."""
        self.processes[name].kill()
        self.processes[name] = self._starts[name]()
        self._wait("kube-apiserver", self._api_server_answers)

    def kubectl(self, *arguments: str, input: str | None = None, seconds: float = 60.0) -> str:
        """Run kubectl as admin and return what it printed; raises KubectlError."""
        done = subprocess.run(
            [str(self.assets / "kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=input,
            text=True,
            capture_output=True,
            timeout=seconds,
        )
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """Return `kubectl get … -o json`, parsed; raises KubectlError."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *objects: Mapping[str, Any], namespace: str | None = None) -> None:
        """Create or update objects, server-side; raises KubectlError with what the API server says."""
        listing = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        where = [f"--namespace={namespace}"] if namespace else []
        self.kubectl("apply", "--server-side", "--force-conflicts", *where, "-f", "-", input=listing)

    def wait_until_served(self, definition: str, seconds: float = 30.0) -> None:
        """Return when a CustomResourceDefinition is established; raises TimeoutError."""
        # Not `kubectl wait`, which fails as long as there are no conditions at all.
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            conditions = self.get("crd", definition).get("status", {}).get("conditions") or []
            if any(item["type"] == "Established" and item["status"] == "True" for item in conditions):
                return
            time.sleep(0.1)
        raise TimeoutError(f"{definition} is not established after {seconds:.0f} s")

    def create_namespace(self, name: str, security: str = "restricted") -> None:
        """Create a namespace that enforces a Pod Security level; returns when pods can be created in it."""
        labels = {"pod-security.kubernetes.io/enforce": security}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        self.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=30s")

    def rights_used(self, namespace: str) -> set[tuple[str, str, str]]:
        """Return (group, resource, verb) of all that the operator's account did in a namespace and was let do."""
        used = set()
        for line in (self.folder / "audit.log").read_text().splitlines():
            event = json.loads(line)
            target = event.get("objectRef", {})
            if target.get("namespace", "") == namespace and event["responseStatus"].get("code") != 403:
                resource = "/".join(filter(None, [target.get("resource"), target.get("subresource")]))
                used.add((target.get("apiGroup", ""), resource, event["verb"]))
        return used

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """Return a kubeconfig with a fresh token (24 h) of a service account that exists; raises KubectlError."""
        token = self.kubectl("create", "token", name, f"--namespace={namespace}", "--duration=24h").strip()
        path = self.folder / "kubeconfigs" / f"{namespace}.{name}"
        path.parent.mkdir(exist_ok=True)
        self._write_kubeconfig(path, name, token, namespace)
        return path

    # --- the programs ---------------------------------------------------------------------------------------

    def _start_etcd(self) -> None:
        client, peer = self._port("etcd"), f"http://127.0.0.1:{free_port()}"
        self._spawn(
            "etcd",
            "--data-dir=etcd",
            "--unsafe-no-fsync=true",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )
        write_certificate(self.folder)
        self._wait("etcd", lambda: http_status(f"http://127.0.0.1:{client}/health") == 200)

    def _start_api_server(self) -> None:
        (self.folder / "audit.yaml").write_text(_AUDIT_POLICY)
        (self.folder / "tokens.csv").write_text(f"{_ADMIN_TOKEN},admin,admin,system:masters\n")
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.ports['etcd']}",
            "--cert-dir=certificates",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port('kube-apiserver')}",
            "--service-cluster-ip-range=10.0.0.0/16",
            "--authorization-mode=RBAC",
            "--token-auth-file=tokens.csv",
            "--audit-policy-file=audit.yaml",
            "--audit-log-path=audit.log",
            "--allow-privileged=true",
            "--endpoint-reconciler-type=none",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file=tls.key",
            "--service-account-signing-key-file=tls.key",
        )
        self._write_kubeconfig(self.kubeconfig, "admin", _ADMIN_TOKEN, "default")
        self._wait("kube-apiserver", self._api_server_answers)

    def _start_controller_manager(self) -> Callable[[], bool]:
        port = self._port("kube-controller-manager")
        self._spawn(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--secure-port={port}",
            "--bind-address=127.0.0.1",
            "--cert-dir=certificates",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            "--service-account-private-key-file=tls.key",
            "--root-ca-file=certificates/apiserver.crt",
            # A dead node is seen after 8 s instead of 50: tests wait for it.
            "--node-monitor-period=1s",
            "--node-monitor-grace-period=8s",
            "--node-startup-grace-period=20s",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        )
        return lambda: http_status(f"https://127.0.0.1:{port}/healthz") == 200

    def _start_scheduler(self) -> Callable[[], bool]:
        port = self._port("kube-scheduler")
        self._spawn(
            "kube-scheduler",
            f"--kubeconfig={self.kubeconfig}",
            f"--secure-port={port}",
            "--bind-address=127.0.0.1",
            "--cert-dir=certificates",
            "--leader-elect=false",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        )
        return lambda: http_status(f"https://127.0.0.1:{port}/healthz") == 200

    def _start_training_operator(self) -> None:
        probe, metrics = free_port(), self._port("training-operator")
        webhook, _ = self._install(TRAINING_OPERATOR)
        self.wait_until_served("pytorchjobs.kubeflow.org")
        self._spawn(
            "training-operator",
            f"--metrics-bind-address=127.0.0.1:{metrics}",
            f"--health-probe-bind-address=127.0.0.1:{probe}",
            f"--webhook-server-port={webhook}",
            "--enable-scheme=pytorchjob",
            "--zap-log-level=info",
            environment={
                "KUBECONFIG": str(self.kubeconfig),
                "MY_POD_NAMESPACE": TRAINING_OPERATOR.namespace,
                "MY_POD_NAME": "local",
            },
        )
        self._wait("training-operator", lambda: http_status(f"http://127.0.0.1:{probe}/readyz") == 200)

    def start_jobset(self) -> None:
        """Start JobSet unless it runs; returns when it is ready."""
        self._start_configured(JOBSET, "jobsets.jobset.x-k8s.io")

    def start_kueue(self) -> None:
        """Start Kueue over Jobs, JobSets and PyTorchJobs unless it runs; returns when it is ready."""
        self.start_jobset()  # Kueue watches the kinds that it is told of
        self._start_configured(KUEUE, "workloads.kueue.x-k8s.io", "--feature-gates=VisibilityOnDemand=false")

    def _start_configured(self, controller: Controller, definition: str, *flags: str) -> None:
        name, probe = controller.name, free_port()
        if name in self.processes:
            return
        if not (self.assets / name).is_file():
            go_without(f"KUBEBUILDER_ASSETS ({self.assets}) lacks {name}")
        webhook, certificates = self._install(controller)
        self.wait_until_served(definition)
        path = self.folder / f"{name}.json"
        path.write_text(controller.configuration(webhook, probe, certificates))
        self._spawn(
            name, f"--config={path}", *flags, "--zap-log-level=info", environment={"KUBECONFIG": str(self.kubeconfig)}
        )
        self._wait(name, lambda: http_status(f"http://127.0.0.1:{probe}/readyz") == 200)

    def _install(self, controller: Controller) -> tuple[int, Path]:
        """Apply a controller's objects; return the port of its webhook, and the folder of its certificate."""
        port, certificates = free_port(), controller.certificates(self.folder)
        self.apply(*controller.objects(self.assets / "manifests", port, certificates))
        return port, certificates

    # --- helpers --------------------------------------------------------------------------------------------

    def _port(self, name: str) -> int:
        self.ports[name] = free_port()
        return self.ports[name]

    def _spawn(self, program: str, *flags: str, environment: Mapping[str, str] | None = None) -> None:
        def start() -> GuardedProcess:
            return GuardedProcess(
                [self.assets / program, *flags],
                self.folder / "logs" / f"{program}.log",
                folder=self.folder,
                environment={**os.environ, **(environment or {})},
            )

        self._starts[program] = start
        self.processes[program] = start()

    def _wait(self, program: str, ready: Callable[[], bool]) -> None:
        self.processes[program].wait_until(ready, READY_SECONDS)

    def _api_server_answers(self) -> bool:
        return http_status(f"{self.server}/readyz", _ADMIN_TOKEN) == 200

    def _exists(self, what: str) -> bool:
        try:
            self.kubectl("get", what)
        except KubectlError:
            return False
        return True

    def _write_kubeconfig(self, path: Path, user: str, token: str, namespace: str) -> None:
        cluster = {"server": self.server, "certificate-authority": str(self.authority)}
        context = {"cluster": "local", "user": user, "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "local",
            "clusters": [{"name": "local", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "local", "context": context}],
        }
        path.write_text(json.dumps(config, indent=1))


def find_assets(*more: str) -> Path:
    """Return the folder of the programs and of `more`; skips the test where one is missing, see `go_without`."""
    folder = os.environ.get("KUBEBUILDER_ASSETS", "")
    missing = [name for name in (*PROGRAMS, *more) if not (Path(folder) / name).is_file()]
    if missing:
        lacking = f"KUBEBUILDER_ASSETS ({folder}) lacks {', '.join(missing)}"
        go_without(lacking if folder else "KUBEBUILDER_ASSETS is not set")
    return Path(folder).resolve()


def go_without(reason: str) -> NoReturn:
    """Skip the test, or fail it with UNIMRG_REQUIRE_CLUSTER=1."""
    message = f"{reason}: install the control plane's programs, see docs/development.md"
    if os.environ.get("UNIMRG_REQUIRE_CLUSTER") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with scheduler and Training Operator that all tests of a session share; see `namespace`."""
    plane = ControlPlane(tmp_path_factory.mktemp("control-plane"), find_assets())
    plane.start()
    yield plane
    plane.stop()


_namespaces = itertools.count(1)


@pytest.fixture
def namespace(control_plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own under Pod Security `restricted`; it is deleted afterwards."""
    slug = re.sub("[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))[:30].strip("-")
    name = f"t{next(_namespaces)}-{slug}"
    control_plane.create_namespace(name)
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")
    # At once: what ends in its own time would take the time of the tests that follow.
    control_plane.kubectl("delete", "pods", "--all", "--force", "--wait=false", f"--namespace={name}")
