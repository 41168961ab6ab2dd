"""The command line and a real API server: jobs are created, refused and looked at; nothing runs here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_stand_in import write_kubeconfig
from tests.support.cluster_jobs import RUNNING, failed
from tests.support.command_line import Ended, Unimrg, unimrg
from tests.support.control_plane import ControlPlane, KubectlError
from tests.support.good_jobs import GOOD_CLUSTER_JOB
from unimrg_cli import waiting
from unimrg_cli.cluster_view import ClusterJob, headline

__all__ = ["unimrg"]

CRD = "unimrgjobs.training.unimrg.dev"
SECONDS = "--timeout=30s"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""A container's security context that Pod Security's level `restricted` takes."""


@dataclass
class CommandLine:
    """The command line with the rights of a kubeconfig, in a namespace of the control plane."""

    run: Unimrg
    plane: ControlPlane
    namespace: str
    folder: Path

    def __call__(self, command: str, *arguments: object) -> Ended:
        options = ("--kubeconfig", self.plane.kubeconfig, "-n", self.namespace)
        ended = self.run(command, *arguments, *options)
        assert "Traceback" not in ended.err
        return ended

    def file(self, text: str) -> Path:
        file = self.folder / "job.yaml"
        file.write_text(text)
        return file

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        return self.plane.kubectl(*arguments, "-n", self.namespace, input=input)

    def patch(self, kind: str, name: str, status: dict[str, Any]) -> None:
        patch = json.dumps({"status": status})
        self.kubectl("patch", kind, name, "--subresource=status", "--type=merge", "-p", patch)


def run_worker(line: CommandLine, rank: int, script: str = "true", **spec: Any) -> None:
    """Create the pod of a node of the job's second attempt to train, called `worker-RANK`."""
    labels = {
        "training.unimrg.dev/job": "good-on-a-cluster",
        "training.unimrg.dev/stage": "train",
        "training.unimrg.dev/attempt": "2",
    }
    container = {
        "name": "pytorch",
        "image": "none",
        "command": ["sh", "-c", script],
        "env": [{"name": "UNIMRG_NODE_RANK", "value": str(rank)}],
        "securityContext": RESTRICTED,
    }
    metadata = {"name": f"worker-{rank}", "labels": labels}
    spec = {"restartPolicy": "Never", "containers": [container], **spec}
    line.plane.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, namespace=line.namespace)


@pytest.fixture
def command_line(unimrg: Unimrg, control_plane: ControlPlane, namespace: str, tmp_path: Path) -> CommandLine:
    """The command line; the cluster knows our kind from what `unimrg crd` prints."""
    definition = unimrg("crd")
    assert (definition.code, definition.err) == (0, "")
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=definition.out)
    control_plane.wait_until_served(CRD)
    return CommandLine(unimrg, control_plane, namespace, tmp_path)


@pytest.fixture
def submitted(command_line: CommandLine) -> CommandLine:
    """The command line, after it has created `good-on-a-cluster`."""
    ended = command_line("submit", command_line.file(GOOD_CLUSTER_JOB))
    assert ended.code == 0, ended.err
    return command_line


def test_a_job_is_created_with_the_servers_defaults_and_is_shown(submitted: CommandLine) -> None:
    kept = json.loads(submitted.kubectl("get", "unimrgjob", "good-on-a-cluster", "-o", "json"))
    assert kept["spec"]["trainer"]["nodes"] == 2
    assert kept["spec"]["method"] == "UniMRG", "the default"
    assert "no operator has set its status yet" in submitted("status", "good-on-a-cluster").out
    submitted("logs", "good-on-a-cluster").refused(69, "nothing has begun")


def test_nothing_is_created_by_a_dry_run_or_a_bad_file_or_nowhere(unimrg: Unimrg, command_line: CommandLine) -> None:
    file = command_line.file(GOOD_CLUSTER_JOB)
    assert command_line("submit", file, "--dry-run").code == 0
    ended = unimrg("submit", file, "--kubeconfig", command_line.plane.kubeconfig, "-n", "nowhere")
    ended.refused(66, "kubectl create namespace nowhere")
    text = GOOD_CLUSTER_JOB.replace("s3://runs/good", "file:///runs/good")
    line = text[: text.index("file:///runs/good")].count("\n") + 1
    file = command_line.file(text)
    command_line("submit", file).refused(64, f"{file}:{line}:", "spec.checkpoint.uri: ")
    command_line("status", "good-on-a-cluster").refused(66, "there is no UniMRGJob good-on-a-cluster")


