"""Example jobs and how they are rendered.

`python -m tests.support.rendered_children` writes tests/operator/golden anew. Read the difference before you
commit it: a running operator would make other children from then on.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from unimrg_api.job import UniMRGJob
from unimrg_api.load import load_job, parse_job
from unimrg_api.status import RestartCounters
from unimrg_operator.backends import batchjob, pytorchjob
from unimrg_operator.backends.base import Attempt, Manifest
from unimrg_operator.backends.children import first_attempts
from unimrg_operator.backends.profile import SiteProfile, load_profile
from unimrg_operator.backends.registry import SiteBackends

ROOT = Path(__file__).parents[2]
TOYS = ROOT / "tests" / "toys"
GOLDEN = ROOT / "tests" / "operator" / "golden"
UID = "7c9a3f0e-5b1d-4e57-9d0b-2f6f3b0c1a11"
PRIORITY_CLASS = "training"


def cpu_job() -> UniMRGJob:
    """The quick start on a cluster: two pods without GPUs, everything in S3."""
    return load_job(ROOT / "examples" / "quickstart-s3.yaml")


def gpu_job(**changes: Any) -> UniMRGJob:
    """Two pods of four GPUs that read a volume, without an image and with both kinds of credentials.

    `changes` replace fields of spec.
    """
    metadata = {"name": "harmon-gpu", "namespace": "research", "labels": {"team": "vision"}}
    spec = {
        "model": {"harmon": {"variant": "Tiny"}},
        "training": {"batch": {"rowsPerObjective": 64, "cohortRows": 8, "microBatchRows": 8}},
        "trainer": {
            "nodes": 2,
            "gpusPerNode": 4,
            "serviceAccountName": "trainer",
            "volumes": [
                {"claimName": "shards", "mountPath": "/mnt/shards", "readOnly": "Always"},
                {"claimName": "runs", "mountPath": "/mnt/runs"},
            ],
        },
        "data": {"shards": ["file:///mnt/shards/llava"]},
        "storage": {"credentials": {"secretName": "store-keys"}},
        "checkpoint": {"uri": "file:///mnt/runs/harmon-gpu"},
        "tracking": {
            "mlflow": {
                "uri": "https://mlflow.example",
                "runName": "costs $(UNIMRG_UID) or $$",
                "credentials": {"secretName": "mlflow-login"},
            }
        },
    }
    annotations = {"note": "a user's note"}
    return parse_job(
        {
            "apiVersion": "training.unimrg.dev/v1alpha1",
            "kind": "UniMRGJob",
            "metadata": {**metadata, "annotations": annotations},
            "spec": {**spec, **changes},
        }
    )


def rdma_job(job: UniMRGJob | None = None) -> UniMRGJob:
    """A job whose GPUs talk over RDMA."""
    job = job or gpu_job()
    trainer = job.spec.trainer.model_copy(update={"rdma": "Always"})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"trainer": trainer})})


def site() -> SiteProfile:
    """The example profile, with the fields that it leaves out."""
    profile = load_profile(ROOT / "examples" / "site-profile.yaml")
    return profile.model_copy(update={"image_pull_secrets": ["registry"], "priority_class_name": PRIORITY_CLASS})


def backend(profile: SiteProfile | None = None) -> SiteBackends:
    """The backends of the example site, or of another."""
    return SiteBackends(site() if profile is None else profile)


def attempt(job: UniMRGJob, stage: str = "train", **changes: Any) -> Attempt:
    """The first attempt of a stage, owned by a job that exists; `changes` replace its fields."""
    first = next(item for item in first_attempts(job, "research") if item.stage == stage)
    return dataclasses.replace(first, **{"uid": UID, **changes})


def documents() -> dict[str, list[Manifest]]:
    """Return the manifests of each backend's golden file by its name."""
    if str(TOYS) not in sys.path:
        sys.path.append(str(TOYS))
    again = RestartCounters(infra_restarts=1, checkpoint_step=500, excluded_nodes=["node-7", "node-3"])
    second = {"number": 2, "train_attempt": 2, "restart_counters": again}
    with_jobs = [attempt(gpu_job(), "check"), attempt(gpu_job(), **second), attempt(gpu_job(), "evaluate")]
    return {
        "pytorchjob.yaml": [backend().render(item) for item in with_jobs],
        "jobset.yaml": [backend().render(attempt(gpu_job(backend="JobSet"), **second))],
        "rdma.yaml": [backend().render(attempt(rdma_job()))],
        "toy.yaml": [backend(SiteProfile(backend="toy")).render(attempt(cpu_job()))],
    }


def to_text(manifests: list[Manifest]) -> str:
    """Return manifests as one YAML text."""
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 1 << 20
    yaml.explicit_start = True
    text = StringIO()
    yaml.dump_all(manifests, text)
    return text.getvalue()


def pod_template(manifest: Manifest) -> dict[str, Any]:
    """Return the template of a child's pods."""
    spec = manifest["spec"]
    if manifest["kind"] == "PyTorchJob":
        spec = spec["pytorchReplicaSpecs"]["Worker"]
    elif manifest["kind"] == "JobSet":
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    template: dict[str, Any] = spec["template"]
    return template


def container(manifest: Manifest) -> dict[str, Any]:
    """Return the only container of a child's pods."""
    (only,) = pod_template(manifest)["spec"]["containers"]
    result: dict[str, Any] = only
    return result


def environ_in_pod(manifest: Manifest, rank: int = 0) -> dict[str, str]:
    """Return what a process of the pod of a node rank sees, as a kubelet makes it, but for values from Secrets."""
    fields = {"status.podIP": "10.1.2.3", pytorchjob.NODE_RANK: str(rank), batchjob.NODE_RANK: str(rank)}
    known: dict[str, str] = {}

    def replacement(match: re.Match[str]) -> str:
        # Kubernetes' rule: $(NAME) is the variable, if there is one before this; $$ is one $.
        return "$" if match[0] == "$$" else known.get(match[1], match[0])

    for entry in container(manifest)["env"]:
        if "value" in entry:
            known[entry["name"]] = re.sub(r"\$\$|\$\(([^)]*)\)", replacement, entry["value"])
        elif "fieldRef" in entry["valueFrom"]:
            known[entry["name"]] = fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
    return known


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, manifests in documents().items():
        (GOLDEN / name).write_text(to_text(manifests))
