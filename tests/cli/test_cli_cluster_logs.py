"""`unimrg logs`: which pods' logs are shown, and the error where there are none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_stand_in import JOBS, PODS, TOKEN, Answer, StandIn, refusal
from tests.support.cluster_jobs import RUNNING, SUCCEEDED, cluster_job, end, failed
from tests.support.command_line import Ended, Unimrg
from unimrg_cli import pod_logs

STARTED = {"name": "pytorch", "state": {"running": {}}}


def pod(name: str, rank: int | None = None, container: dict[str, Any] | None = STARTED, **state: Any) -> dict[str, Any]:
    labels = {} if rank is None else {"example.org/index": str(rank)}
    variable = {
        "name": "UNIMRG_NODE_RANK",
        "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['example.org/index']"}},
    }
    containers = [] if container is None else [{"name": "sidecar", "state": {"waiting": {}}}, container]
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "pytorch", "env": [variable]}]},
        "status": {"containerStatuses": containers, **state},
    }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"name": "pytorch", "state": {"waiting": {"reason": reason, "message": message}}}


class Cluster:
    """A job, its pods and their logs; and `unimrg logs` about it."""

    def __init__(self, unimrg: Unimrg, stand_in: StandIn) -> None:
        self._unimrg = unimrg
        self.stand_in = stand_in
        self.job(RUNNING)
        self.pods([pod("good-train-2-worker-1", 1), pod("good-train-2-worker-0", 0)])
        for rank in (0, 1):
            self.log(f"good-train-2-worker-{rank}", Answer(200, f"one of {rank}\ntwo of {rank}\n"))

    def job(self, *written: dict[str, Any] | None) -> None:
        self.stand_in.answer(f"GET {JOBS}/good", *(Answer(200, cluster_job(item)) for item in written))

    def pods(self, *listings: list[dict[str, Any]]) -> None:
        self.stand_in.answer(f"GET {PODS}", *(Answer(200, {"kind": "PodList", "items": items}) for items in listings))

    def log(self, name: str, answer: Answer) -> None:
        self.stand_in.answer(f"GET {PODS}/{name}/log", answer)

    def logs(self, *options: object) -> Ended:
        ended = self._unimrg("logs", "good", "--kubeconfig", self.stand_in.kubeconfig, *options)
        assert "Traceback" not in ended.err
        assert TOKEN not in ended.err
        return ended

    def query(self, path: str) -> dict[str, str]:
        """Return the query of the only request for that path."""
        (found,) = [request.query for request in self.stand_in.requests if request.path == path]
        return found


@pytest.fixture
def cluster(unimrg: Unimrg, api_stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(pod_logs, "POLL_SECONDS", 0)
    return Cluster(unimrg, api_stand_in)


def test_node_0_of_the_newest_attempt_of_the_newest_stage_is_shown(cluster: Cluster) -> None:
    ended = cluster.logs()
    assert (ended.code, ended.out) == (0, "one of 0\ntwo of 0\n")
    assert set(cluster.query(PODS)["labelSelector"].split(",")) == {
        "training.unimrg.dev/job=good",
        "training.unimrg.dev/stage=train",
        "training.unimrg.dev/attempt=2",
    }
    query = cluster.query(f"{PODS}/good-train-2-worker-0/log")
    assert query["container"] == "pytorch"
    assert "tailLines" not in query


def test_another_stage_attempt_and_number_of_lines_can_be_chosen(cluster: Cluster) -> None:
    cluster.pods([pod("good-check-1-x7")])
    cluster.log("good-check-1-x7", Answer(200, "checked"))
    ended = cluster.logs("--stage", "check", "--attempt", 1, "--tail", 5)
    assert (ended.code, ended.out) == (0, "checked\n")
    assert "stage=check" in cluster.query(PODS)["labelSelector"]
    assert cluster.query(f"{PODS}/good-check-1-x7/log")["tailLines"] == "5"


def test_of_a_job_that_failed_the_stage_that_failed_is_shown(cluster: Cluster) -> None:
    cluster.job(failed(66))
    cluster.logs()
    assert "stage=train,training.unimrg.dev/attempt=1" in cluster.query(PODS)["labelSelector"]


def stages(state: str, **more: Any) -> dict[str, Any]:
    return {**RUNNING, "stages": [{"name": "train", "state": state, "attempt": 2, **more}]}


ENDED = stages("Restarting", attemptEnd=end("Stall", 75, "Restart", "no step for 900 s"))
KEPT = "s3://runs/good/logs/attempt-N/"


@pytest.mark.parametrize(
    ("written", "options", "code", "words"),
    [
        (
            None,
            [],
            69,
            ("nothing has begun", "no operator has set its status yet", "does it watch the namespace research?"),
        ),
        ({"phase": "Pending"}, ["--stage", "train"], 69, ("the stage train has not begun", "Pending")),
        (SUCCEEDED, ["--stage", "finish"], 66, ("the stage finish has not begun", "Succeeded")),
        (stages("Starting"), [], 69, ("attempt 2 of train has no pod yet", "--follow")),
        (RUNNING, ["--attempt", "3"], 69, ("there is no attempt 3 of train: its attempts are 1…2",)),
        (RUNNING, ["--attempt", "1"], 66, ("the pods of attempt 1 of train are gone", KEPT)),
        (ENDED, [], 66, ("the pods of attempt 2 of train are gone", "Stall (75): no step for 900 s", KEPT)),
        (SUCCEEDED, ["--stage", "train"], 66, ("are gone", KEPT)),
        (RUNNING, ["--stage", "check"], 66, ("the pods of attempt 1 of check are gone", "Completed (0)")),
    ],
)
def test_without_pods_the_reason_is_shown(
    written: dict[str, Any] | None, options: list[str], code: int, words: tuple[str, ...], cluster: Cluster
) -> None:
    cluster.job(written)
    cluster.pods([])
    ended = cluster.logs(*options)
    ended.refused(code, *words)
    if code == 66:
        assert cluster.logs(*options, "--follow").code == 66, "nothing will come, so nothing is waited for"
    assert (KEPT in ended.err) == (KEPT in words), "only stages with ranks leave logs beside the checkpoints"


@pytest.mark.parametrize("node", ["-1", "²", ""])
def test_a_node_that_is_no_rank_is_wrong_usage(node: str, cluster: Cluster) -> None:
    assert cluster.logs(f"--node={node}").code == 64
    cluster.logs("--node", 7).refused(66, "there is no node 7; its nodes are 0, 1")
    cluster.logs("--rank", 9).refused(66, "there is no rank 9; its ranks are 0, 1, 2, 3")


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (refusal(404, "NotFound", 'pods "good-train-2-worker-0" not found'), 66, ("cannot be read", KEPT)),
        (refusal(500, "InternalError", "dial tcp 10.0.0.7:10250: no route to host"), 69, ("10.0.0.7:10250", KEPT)),
        (refusal(403, "Forbidden", 'cannot get resource "pods/log"'), 77, ("pods/log", "ask for this right")),
        (Answer(200, "one of 0\n", cut=True), 69, ("the API server at http://127.0.0.1",)),
    ],
)
def test_a_log_that_cannot_be_read(answer: Answer, code: int, words: tuple[str, ...], cluster: Cluster) -> None:
    cluster.log("good-train-2-worker-0", answer)
    for options in ([], ["--follow"]):
        cluster.logs(*options).refused(code, *words)


def test_a_pod_that_ended_before_its_container_began_has_an_empty_log(cluster: Cluster) -> None:
    cluster.pods([pod("p", 0, None, phase="Failed")])
    cluster.log("p", Answer(200, ""))
    assert cluster.logs() == Ended(0, "", "")
    cluster.pods([pod("p", 0, None, phase="Pending")])
    cluster.logs().refused(69, "the pod p has not started: its node has not started it yet", "--follow")


@pytest.fixture
def kept(cluster: Cluster, tmp_path: Path) -> Path:
    """The run's prefix, with what four ranks wrote in the second attempt, which the prefix knows as its fifth."""
    job = cluster_job(SUCCEEDED)
    job["spec"]["checkpoint"]["uri"] = f"file://{tmp_path}/run/"
    cluster.stand_in.answer(f"GET {JOBS}/good", Answer(200, job))
    cluster.pods([])
    for number, attempt in ((5, 2), (1, 1)):
        claim = tmp_path / "run" / "attempts" / f"{number}.json"
        claim.parent.mkdir(parents=True, exist_ok=True)
        claim.write_text(json.dumps({"start": f"u1/{attempt}"}))
    for rank in range(4):
        log = tmp_path / "run" / "logs" / "attempt-5" / "train" / f"rank-{rank}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"one of {rank}\ntwo of {rank}\n")
    return tmp_path / "run"


