"""The control plane of the tests: it answers, refuses as a real one, and comes back after its death."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.control_plane import ControlPlane, KubectlError, find_assets


def test_a_pytorch_job_without_its_container_is_refused_by_the_webhook(
    control_plane: ControlPlane, namespace: str
) -> None:
    template = {"spec": {"containers": [{"name": "other", "image": "x"}]}}
    worker = {"replicas": 1, "restartPolicy": "Never", "template": template}
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "wrong"},
        "spec": {"pytorchReplicaSpecs": {"Worker": worker}},
    }
    with pytest.raises(KubectlError, match="must have at least one container with name pytorch"):
        control_plane.apply(job, namespace=namespace)


def test_without_the_programs_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UNIMRG_REQUIRE_CLUSTER", raising=False)
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"is not set: install .*docs/development\.md"):
        find_assets()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    (tmp_path / "etcd").touch()
    with pytest.raises(pytest.skip.Exception, match="lacks kube-apiserver, kube-controller-manager, kube-scheduler"):
        find_assets()
    monkeypatch.setenv("UNIMRG_REQUIRE_CLUSTER", "1")
    with pytest.raises(pytest.fail.Exception, match="lacks kube-apiserver"):
        find_assets()


def test_an_api_server_that_was_killed_comes_back_with_what_it_knew(
    control_plane: ControlPlane, namespace: str
) -> None:
    control_plane.kubectl("create", "configmap", "kept", f"--namespace={namespace}")
    old = control_plane.processes["kube-apiserver"].pid
    control_plane.restart("kube-apiserver")
    assert control_plane.processes["kube-apiserver"].pid != old
    assert control_plane.get("configmap", "kept", f"--namespace={namespace}")["metadata"]["name"] == "kept"
