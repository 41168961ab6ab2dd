"""What the children of a job look like: one attempt of one stage each, the same every time, safe in any namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, get_args

import pytest

from tests.support.rendered_children import (
    GOLDEN,
    ROOT,
    UID,
    attempt,
    backend,
    container,
    cpu_job,
    documents,
    environ_in_pod,
    gpu_job,
    pod_template,
    to_text,
)
from unimrg_api import cluster
from unimrg_api.environment import PodEnvironment, ports
from unimrg_api.errors import UserError
from unimrg_api.load import parse_job
from unimrg_api.stages import StageName
from unimrg_api.status import RestartCounters
from unimrg_operator.backends.children import first_attempts, spec_digest
from unimrg_operator.backends.profile import SiteProfile

RANK = "training.kubeflow.org/replica-index"
STAGES: tuple[StageName, ...] = get_args(StageName)


@pytest.mark.parametrize("name", sorted(documents()))
def test_children_of_the_example_jobs_are_those_that_were_looked_at(name: str) -> None:
    """`python -m tests.support.rendered_children` writes the files anew."""
    assert to_text(documents()[name]) == (GOLDEN / name).read_text()


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(documents())


@pytest.mark.parametrize("stage", STAGES)
def test_an_attempt_is_rendered_to_the_same_bytes_every_time(stage: StageName) -> None:
    first, second = (json.dumps(backend().render(attempt(cpu_job(), stage))) for _ in range(2))
    assert first == second


def test_another_process_renders_the_same_bytes() -> None:
    program = (
        "import json; from tests.support.rendered_children import *\n"
        "print(json.dumps(backend().render(attempt(gpu_job()))), end='')"
    )
    command = [sys.executable, "-c", program]
    outputs = {
        subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=ROOT, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {json.dumps(backend().render(attempt(gpu_job()))).encode()}


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every value by its path; entries of a list are known by their name, if they have one."""
    if isinstance(value, dict):
        return {key: leaf for name, item in value.items() for key, leaf in leaves(item, f"{path}/{name}").items()}
    if isinstance(value, list):
        named = {item["name"] if isinstance(item, dict) and "name" in item else i: item for i, item in enumerate(value)}
        return leaves(named, path)
    return {path: value}


def test_two_attempts_differ_in_what_belongs_to_an_attempt_and_in_nothing_else() -> None:
    again = attempt(gpu_job(), number=2, train_attempt=2, restart_counters=RestartCounters(user_restarts=1))
    one, two = leaves(backend().render(attempt(gpu_job()))), leaves(backend().render(again))
    template = "/spec/pytorchReplicaSpecs/Worker/template"
    assert {path for path in one.keys() | two.keys() if one.get(path) != two.get(path)} == {
        "/metadata/name",
        f"/metadata/labels/{cluster.ATTEMPT_LABEL}",
        f"/metadata/annotations/{cluster.RESTART_COUNTERS_ANNOTATION}",
        f"{template}/metadata/labels/{cluster.ATTEMPT_LABEL}",
        f"{template}/spec/containers/pytorch/env/UNIMRG_ATTEMPT/value",
        f"{template}/spec/containers/pytorch/env/UNIMRG_MASTER_ADDRESS/value",
        f"{template}/spec/containers/pytorch/ports/progress/containerPort",
    }


@pytest.mark.parametrize("stage", STAGES)
def test_names_and_labels_fit_for_the_longest_name_the_most_nodes_and_many_attempts(stage: StageName) -> None:
    job = cpu_job()
    metadata = job.metadata.model_copy(update={"name": "n" * 40})
    trainer = job.spec.trainer.model_copy(update={"nodes": 64})
    spec = job.spec.model_copy(update={"trainer": trainer})
    long = job.model_copy(update={"metadata": metadata, "spec": spec})
    manifest = backend().render(attempt(long, stage, number=999, train_attempt=999))
    pod = f"{manifest['metadata']['name']}-worker-63" if stage == "train" else manifest["metadata"]["name"]
    assert len(pod) <= 63
    assert all(len(value) <= 63 for value in pod_template(manifest)["metadata"]["labels"].values())


def test_a_job_has_a_child_for_every_stage_that_it_wants() -> None:
    assert [item.stage for item in first_attempts(cpu_job(), "a")] == list(STAGES)
    assert [item.stage for item in first_attempts(gpu_job(), "a")] == ["check", "train", "finish"]
    assert {(item.number, item.train_attempt, item.namespace) for item in first_attempts(cpu_job(), "a")} == {
        (1, 1, "a")
    }


