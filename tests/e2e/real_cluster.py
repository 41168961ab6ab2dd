"""A cluster with real kubelets, known by its kubeconfig alone: UniMRG installed by Helm, services as pods beside it.

Its nodes have the images `unimrg-operator:e2e`, `unimrg-trainer:e2e` and `unimrg-e2e-s3:e2e`; it has Training Operator.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.config import Config

from tests.chart.conftest import find_program
from tests.support.ports import free_port
from tools.manifests import CHART, ROOT
from unimrg_api.cluster import GROUP, JOB_LABEL, PLURAL, STAGE_LABEL

Object = dict[str, Any]

SYSTEM, SERVICES, RELEASE = "unimrg-system", "services", "unimrg-operator"
ACCESS_KEY, SECRET_KEY, BUCKET = "e2e-writer", "writers-secret", "unimrg"
TERMINAL = ("Succeeded", "Failed")
_BASE = ROOT / "examples" / "tiny_base" / "harmon-tiny.safetensors"


class RealCluster:
    """One namespace under Pod Security `restricted` for the jobs of a session, and an operator that looks after it."""

    def __init__(self, kubeconfig: Path, folder: Path, namespace: str = "e2e") -> None:
        self.kubeconfig = kubeconfig
        self.folder = folder
        self.namespace = namespace
        self._kubectl, self._helm = find_program("kubectl"), find_program("helm")

    # --- set up ---------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Install services, secrets and the chart; returns when all of it is ready. What is there already stays."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}}
        self.kubectl("apply", "--filename=-", input=json.dumps(namespace))
        self.kubectl("apply", f"--filename={Path(__file__).with_name('services.yaml')}")
        self.create_secret("s3-credentials", {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY})
        self.set_values()
        for name in ("s3", "mlflow"):
            self.ready(SERVICES, name)
        with self.store() as store:
            with contextlib.suppress(store.exceptions.BucketAlreadyExists, store.exceptions.BucketAlreadyOwnedByYou):
                store.create_bucket(Bucket=BUCKET)
            store.upload_file(_BASE, BUCKET, _BASE.name)

    def set_values(self, *values: str) -> None:
        """Install or upgrade the release, with values (`path=value`) of its own; returns when the operator is ready."""
        settings = [f"--set={value}" for value in values]
        self.helm("upgrade", "--install", RELEASE, str(CHART), "--create-namespace", self._values(), *settings)
        self.ready(SYSTEM, RELEASE)

    def _values(self) -> str:
        """Values for a node of two cores, where two workers and two operators have to fit."""
        small = {"cpu": "800m", "memory": "1Gi"}
        values = {
            "images": {"operator": {"tag": "e2e"}, "trainer": {"tag": "e2e"}},
            "watchNamespaces": [self.namespace],
            "siteProfile": {
                "resources": {"gpuPod": small, "cpuPod": small, "smallPod": small},
                "sharedMemory": "128Mi",
                "cacheSize": "2Gi",
            },
        }
        path = self.folder / "values.yaml"
        path.write_text(yaml.safe_dump(values))
        return f"--values={path}"

    def create_secret(self, name: str, values: Mapping[str, str]) -> None:
        """Create a secret in the jobs' namespace."""
        metadata = {"name": name, "namespace": self.namespace}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {**values}}
        self.kubectl("apply", "--filename=-", input=json.dumps(secret))

    def ready(self, namespace: str, deployment: str, seconds: int = 400) -> None:
        """Return when a Deployment's pods are ready; fails with their state."""
        try:
            self.kubectl(
                "rollout", "status", f"deployment/{deployment}", f"--namespace={namespace}", f"--timeout={seconds}s"
            )
        except AssertionError as error:
            pods = self.kubectl("describe", "pods", f"--namespace={namespace}")
            logs = self.kubectl("logs", f"deployment/{deployment}", f"--namespace={namespace}", "--tail=30")
            pytest.fail(f"{error}\n{pods[-6000:]}\n{logs}", pytrace=False)

    @contextlib.contextmanager
    def store(self) -> Iterator[Any]:
        """A boto3 client of the S3 server, through `kubectl port-forward`."""
        port = free_port()
        command = [self._kubectl, f"--kubeconfig={self.kubeconfig}", "port-forward", "service/s3", f"{port}:8333"]
        with subprocess.Popen([*command, f"--namespace={SERVICES}"], stdout=subprocess.PIPE, text=True) as forward:
            try:
                assert forward.stdout is not None
                forward.stdout.readline()  # it listens
                yield boto3.client(
                    "s3",
                    endpoint_url=f"http://127.0.0.1:{port}",
                    region_name="us-east-1",
                    aws_access_key_id=ACCESS_KEY,
                    aws_secret_access_key=SECRET_KEY,
                    config=Config(s3={"addressing_style": "path"}),
                )
            finally:
                forward.terminate()

    def freeze(self, program: str, seconds: float) -> None:
        """Let a program of the cluster stand still for so long; skips where its process is not one of this machine."""
        state = self.kubeconfig.with_name("state.json")  # of the program that UNIMRG_NODE names
        if not state.is_file():
            pytest.skip("the programs of this cluster cannot be stopped from here")
        pid = json.loads(state.read_text())["pids"][program]
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)

    # --- jobs -----------------------------------------------------------------------------------------------

    def quick_start(self, name: str, steps: int = 20, **changes: Any) -> Object:
        """Return the S3 quick start with small numbers and this cluster's addresses; `changes` replace its fields."""
        job: Object = yaml.safe_load((ROOT / "examples" / "quickstart-s3.yaml").read_text())
        job["metadata"]["name"] = name
        spec = job["spec"]
        del spec["image"]  # the chart's
        spec["training"]["schedule"] = {"warmupSteps": 5, "totalSteps": steps}
        spec["data"]["sources"][0]["scenes"].update(train=100, heldOut=8)
        spec["data"]["shards"] = [f"s3://{BUCKET}/data"]
        spec["storage"]["endpoint"] = f"http://s3.{SERVICES}.svc:8333"
        spec["checkpoint"].update(uri=f"s3://{BUCKET}/{name}", everySteps=10)
        spec["tracking"]["mlflow"]["uri"] = f"http://mlflow.{SERVICES}.svc:5000"
        evaluate = {"mode": "OnSuccess", "benchmarks": [{"spatial": {"questions": 8}}], "heldOutRows": 8}
        spec["model"]["harmon"]["sampling"]["diffusionSteps"] = 10
        spec["stages"]["evaluate"] = {**evaluate, "sampleImages": 1}
        return {**job, "spec": {**spec, **changes}}

    def submit(self, job: Object) -> None:
        """Create a UniMRGJob."""
        self.kubectl("create", "--filename=-", f"--namespace={self.namespace}", input=json.dumps(job))

    def job(self, name: str) -> Object:
        """Return a UniMRGJob as it is now."""
        found: Object = self.get(f"{PLURAL}.{GROUP}", name)
        return found

    def pods(self, job: str, stage: str) -> list[Object]:
        """Return the pods of a stage, by name."""
        found: list[Object] = self.get("pods", "-l", f"{JOB_LABEL}={job},{STAGE_LABEL}={stage}")["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def wait_for(self, job: str, holds: Callable[[Object], Any], what: str, seconds: float = 300.0) -> Object:
        """Return the job as soon as something holds of it; fails with all that is known if it ends or takes longer."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.job(job)
            if holds(found):
                return found
            if time.monotonic() > deadline or phase(found) in TERMINAL:
                pytest.fail(f"{job}: not {what}\n{self.describe(job)}", pytrace=False)
            time.sleep(0.5)

    def describe(self, job: str) -> str:
        """Return everything that helps to see why a job does not get there."""
        status = json.dumps(self.job(job).get("status"), indent=1)
        pods = self.kubectl("get", "pods", f"--namespace={self.namespace}", "--output=wide")
        logs = self.kubectl(
            "logs", f"--namespace={self.namespace}", f"--selector={JOB_LABEL}={job}", "--tail=20", "--prefix"
        )
        operator = self.kubectl("logs", f"deployment/{RELEASE}", f"--namespace={SYSTEM}", "--tail=20")
        return f"{status[-6000:]}\n{pods}\n{logs[-6000:]}\n{operator[-4000:]}"

    # --- programs -------------------------------------------------------------------------------------------

    def get(self, *arguments: str, namespace: str | None = None) -> Any:
        """Return `kubectl get … -o json`, parsed."""
        return json.loads(
            self.kubectl("get", *arguments, f"--namespace={namespace or self.namespace}", "--output=json")
        )

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """Run kubectl and return what it printed; fails with what it said."""
        return self._run(self._kubectl, *arguments, input=input)

    def helm(self, *arguments: str) -> str:
        """Run helm in the operator's namespace and return what it printed; fails with what it said."""
        return self._run(self._helm, f"--namespace={SYSTEM}", *arguments)

    def _run(self, program: str, *arguments: str, input: str | None = None) -> str:
        command = [program, f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=input, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr.strip()}"
        return done.stdout


def phase(job: Object) -> str:
    """Return the phase that a job's status says."""
    return str(job.get("status", {}).get("phase", ""))


def step(job: Object) -> int:
    """Return the step that training has reported; 0 where another stage reports, or none."""
    progress = job.get("status", {}).get("progress") or {}
    return int(progress.get("step", 0)) if progress.get("stage") == "train" else 0


def restarts(job: Object) -> int:
    """Return how many attempts of the stages that decide were followed by another."""
    return sum(int(stage.get("attempt", 1)) - 1 for stage in job["status"]["stages"] if stage["name"] != "finish")


def redacted(text: str) -> bool:
    """Whether none of the store's keys shows in a text."""
    return not re.search(f"{ACCESS_KEY}|{SECRET_KEY}", text)
