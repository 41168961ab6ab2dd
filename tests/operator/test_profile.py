"""The site profile: defaults, a file, and the problems of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.rendered_children import ROOT
from unimrg_api.errors import JobError
from unimrg_operator.backends.profile import load_profile


def test_the_example_is_read_as_it_is_written() -> None:
    profile = load_profile(ROOT / "examples" / "site-profile.yaml")
    assert profile.node_selector == {"nvidia.com/gpu.product": "NVIDIA-H20"}
    assert (profile.tolerations[0].operator, profile.tolerations[0].effect) == ("Exists", "NoSchedule")
    assert (profile.resources.gpu_pod.cpu, profile.resources.gpu_pod.memory) == ("96", "900Gi")
    assert profile.environment == {"NCCL_SOCKET_IFNAME": "eth0"}


@pytest.mark.parametrize(
    ("text", "path", "line", "message", "remedy"),
    [
        ("imag: x", "imag", 1, "there is no field 'imag' here", "did you mean image?"),
        ("resources:\n  gpuPod: {cpu: 96, memory: 9Gi}", "resources.gpuPod.cpu", 2, "must be a text", 'cpu: "96"'),
        ("resources: {gpuPod: {cpu: '8'}}", "resources.gpuPod.memory", 1, "the field is missing", "add it: memory"),
        ("sharedMemory: '64'", "sharedMemory", 1, "does not have the form that is wanted", "/dev/shm"),
        ("cacheSize: 500m", "cacheSize", 1, "does not have the form", "most that lies in /cache"),
        ("sharedMemory: 0Gi", "sharedMemory", 1, "does not have the form", "/dev/shm"),
        ("nodeSelector:\n  a b: c", "nodeSelector.a b", 2, "'a b' is not a possible name here", "labels of the nod"),
        ("nodeSelector:\n  a: 'b c'", "nodeSelector.a", 2, "does not have the form", "labels of the nodes"),
        ("tolerations:\n- {operator: Exists, value: b}", "tolerations[0].value", 2, "takes no value", "take it out"),
        ("tolerations:\n- {value: b}", "tolerations[0].key", 2, "needs the taint's key", "name it"),
        ("rdma: {count: 2}", "rdma.resource", 1, "the field is missing", "add it: what"),
        ("rdma:\n  resource: a\n  environment: {RANK: b}", "rdma.environment.RANK", 3, "set by the operator", "take"),
        ("- image: x", "", 1, "must hold fields", "put fields below it: backend, image, imagePullPolicy"),
    ],
)
def test_what_is_wrong_is_named_with_its_path_and_remedy(
    tmp_path: Path, text: str, path: str, line: int, message: str, remedy: str
) -> None:
    file = tmp_path / "profile.yaml"
    file.write_text(text)
    with pytest.raises(JobError) as caught:
        load_profile(file)
    (problem,) = caught.value.problems
    assert (problem.path, problem.line) == (path, line)
    assert message in str(problem)
    assert remedy in problem.remedy
    assert caught.value.source == str(file)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN MLFLOW_TRACKING_USERNAME "
            "MLFLOW_TRACKING_PASSWORD HF_TOKEN password WANDB_API_KEY",
            "is a secret, and this file is not",
        ),
        ("UNIMRG_UID MASTER_ADDR RANK WORLD_SIZE LOCAL_RANK PET_RDZV_ID HOME", "is set by the operator"),
        ("AWS_ENDPOINT_URL NCCL_DEBUG HTTPS_PROXY TOKENIZERS_PARALLELISM", ""),
    ],
    ids=["secrets", "set by the operator", "others"],
)
def test_secrets_and_the_operators_variables_are_refused(tmp_path: Path, names: str, message: str) -> None:
    file = tmp_path / "profile.yaml"
    for name in names.split():
        file.write_text(f"environment:\n  {name}: hunter2\n")
        if not message:
            assert load_profile(file).environment == {name: "hunter2"}
            continue
        with pytest.raises(JobError, match=f"{name} {message}") as caught:
            load_profile(file)
        assert "hunter2" not in str(caught.value)


def test_amounts_of_cpu_are_accepted_as_in_kubernetes(tmp_path: Path) -> None:
    file = tmp_path / "profile.yaml"
    for cpu in ("1", "96", "0.5", "1.25", "500m"):
        file.write_text(f"resources: {{cpuPod: {{cpu: '{cpu}', memory: 1.5Gi}}}}\n")
        assert load_profile(file).resources.cpu_pod.cpu == cpu