def test_a_child_belongs_to_its_job_and_goes_with_it() -> None:
    metadata = backend().render(attempt(cpu_job()))["metadata"]
    assert metadata["ownerReferences"] == [
        {
            "apiVersion": "training.unimrg.dev/v1alpha1",
            "kind": "UniMRGJob",
            "name": "quickstart-s3",
            "uid": UID,
            "controller": True,
        }
    ]


def test_a_child_of_a_job_that_no_cluster_has_yet_has_no_owner() -> None:
    assert "ownerReferences" not in backend().render(first_attempts(cpu_job(), "research")[0])["metadata"]


def test_the_digest_of_a_spec_knows_every_default() -> None:
    written = parse_job(json.loads(container_environ("train")["UNIMRG_SPEC"]))
    assert spec_digest(written) == spec_digest(cpu_job())
    other = cpu_job().spec.checkpoint.model_copy(update={"keep_last": 9})
    changed = cpu_job().model_copy(update={"spec": cpu_job().spec.model_copy(update={"checkpoint": other})})
    assert spec_digest(changed) != spec_digest(cpu_job())


def test_the_ledger_can_be_read_back_from_the_child() -> None:
    counters = RestartCounters(user_restarts=2, stalls={"node-1": 1}, excluded_nodes=["node-2"], commit_step=7)
    annotations = backend().render(attempt(cpu_job(), restart_counters=counters))["metadata"]["annotations"]
    assert RestartCounters.model_validate_json(annotations[cluster.RESTART_COUNTERS_ANNOTATION]) == counters


def container_environ(stage: StageName, rank: int = 0) -> dict[str, str]:
    manifest = backend().render(attempt(cpu_job(), stage, train_attempt=3))
    return environ_in_pod(manifest, "10.1.2.3", {RANK: str(rank)})


@pytest.mark.parametrize(
    ("stage", "nodes", "master"),
    [
        ("check", 2, "127.0.0.1"),
        ("prepare", 1, "127.0.0.1"),
        ("train", 2, "quickstart-s3-train-1-worker-0"),
        ("evaluate", 1, "127.0.0.1"),
        ("finish", 1, "127.0.0.1"),
    ],
)
def test_the_launcher_reads_what_was_meant(stage: StageName, nodes: int, master: str) -> None:
    rank = 1 if stage == "train" else 0
    env = PodEnvironment.from_environ(container_environ(stage, rank))
    assert parse_job(json.loads(env.spec)) == cpu_job()
    assert (env.job, env.uid, env.attempt, env.pod_ip) == ("quickstart-s3", UID, "3", "10.1.2.3")
    assert (env.node_rank, env.nodes, env.processes, env.master_address) == (rank, nodes, 1, master)
    assert (env.stall_timeout, env.grace) == (900, 30 if stage == "check" else 60)
    assert (env.run_dir, env.cache, env.termination_log) == (
        PodEnvironment.run_dir,
        PodEnvironment.cache,
        PodEnvironment.termination_log,
    )


def test_a_text_with_dollars_reaches_the_processes_as_it_was_written() -> None:
    manifest = backend().render(attempt(gpu_job()))
    environ = environ_in_pod(manifest, "10.1.2.3", {RANK: "0"})
    job = parse_job(json.loads(environ["UNIMRG_SPEC"]))
    assert job.spec.tracking.mlflow.run_name == "costs $(UNIMRG_UID) or $$"


def test_the_grace_period_of_a_pod_is_the_one_that_its_launcher_reckons_with() -> None:
    for stage in STAGES:
        manifest = backend().render(attempt(cpu_job(), stage))
        seconds = pod_template(manifest)["spec"]["terminationGracePeriodSeconds"]
        assert str(seconds) == container_environ(stage)["UNIMRG_GRACE"]


@pytest.mark.parametrize("stage", STAGES)
def test_the_port_that_is_named_is_the_one_that_the_launcher_serves(stage: StageName) -> None:
    manifest = backend().render(attempt(cpu_job(), stage, train_attempt=4))
    assert container(manifest)["ports"] == [
        {"name": "progress", "containerPort": ports(UID, "4")[1], "protocol": "TCP"}
    ]


