"""Errors of the commands for a cluster: the cluster, the network or the kubeconfig is at fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.api_stand_in import JOBS, NOT_FOUND, TOKEN, Answer, StandIn, refusal, write_kubeconfig
from tests.support.cluster_jobs import cluster_job
from tests.support.command_line import Ended, Unimrg
from tests.support.good_jobs import GOOD_JOB
from unimrg_cli import cluster_client, extras

CLUSTER_JOB = (
    GOOD_JOB.replace("file://", "s3://bucket/")
    .replace("experiment: tests", "uri: http://mlflow:5000")
    .replace("seed: 42", "seed: 7")
)
QUOTES_A_TOKEN = f"bad gateway; Authorization: Bearer {TOKEN}"


def check_manners(ended: Ended) -> None:
    assert "Traceback" not in ended.err
    assert "this is a bug" not in ended.err
    assert TOKEN not in ended.err + ended.out
    assert ended.err.startswith(("error: ", "/"))


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    file = tmp_path / "job.yaml"
    file.write_text(CLUSTER_JOB)
    return file


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (NOT_FOUND, 69, ("the UniMRGJob CRD is not installed", "unimrg crd | kubectl apply -f -")),
        (refusal(429, "TooManyRequests", "too many requests"), 69, ("429: too many requests", "try again")),
        (refusal(500, "InternalError", "etcdserver: request timed out"), 69, ("500: etcdserver", "try again")),
        (Answer(502, QUOTES_A_TOKEN), 69, ("answers 502", "try again")),
        (refusal(502, "InternalError", QUOTES_A_TOKEN), 69, ("502: bad gateway", "[redacted]")),
        (Answer(200, "<html>welcome</html>"), 69, ("no JSON object", "is an API server's")),
        (Answer(200, "[1, 2]"), 69, ("no JSON object",)),
        (Answer(200, b"\xff\xfe"), 69, ("no JSON object",)),
        (Answer(200, cluster_job(), cut=True), 69, ("cannot be used",)),
        (Answer(200, {"kind": "Table", "rows": []}), 69, ("has a name that this version", "kubectl get")),
        (Answer(200, cluster_job({"phase": "Dreaming"})), 69, ("has a status.phase that this version", "install")),
    ],
)
def test_an_api_servers_refusal_has_a_message_and_a_code(
    answer: Answer, code: int, words: tuple[str, ...], unimrg: Unimrg, api_stand_in: StandIn
) -> None:
    api_stand_in.answer(f"GET {JOBS}/good", answer)
    for command in ("status", "logs"):
        ended = unimrg(command, "good", "--kubeconfig", api_stand_in.kubeconfig)
        ended.refused(code, *words)
        assert ended.out == ""
        check_manners(ended)


def test_a_server_that_does_not_answer_is_given_up(
    unimrg: Unimrg, api_stand_in: StandIn, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_client, "READ_TIMEOUT", 0.2)
    api_stand_in.answer(f"GET {JOBS}/good", Answer(delay=30))
    api_stand_in.answer(f"POST {JOBS}", Answer(delay=30))
    for command in (["status", "good"], ["submit", job_file]):
        ended = unimrg(*command, "--kubeconfig", api_stand_in.kubeconfig)
        ended.refused(69, "does not answer in time")
        check_manners(ended)
    assert len(api_stand_in.requests) == 2, "nothing is sent twice"


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("http://127.0.0.1:1", ("http://127.0.0.1:1", "Connection refused", "check that it runs")),
        ("https://no-such-host.invalid", ("no-such-host.invalid", "cannot be used", "check that it runs")),
        ("http://ada:hunter2secret@127.0.0.1:1", ("http://[redacted]@127.0.0.1:1",)),
        (None, ("/.kube/config does not exist", "--kubeconfig")),
    ],
)
def test_a_server_or_a_kubeconfig_that_is_not_there(
    server: str | None,
    words: tuple[str, ...],
    unimrg: Unimrg,
    tmp_path: Path,
    job_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    option: list[object] = []
    if server is not None:
        write_kubeconfig(tmp_path / "kubeconfig", server)
        option = ["--kubeconfig", tmp_path / "kubeconfig"]
    for command in (["status", "good"], ["logs", "good"], ["submit", job_file]):
        ended = unimrg(*command, *option)
        ended.refused((66 if server is None else 69), *words)
        check_manners(ended)
        assert "hunter2secret" not in ended.err


def test_a_name_that_is_neither_here_nor_on_a_cluster(unimrg: Unimrg, api_stand_in: StandIn) -> None:
    ended = unimrg("status", "qiuckstart")
    assert "no file or folder here is called qiuckstart" in ended.err


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", [], ("file is empty", "kubectl config view")),
        ("[1, 2]", [], ("cannot be used", "kubectl config view")),
        (f"users: [\ntoken: {TOKEN}", [], ("cannot be used", "kubectl config view")),
        ('{"contexts": [], "clusters": [], "users": []}', [], ("current-context", "kubectl config view")),
        (None, ["--context", "moon"], ("context moon", "kubectl config get-contexts")),
    ],
)
def test_a_wrong_kubeconfig_is_not_quoted(
    text: str | None, options: list[str], words: tuple[str, ...], unimrg: Unimrg, api_stand_in: StandIn, tmp_path: Path
) -> None:
    file = api_stand_in.kubeconfig if text is None else tmp_path / "broken"
    if text is not None:
        file.write_text(text)
    ended = unimrg("status", "good", "--kubeconfig", file, *options)
    ended.refused(64, *words)
    assert api_stand_in.requests == []
    check_manners(ended)


def test_nothing_is_asked_without_the_credentials_of_a_plugin_that_failed(
    unimrg: Unimrg, api_stand_in: StandIn, tmp_path: Path
) -> None:
    for script, words in (("echo please log in >&2; exit 1", "process returned 1"), (None, "No such file")):
        command = {"command": "sh", "args": ["-c", script]} if script else {"command": "no-such-plugin"}
        plugin = {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", **command}
        write_kubeconfig(tmp_path / "with-plugin", "http://127.0.0.1:1", {"exec": plugin})
        ended = unimrg("status", "good", "--kubeconfig", tmp_path / "with-plugin")
        ended.refused(77, words, "log in")
        check_manners(ended)


def test_a_webhooks_refusal_is_shown_with_its_reason(unimrg: Unimrg, api_stand_in: StandIn, job_file: Path) -> None:
    for answer, code, text in (
        (refusal(400, "BadRequest", "admission webhook says no"), 64, f"{job_file}: admission webhook says no"),
        (refusal(403, "Forbidden", "exceeded quota: jobs, used: count=5"), 77, "exceeded quota"),
        (refusal(503, "ServiceUnavailable", "webhook is away"), 69, "webhook is away"),
    ):
        api_stand_in.answer(f"POST {JOBS}", answer)
        unimrg("submit", job_file, "--kubeconfig", api_stand_in.kubeconfig).refused(code, text)


def test_a_job_that_a_cluster_cannot_run_is_never_sent(unimrg: Unimrg, api_stand_in: StandIn, tmp_path: Path) -> None:
    for text, place in (
        (GOOD_JOB, "spec.checkpoint.uri: "),
        (CLUSTER_JOB.replace("nodes: 1", "nodes: 0"), "spec.trainer.nodes: must be a whole number from 1"),
        (CLUSTER_JOB.replace("name: good", "name: good\n  namespace: lab"), "metadata.namespace is lab, and -n says r"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        ended = unimrg("submit", tmp_path / "bad.yaml", "-n", "research", "--kubeconfig", api_stand_in.kubeconfig)
        ended.refused(64, place)
    assert api_stand_in.requests == []


def test_without_the_operator_extra_the_command_that_installs_it_is_shown(
    unimrg: Unimrg, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "_is_installed", lambda name: name != "kubernetes")
    for command in (["status", "good"], ["logs", "good"], ["submit", job_file], ["render", job_file]):
        unimrg(*command).refused(64, "not installed: kubernetes", 'pip install "unimrg[operator]"')
