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
    rdma_job,
    to_text,
)
from unimrg_api.environment import PodEnvironment, ports
from unimrg_api.errors import UserError
from unimrg_api.load import parse_job
from unimrg_api.spec_platform import QueueSpec
from unimrg_api.stages import StageName
from unimrg_operator.backends.base import Manifest
from unimrg_operator.backends.children import first_attempts, spec_digest
from unimrg_operator.backends.profile import SiteProfile

STAGES: tuple[StageName, ...] = get_args(StageName)


def render(stage: StageName = "train", **changes: Any) -> Manifest:
    """The child of an attempt of the quick start."""
    return backend().render(attempt(cpu_job(), stage, **changes))


@pytest.mark.parametrize("name", sorted(documents()))
def test_the_children_of_a_backend_are_those_of_its_golden_file(name: str) -> None:
    """`python -m tests.support.rendered_children` writes the files anew."""
    assert to_text(documents()[name]) == (GOLDEN / name).read_text()


def test_another_process_renders_the_same_bytes() -> None:
    program = (
        "import json; from tests.support.rendered_children import *\n"
        "print(json.dumps(backend().render(attempt(gpu_job()))), end='')"
    )
    outputs = {
        subprocess.check_output([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, cwd=ROOT)
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


@pytest.mark.parametrize(
    ("kind", "stage", "longest"),
    [*(("PyTorchJob", stage, "worker-63") for stage in STAGES), ("JobSet", "train", "w-0-63-abcde")],
)
def test_names_and_labels_fit_for_the_longest_name_and_most_nodes(kind: str, stage: StageName, longest: str) -> None:
    job = cpu_job()
    metadata = job.metadata.model_copy(update={"name": "n" * 40})
    trainer = job.spec.trainer.model_copy(update={"nodes": 64})
    spec = job.spec.model_copy(update={"trainer": trainer, "backend": kind})
    long = job.model_copy(update={"metadata": metadata, "spec": spec})
    manifest = backend().render(attempt(long, stage, number=999, train_attempt=999))
    pod = f"{manifest['metadata']['name']}-{longest}" if stage == "train" else manifest["metadata"]["name"]
    assert len(pod) <= 63
    assert all(len(value) <= 63 for value in pod_template(manifest)["metadata"]["labels"].values())


def test_a_job_has_a_child_for_every_stage_that_it_wants() -> None:
    first = first_attempts(cpu_job(), "research")
    assert [item.stage for item in first] == list(STAGES)
    assert [item.stage for item in first_attempts(gpu_job(), "a")] == ["check", "train", "evaluate", "finish"]
    assert {(item.number, item.train_attempt, item.namespace) for item in first} == {(1, 1, "research")}
    assert "ownerReferences" not in backend().render(first[0])["metadata"]  # no cluster has the job yet
    assert render()["metadata"]["ownerReferences"][0]["uid"] == UID


def test_the_digest_of_a_spec_includes_every_default() -> None:
    written = parse_job(json.loads(environ_in_pod(render())["UNIMRG_SPEC"]))
    assert spec_digest(written) == spec_digest(cpu_job())
    other = cpu_job().spec.checkpoint.model_copy(update={"keep_last": 9})
    changed = cpu_job().model_copy(update={"spec": cpu_job().spec.model_copy(update={"checkpoint": other})})
    assert spec_digest(changed) != spec_digest(cpu_job())


def test_what_may_change_in_a_job_is_not_in_the_digest() -> None:
    job = cpu_job()
    policy = job.spec.run_policy.model_copy(
        update={
            "max_restarts": 9,
            "max_infra_restarts": 9,
            "active_deadline_seconds": 60,
            "ttl_seconds_after_finished": 1,
        }
    )
    other = job.model_copy(update={"spec": job.spec.model_copy(update={"suspend": True, "run_policy": policy})})
    assert spec_digest(other) == spec_digest(job)


@pytest.mark.parametrize(
    ("kind", "stage", "nodes", "master"),
    [
        (None, "check", 2, "127.0.0.1"),
        (None, "prepare", 1, "127.0.0.1"),
        (None, "train", 2, "quickstart-s3-train-1-worker-0"),
        ("JobSet", "train", 2, "quickstart-s3-train-1-w-0-0.quickstart-s3-train-1"),
        (None, "evaluate", 1, "127.0.0.1"),
        (None, "finish", 1, "127.0.0.1"),
    ],
)
def test_the_launcher_reads_its_environment(kind: str | None, stage: StageName, nodes: int, master: str) -> None:
    rank = 1 if stage == "train" else 0
    job = cpu_job().model_copy(update={"spec": cpu_job().spec.model_copy(update={"backend": kind})})
    manifest = backend().render(attempt(job, stage, train_attempt=3))
    env = PodEnvironment.from_environ(environ_in_pod(manifest, rank))
    assert parse_job(json.loads(env.spec)) == job
    assert (env.job, env.uid, env.attempt, env.pod_ip) == ("quickstart-s3", UID, "3", "10.1.2.3")
    assert (env.node_rank, env.nodes, env.processes, env.master_address) == (rank, nodes, 1, master)
    assert (env.stall_timeout, env.grace) == (900, pod_template(manifest)["spec"]["terminationGracePeriodSeconds"])
    assert (env.run_dir, env.cache) == (PodEnvironment.run_dir, PodEnvironment.cache)
    assert str(env.termination_log) == container(manifest)["terminationMessagePath"]
    assert container(manifest)["ports"][0]["containerPort"] == ports(UID, "3")[1]
    resource = backend().resource(stage, job)
    assert (manifest["apiVersion"], manifest["kind"]) == (f"{resource.group}/{resource.version}", resource.kind)


def test_pods_that_share_the_preparation_are_those_of_an_indexed_job() -> None:
    preparation = {"pods": 3, "processes": 4}
    sources = [{"scenes": {"train": 4, "heldOut": 2, "imageSize": 32, "seed": 1}}]
    data = {"sources": sources, "shards": ["file:///mnt/runs/data"], "preparation": preparation}
    manifest = backend().render(attempt(gpu_job(data=data), "prepare"))
    spec = manifest["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (
        "Indexed",
        3,
        3,
        0,
    )
    env = PodEnvironment.from_environ(environ_in_pod(manifest, 2))
    assert (env.node_rank, env.nodes) == (2, 3)
    assert "nvidia.com/gpu" not in container(manifest)["resources"]["limits"]
    weights = {"depth": {"depthAnything": {"weights": "s3://models/depth"}}}
    manifest = backend().render(attempt(gpu_job(data={**data, "maps": weights}), "prepare"))
    assert container(manifest)["resources"]["limits"]["nvidia.com/gpu"] == "4"


@pytest.mark.parametrize(("kind", "stage"), [*((None, stage) for stage in STAGES), ("JobSet", "train")])
def test_a_child_in_a_queue_is_labelled_and_suspended_and_its_pods_are_not(kind: str, stage: StageName) -> None:
    """A Kueue that manages jobs without a queue's name would hold an unlabelled one of any stage for ever."""
    queue = QueueSpec(name="team-a", priority_class="urgent")
    spec = cpu_job().spec.model_copy(update={"backend": kind, "queue": queue})
    manifest = backend().render(attempt(cpu_job().model_copy(update={"spec": spec}), stage))
    labels = {"kueue.x-k8s.io/queue-name": "team-a", "kueue.x-k8s.io/priority-class": "urgent"}
    assert labels.items() <= manifest["metadata"]["labels"].items()
    policy = manifest["spec"]["runPolicy"] if manifest["kind"] == "PyTorchJob" else manifest["spec"]
    assert policy["suspend"] is True
    assert json.dumps(manifest).count('"kueue.x-k8s.io/queue-name"') == 1


def test_a_text_with_dollars_reaches_the_processes_as_it_was_written() -> None:
    environ = environ_in_pod(backend().render(attempt(gpu_job())))
    job = parse_job(json.loads(environ["UNIMRG_SPEC"]))
    assert job.spec.tracking.mlflow.run_name == "costs $(UNIMRG_UID) or $$"


def test_credentials_are_references_and_users_annotations_stay_on_the_job() -> None:
    """In the golden file, too; but nobody may write that anew without this test."""
    manifest = backend().render(attempt(gpu_job()))
    secret = [entry for entry in container(manifest)["env"] if entry["name"].startswith(("AWS_", "MLFLOW_TRACKING_"))]
    assert len(secret) == 6
    assert all("value" not in entry and "secretKeyRef" in entry["valueFrom"] for entry in secret)
    assert all(text not in json.dumps(manifest) for text in ("vision", "a user's note"))
    job = gpu_job(storage={}, tracking={"mlflow": {"uri": "https://mlflow.example"}})
    assert "secretKeyRef" not in json.dumps(backend().render(attempt(job)))


def test_the_image_is_the_jobs_own_else_the_sites() -> None:
    site = backend(SiteProfile(image="site/trainer:1"))
    assert container(site.render(attempt(cpu_job())))["image"] == "unimrg-trainer:0.1.0"
    assert container(site.render(attempt(gpu_job())))["image"] == "site/trainer:1"
    with pytest.raises(UserError, match=r"names an image \(set spec\.image, or .* site profile\)"):
        backend(SiteProfile()).render(attempt(gpu_job()))


def test_rdma_is_for_the_pods_that_train_and_refused_where_the_site_has_none() -> None:
    job = rdma_job()
    for stage in ("check", "evaluate"):
        manifest = backend().render(attempt(job, stage))
        assert "rdma/" not in json.dumps(container(manifest)["resources"])
        assert "NCCL_IB_HCA" not in environ_in_pod(manifest)
        # As root where training is: what they leave on a volume is for each other.
        assert pod_template(manifest)["spec"]["securityContext"]["runAsUser"] == 0
        assert "add" not in container(manifest)["securityContext"]["capabilities"]
    with pytest.raises(UserError, match=r"has no section rdma \(use rdma: Never, or"):
        backend(SiteProfile(image="a:1")).render(attempt(job, "check"))


def test_training_has_a_volume_for_its_cache_of_shards() -> None:
    job = gpu_job()
    reading = job.spec.data.reading.model_copy(update={"cache_gib": 500})
    data = job.spec.data.model_copy(update={"reading": reading})
    job = job.model_copy(update={"spec": job.spec.model_copy(update={"data": data})})
    sizes = {}
    for child in first_attempts(job, "research"):
        pod = pod_template(backend().render(child))["spec"]
        volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume}
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        sizes[child.stage] = volumes.get("data-cache", {}).get("sizeLimit"), mounts.get("data-cache")
    assert sizes.pop("train") == ("501Gi", str(PodEnvironment().data_cache)) and set(sizes.values()) == {(None, None)}


def test_rdma_may_leave_pods_what_they_are_or_give_them_the_nodes_network() -> None:
    def rendered(**rdma: str) -> Manifest:
        profile = SiteProfile.model_validate({"image": "a:1", "rdma": {"resource": "rdma/hca", "count": 2, **rdma}})
        return backend(profile).render(attempt(rdma_job()))

    plain = rendered(ipcLock="Never")
    assert container(plain)["resources"]["limits"]["rdma/hca"] == "2"
    assert pod_template(plain)["spec"]["securityContext"]["runAsNonRoot"] is True
    assert "hostNetwork" not in pod_template(plain)["spec"]
    hosts = pod_template(rendered(hostNetwork="Always"))["spec"]
    assert (hosts["hostNetwork"], hosts["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")


def test_a_job_too_large_for_a_variable_is_refused() -> None:
    job = cpu_job()
    shards = job.spec.data.model_copy(update={"shards": ["s3://unimrg/" + "x" * 110_000]})
    with pytest.raises(UserError, match="processes can be handed at most"):
        backend().render(attempt(job.model_copy(update={"spec": job.spec.model_copy(update={"data": shards})})))