def test_credentials_are_references_and_never_values() -> None:
    manifest = backend().render(attempt(gpu_job()))
    variables = {entry["name"]: entry for entry in container(manifest)["env"]}
    assert {
        name: (ref["name"], ref["key"], ref.get("optional", False))
        for name, entry in variables.items()
        if (ref := entry.get("valueFrom", {}).get("secretKeyRef"))
    } == {
        "AWS_ACCESS_KEY_ID": ("store-keys", "AWS_ACCESS_KEY_ID", False),
        "AWS_SECRET_ACCESS_KEY": ("store-keys", "AWS_SECRET_ACCESS_KEY", False),
        "AWS_SESSION_TOKEN": ("store-keys", "AWS_SESSION_TOKEN", True),
        "MLFLOW_TRACKING_USERNAME": ("mlflow-login", "MLFLOW_TRACKING_USERNAME", True),
        "MLFLOW_TRACKING_PASSWORD": ("mlflow-login", "MLFLOW_TRACKING_PASSWORD", True),
        "MLFLOW_TRACKING_TOKEN": ("mlflow-login", "MLFLOW_TRACKING_TOKEN", True),
    }
    assert all(("value" in entry) != ("valueFrom" in entry) for entry in variables.values())


def test_a_job_without_credentials_gives_its_pods_none() -> None:
    job = gpu_job(storage={}, tracking={"mlflow": {"uri": "https://mlflow.example"}})
    assert "secretKeyRef" not in json.dumps(backend().render(attempt(job)))


@pytest.mark.parametrize("stage", ["check", "train", "finish"])
def test_a_users_own_labels_and_annotations_stay_on_the_job(stage: StageName) -> None:
    text = json.dumps(backend().render(attempt(gpu_job(), stage)))
    assert "vision" not in text
    assert "a user's own words" not in text


def test_only_pods_that_compute_on_gpus_ask_for_them_and_go_where_they_are() -> None:
    job = gpu_job(stages={})
    for stage in ("check", "train", "evaluate", "finish"):
        manifest = backend().render(attempt(job, stage))
        on_gpus = stage in ("train", "evaluate")
        limits = container(manifest)["resources"]["limits"]
        assert limits.get("nvidia.com/gpu") == ("4" if on_gpus else None)
        pod = pod_template(manifest)["spec"]
        assert ("nodeSelector" in pod, "tolerations" in pod) == (on_gpus, on_gpus)
    assert "nvidia" not in json.dumps(backend().render(attempt(cpu_job())))


def test_nodes_that_failed_are_kept_away_from() -> None:
    manifest = backend().render(attempt(cpu_job(), restart_counters=RestartCounters(excluded_nodes=["b", "a"])))
    affinity = pod_template(manifest)["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["a", "b"]}]
    assert "affinity" not in pod_template(backend().render(attempt(cpu_job())))["spec"]


def test_the_image_is_the_jobs_own_else_the_sites() -> None:
    profile = SiteProfile(image="site/trainer:1")
    assert container(backend(profile).render(attempt(cpu_job())))["image"] == "unimrg-trainer:0.1.0"
    assert container(backend(profile).render(attempt(gpu_job())))["image"] == "site/trainer:1"


def test_without_any_image_the_user_is_told_where_to_name_one() -> None:
    with pytest.raises(UserError, match=r"names an image \(set spec\.image, or .* site profile\)"):
        backend(SiteProfile()).render(attempt(gpu_job()))


def test_every_restart_is_left_to_the_operator() -> None:
    train = backend().render(attempt(cpu_job()))["spec"]
    assert train["runPolicy"] == {"backoffLimit": 0, "cleanPodPolicy": "Running"}
    assert set(train["pytorchReplicaSpecs"]) == {"Worker"}
    assert train["pytorchReplicaSpecs"]["Worker"]["restartPolicy"] == "Never"
    check = backend().render(attempt(cpu_job(), "check"))["spec"]
    assert (check["backoffLimit"], check["podReplacementPolicy"]) == (0, "Failed")
    assert check["template"]["spec"]["restartPolicy"] == "Never"


def test_the_resource_of_a_stage_is_the_kind_that_is_rendered() -> None:
    for stage in STAGES:
        manifest = backend().render(attempt(cpu_job(), stage))
        resource = backend().resource(stage)
        assert (manifest["apiVersion"], manifest["kind"]) == (f"{resource.group}/{resource.version}", resource.kind)


def test_a_job_too_large_for_a_variable_is_refused_before_any_pod_is_made() -> None:
    job = cpu_job()
    shards = job.spec.data.model_copy(update={"shards": ["s3://unimrg/" + "x" * 110_000]})
    with pytest.raises(UserError, match="processes can be handed at most"):
        backend().render(attempt(job.model_copy(update={"spec": job.spec.model_copy(update={"data": shards})})))


def test_profile_and_first_attempts_need_no_client() -> None:
    program = (
        "import sys, unimrg_operator.backends.profile, unimrg_operator.backends.children\n"
        "print([name for name in ('kubernetes', 'kubeflow') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