def test_a_name_that_is_taken_is_refused_and_the_job_stays(submitted: CommandLine) -> None:
    before = submitted.kubectl("get", "unimrgjob", "good-on-a-cluster", "-o", "yaml")
    ended = submitted("submit", submitted.file(GOOD_CLUSTER_JOB.replace("nodes: 2", "nodes: 1")))
    ended.refused(64, f"namespace {submitted.namespace} has a UniMRGJob good-on-a-cluster already", "unimrg cancel")
    assert submitted.kubectl("get", "unimrgjob", "good-on-a-cluster", "-o", "yaml") == before


def test_what_only_the_server_knows_is_shown_at_the_files_line(command_line: CommandLine) -> None:
    name, namespace = {"name": "two-nodes-at-most"}, {"kubernetes.io/metadata.name": command_line.namespace}
    created = {"apiGroups": ["training.unimrg.dev"], "apiVersions": ["*"], "operations": ["CREATE"]}
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": name,
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{**created, "resources": ["unimrgjobs"]}]},
            "validations": [{"expression": "object.spec.trainer.nodes < 2", "message": "this site has one node"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": name,
        "spec": {
            "policyName": "two-nodes-at-most",
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": namespace}},
        },
    }
    command_line.plane.apply(policy, binding)
    try:
        file = command_line.file(GOOD_CLUSTER_JOB)
        for _ in range(100):
            ended = command_line("submit", file, "--dry-run")
            if ended.code:
                break
        ended.refused(64, "this site has one node", str(file))
    finally:
        command_line.plane.kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", "--all")


def test_a_status_that_was_written_by_hand_is_shown(submitted: CommandLine) -> None:
    submitted.patch("unimrgjob", "good-on-a-cluster", RUNNING)
    ended = submitted("status", "good-on-a-cluster")
    assert ended.code == 0, ended.err
    for words in ("Running (Advancing)", "train, step 120 of 400", "1 infra", "Depth 0.2500", "http://mlflow/#/r1"):
        assert words in ended.out
    described = json.loads(submitted("status", "good-on-a-cluster", "-o", "json").out)
    kept = json.loads(submitted.kubectl("get", "unimrgjob", "good-on-a-cluster", "-o", "json"))
    assert described["uid"] == kept["metadata"]["uid"]
    assert described["status"]["stages"][1]["restartCounters"]["excludedNodes"] == ["node-7"]


def test_waiting_ends_with_the_code_of_a_job_that_has_failed(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_and_fail_it(job: ClusterJob) -> str:
        if job.status is None:
            command_line.patch("unimrgjob", "good-on-a-cluster", failed(66))
        return headline(job)

    monkeypatch.setattr(waiting, "headline", look_and_fail_it)
    ended = command_line("submit", command_line.file(GOOD_CLUSTER_JOB), "--wait")
    ended.refused(66, "Failed (InputMissing): the data is gone")
    assert "InputMissing (66): the data is gone" in ended.out


def test_a_job_is_suspended_resumed_and_deleted(submitted: CommandLine) -> None:
    name = "good-on-a-cluster"
    submitted("wait", name, "--timeout", 0).refused(69, "has not ended", "no operator has set its status yet")
    for command, expected in (("suspend", True), ("resume", False)):
        ended = submitted(command, name, "-o", "json")
        assert ended.code == 0, ended.err
        kept = json.loads(submitted.kubectl("get", "unimrgjob", name, "-o", "json"))
        assert (json.loads(ended.out)["suspend"], kept["spec"]["suspend"]) == (expected, expected)
    ended = submitted("cancel", name, "--yes")
    assert ended.code == 0, ended.err
    assert "s3://runs/good" in ended.out
    submitted("status", name).refused(66, f"there is no UniMRGJob {name}")


def test_a_sweep_is_created_once_and_told_by_its_label(command_line: CommandLine) -> None:
    command_line.file(GOOD_CLUSTER_JOB)
    sweep = command_line.folder / "sweep.yaml"
    sweep.write_text(
        "apiVersion: training.unimrg.dev/v1alpha1\nkind: UniMRGSweep\nmetadata: {name: seeds}\n"
        "spec: {job: job.yaml, matrix: [{path: spec.training.seed, values: [1, 2]}]}\n"
    )
    for _ in range(2):
        ended = command_line("sweep", sweep, "-o", "json")
        assert ended.code == 0, ended.err
        assert [job["state"] for job in json.loads(ended.out)["jobs"]] == ["Pending", "Pending"]
    label = "training.unimrg.dev/sweep=seeds"
    names = command_line.kubectl("get", "unimrgjobs", "-l", label, "-o", "name").split()
    assert [name.rpartition("/")[2] for name in names] == ["seeds-s1", "seeds-s2"]


def test_pods_that_have_not_started_say_what_they_wait_for(submitted: CommandLine) -> None:
    submitted.patch("unimrgjob", "good-on-a-cluster", RUNNING)
    submitted("logs", "good-on-a-cluster").refused(69, "attempt 2 of train has no pod yet")
    for rank in (0, 1):
        run_worker(submitted, rank, nodeSelector={"no-such": "node"})
    submitted.kubectl("wait", "--for=condition=PodScheduled=False", "pod/worker-0", SECONDS)
    submitted("logs", "good-on-a-cluster").refused(69, "the pod worker-0 has not started: Unschedulable: ")
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    container = {"name": "pytorch", "image": "none", "imageID": "", "ready": False, "restartCount": 0, "state": waiting}
    submitted.patch("pod", "worker-1", {"containerStatuses": [container]})
    reason = "the pod worker-1 has not started: ImagePullBackOff: no such image"
    submitted("logs", "good-on-a-cluster", "--node", 1).refused(69, reason)
    submitted("logs", "good-on-a-cluster", "--attempt", 1).refused(66, "the pods of attempt 1 of train are gone")


@pytest.mark.usefixtures("kubelet")
def test_the_logs_of_an_attempt_are_read_from_its_nodes(submitted: CommandLine) -> None:
    submitted.patch("unimrgjob", "good-on-a-cluster", RUNNING)
    for rank in (0, 1):
        run_worker(submitted, rank, f"for i in 1 2 3; do echo $i of {rank}; sleep 0.5; done")
    ended = submitted("logs", "good-on-a-cluster", "--follow", "--node", "all")
    assert ended.code == 0, ended.err
    for rank in (0, 1):
        lines = [line for line in ended.out.splitlines() if line.startswith(f"[node {rank}] ")]
        assert lines == [f"[node {rank}] {count} of {rank}" for count in (1, 2, 3)]
        submitted.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/worker-{rank}", SECONDS)
    assert submitted("logs", "good-on-a-cluster", "--node", 1, "--tail", 2).out == "2 of 1\n3 of 1\n"


def test_a_service_account_without_rights_sees_which_one_it_lacks(unimrg: Unimrg, command_line: CommandLine) -> None:
    kubeconfig = command_line.plane.service_account_kubeconfig(command_line.namespace, "default")
    for command in (["status", "some-job"], ["logs", "some-job"], ["submit", command_line.file(GOOD_CLUSTER_JOB)]):
        ended = unimrg(*command, "--kubeconfig", kubeconfig)
        account = f"system:serviceaccount:{command_line.namespace}:default"
        ended.refused(77, account, 'resource "unimrgjobs"', "ask for this right")


def test_wrong_credentials_and_an_unknown_certificate_are_told_apart(
    unimrg: Unimrg, command_line: CommandLine, tmp_path: Path
) -> None:
    plane, kubeconfig = command_line.plane, tmp_path / "kubeconfig"
    write_kubeconfig(kubeconfig, plane.server)
    unimrg("status", "some-job", "--kubeconfig", kubeconfig).refused(69, "its certificate is not trusted")
    content = json.loads(kubeconfig.read_text())
    content["clusters"][0]["cluster"]["certificate-authority"] = str(plane.authority)
    kubeconfig.write_text(json.dumps(content))
    unimrg("status", "some-job", "--kubeconfig", kubeconfig).refused(77, "rejects these credentials", "--context")


def test_what_render_prints_is_taken_by_the_server_strictly(unimrg: Unimrg, command_line: CommandLine) -> None:
    example = Path(__file__).parents[2] / "examples" / "quickstart-s3.yaml"
    ended = unimrg("render", example, "-n", command_line.namespace)
    assert ended.code == 0, ended.err
    taken = command_line.kubectl(
        "create", "--dry-run=server", "--validate=strict", "-o", "name", "-f", "-", input=ended.out
    )
    assert len(taken.split()) == 5
    with pytest.raises(KubectlError, match="unknown field"):
        wrong = ended.out.replace("backoffLimit:", "backoffLimits:", 1)
        command_line.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", input=wrong)
