"""The chart at a real API server: installed, upgraded, removed and installed again, while jobs stay."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.chart.conftest import Render
from tests.support.control_plane import ControlPlane, KubectlError
from tests.support.rendered_children import ROOT, attempt, gpu_job, rdma_job
from tools.manifests import CHART
from unimrg_api import cluster
from unimrg_operator.backends.profile import load_profile
from unimrg_operator.backends.registry import SiteBackends

CRD = f"{cluster.PLURAL}.{cluster.GROUP}"
SYSTEM = "unimrg-system"
Helm = Callable[..., str]


@pytest.fixture
def run(plane: ControlPlane, helm: str) -> Helm:
    """Run helm in the operator's namespace and return what it prints; fails with what it says."""

    def run_helm(*arguments: str) -> str:
        command = [helm, f"--kubeconfig={plane.kubeconfig}", f"--namespace={SYSTEM}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_helm


def older_chart(folder: Path) -> Path:
    """A copy of the chart whose definition does not know a column of the present one."""
    chart = folder / "unimrg-operator"
    shutil.copytree(CHART, chart, symlinks=False)
    definition = yaml.safe_load((chart / "files" / "crd.yaml").read_text())
    definition["spec"]["versions"][0]["additionalPrinterColumns"].pop(0)
    (chart / "files" / "crd.yaml").write_text(json.dumps(definition))
    return chart


def test_jobs_survive_upgrade_removal_and_a_new_installation(plane: ControlPlane, run: Helm, tmp_path: Path) -> None:
    def columns() -> list[str]:
        plane.wait_until_served(CRD)
        return [item["name"] for item in plane.get("crd", CRD)["spec"]["versions"][0]["additionalPrinterColumns"]]

    def job_uid() -> str:
        return str(plane.get(CRD, "quickstart-s3", "--namespace=research")["metadata"]["uid"])

    watched = "--set=watchNamespaces={research}"
    notes = run("install", "unimrg-operator", str(older_chart(tmp_path)), "--create-namespace", watched)
    assert "MISSING" not in notes
    assert "kubectl rollout status -n unimrg-system deployment/unimrg-operator" in notes
    assert "Phase" not in columns()
    plane.kubectl("apply", "--namespace=research", f"--filename={ROOT / 'examples' / 'quickstart-s3.yaml'}")
    uid = job_uid()

    run("upgrade", "unimrg-operator", str(CHART), "--set=watchNamespaces={research,vision}")
    assert "Phase" in columns()
    assert plane.get("role", "unimrg-operator", "--namespace=vision")
    assert job_uid() == uid

    run("uninstall", "unimrg-operator", "--wait")
    with pytest.raises(KubectlError, match="not found"):
        plane.get("deployment", "unimrg-operator", f"--namespace={SYSTEM}")
    assert job_uid() == uid

    run("install", "unimrg-operator", str(CHART), watched)
    assert job_uid() == uid
    run("uninstall", "unimrg-operator")


def test_a_job_in_a_cluster_without_training_operator_is_warned_of(helm: str) -> None:
    notes = subprocess.run(
        [helm, "install", "x", str(CHART), "--dry-run=client", "--namespace=research"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "MISSING: Kubeflow's Training Operator" in notes


def test_the_manifests_install_with_kustomize_and_optional_rights(
    plane: ControlPlane, render: Render, tmp_path: Path
) -> None:
    plane.kubectl("apply", f"--kustomize={ROOT / 'manifests' / 'namespace'}", "--namespace=research")
    listed = plane.kubectl("apply", "--server-side", f"--kustomize={ROOT / 'manifests'}", "--force-conflicts")
    assert "deployment.apps/unimrg-operator serverside-applied" in listed
    plane.kubectl("delete", "deployment/unimrg-operator", f"--namespace={SYSTEM}")

    # As docs/how-to/install.md adds them.
    rights = render(
        "--set=watchNamespaces={research}",
        "--set=watch.jobset=true,watch.kueue=true,watch.nodes=true",
        "--show-only=templates/role.yaml",
        "--show-only=templates/nodes-role.yaml",
    )
    plane.kubectl("apply", "--filename=-", input=yaml.safe_dump_all(rights))
    rules = plane.get("role", "unimrg-operator", "--namespace=research")["rules"]
    assert {"jobsets", "workloads", "unimrgjobs"} <= {resource for rule in rules for resource in rule["resources"]}
    account = f"--as=system:serviceaccount:{SYSTEM}:unimrg-operator"
    assert plane.kubectl("auth", "can-i", "watch", "nodes", account).strip() == "yes"


@pytest.mark.parametrize("rdma", ["Never", "Always"])
def test_pods_for_h20_nodes_are_taken(plane: ControlPlane, render: Render, tmp_path: Path, rdma: str) -> None:
    items = render(f"--values={CHART / 'values-h20.yaml'}")
    (config,) = (item for item in items if item["metadata"]["name"].endswith("-site-profile"))
    path = tmp_path / "profile.yaml"
    path.write_text(config["data"]["profile.yaml"])
    job = gpu_job() if rdma == "Never" else rdma_job()
    child = SiteBackends(load_profile(path)).render(attempt(job))
    pod = child["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    level = "restricted" if rdma == "Never" else "privileged"
    plane.create_namespace(f"h20-{level}", level)
    plane.kubectl("create", "serviceaccount", "trainer", f"--namespace=h20-{level}")
    taken = plane.kubectl(
        "create",
        "--dry-run=server",
        f"--namespace=h20-{level}",
        "--output=yaml",
        "--filename=-",
        input=yaml.safe_dump(
            {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {**pod["metadata"], "name": "worker"}}
        ),
    )
    spec = yaml.safe_load(taken)["spec"]
    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H20"}
    (container,) = spec["containers"]
    limits, devices = container["resources"]["limits"], {"name": "NCCL_IB_HCA", "value": "mlx5"}
    assert limits["nvidia.com/gpu"] == "4"
    assert (limits.get("rdma/hca_shared_devices_a"), devices in container["env"]) == (
        (None, False) if rdma == "Never" else ("1", True)
    )
    assert {"name": "NCCL_SOCKET_IFNAME", "value": "eth0"} in container["env"]
    shared = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}["/dev/shm"]
    (volume,) = (item for item in spec["volumes"] if item["name"] == shared)
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "128Gi"}