def test_once_the_pods_are_gone_what_was_kept_is_shown(cluster: Cluster, kept: Path) -> None:
    ended = cluster.logs("--stage", "train", "--attempt", 2, "--node", 1)
    assert (ended.code, ended.out) == (0, "one of 2\ntwo of 2\n")
    assert f"are gone, and their logs with them; this is what was kept under file://{kept}/logs/attempt-5/" in ended.err
    ended = cluster.logs("--stage", "train", "--attempt", 2, "--rank", "all", "--tail", 1)
    assert ended.out == "".join(f"[rank {rank}] two of {rank}\n" for rank in range(4))
    assert cluster.logs("--stage", "train", "--attempt", 1).code == 66


def test_a_rank_is_read_where_it_is(cluster: Cluster, kept: Path) -> None:
    pods = [pod("good-train-2-worker-1", 1), pod("good-train-2-worker-0", 0)]
    cluster.pods(pods)
    cluster.job(RUNNING)
    assert cluster.logs("--rank", 2).out == "one of 1\ntwo of 1\n", "the first rank of node 1"
    cluster.logs("--rank", 3).refused(
        66, "repeats the log of its first rank only, 2", "kept when attempt 2 of train ends"
    )


def test_following_waits_until_there_is_something_to_follow(cluster: Cluster) -> None:
    starting = [pod("good-train-2-worker-0", 0, waiting("ContainerCreating"))]
    cluster.job(None, {"phase": "Pending"}, stages("Starting"))
    cluster.pods([], starting, starting, [pod("good-train-2-worker-0", 0)])
    ended = cluster.logs("--follow")
    assert (ended.code, ended.out) == (0, "one of 0\ntwo of 0\n")
    shown = [line.removesuffix("; waiting for it") for line in ended.err.splitlines()]
    assert shown == [
        "there is no log: nothing has begun (no operator has set its status yet)",
        "there is no log: nothing has begun (Pending)",
        "attempt 2 of train has no pod yet (Running (Advancing): train, step 120 of 400, loss 1.2500, 1h20m left)",
        "the pod good-train-2-worker-0 has not started: ContainerCreating",
    ]
    assert cluster.query(f"{PODS}/good-train-2-worker-0/log")["follow"] == "True"


def test_a_reader_that_closes_the_pipe_ends_the_command_silently(cluster: Cluster) -> None:
    cluster.log("good-train-2-worker-0", Answer(200, "a line of the log\n" * 20_000))
    command = [sys.executable, "-m", "unimrg_cli.main", "logs", "good", "--kubeconfig"]
    with subprocess.Popen(
        [*command, str(cluster.stand_in.kubeconfig)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "a line of the log\n"
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(30)
    assert errors == ""
