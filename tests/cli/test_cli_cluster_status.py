"""What `unimrg status` and `unimrg submit --wait` read from a job's object on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.api_stand_in import JOBS, NOT_FOUND, Answer, StandIn, refusal
from tests.support.cluster_jobs import RUNNING, SUCCEEDED, cluster_job, condition, end, failed
from tests.support.command_line import Ended, Unimrg, piped
from tests.support.good_jobs import GOOD_JOB
from unimrg_api.status import JobStatus
from unimrg_api.yaml_source import read_yaml
from unimrg_cli import waiting
from unimrg_cli.cluster_view import ClusterJob, headline, notable, read_job


@pytest.fixture
def shown(unimrg: Unimrg, api_stand_in: StandIn) -> Any:
    """Return a function that shows a job with the given status."""

    def show(written: dict[str, Any] | None, *options: str) -> Ended:
        api_stand_in.answer(f"GET {JOBS}/good", Answer(200, cluster_job(written)))
        return unimrg("status", "good", "--kubeconfig", api_stand_in.kubeconfig, *options)

    return show


def test_a_running_job_in_full(shown: Any) -> None:
    ended = shown({**RUNNING, "fieldOfANewerOperator": {"a": 5}})
    assert ended.code == 0, ended.err
    rows = {line.split("  ")[0]: line for line in ended.out.splitlines()}
    for row, words in {
        "job": "good in namespace research",
        "phase": "Running (Advancing)",
        "Degraded": "NodeExcluded: node-7 is left out",
        "progress": "train, step 120 of 400",
        "doing": "step 120",
        "losses": "Depth 0.2500  Pixel 1.0000",
        "left": "1h20m",
        "rows/s": "64.0",
        "checkpoint": "step 100, s3://runs/good/ckpt/step-00000100/",
        "MLflow": "http://mlflow/#/r1",
    }.items():
        assert words in rows[row]
    assert rows["reported"].rstrip().endswith("ago")
    assert rows["train"].split() == ["train", "Running", "2", "1", "infra"]
    assert rows["check"].split() == ["check", "Succeeded", "1", "–", "Completed", "(0)"]
    assert "Accepted" not in rows and "Progressing" not in rows, "what is as it should be is left out"


def test_a_complete_job_shows_scores_and_no_time_that_is_left(shown: Any) -> None:
    out = shown(SUCCEEDED).out
    assert "Succeeded: all is done" in out
    assert "held-out depth relative change  -0.447" in out
    assert "1h20m" not in out and "ago" not in out


def test_a_failed_job_shows_the_cause_with_its_code_and_place(shown: Any) -> None:
    written = failed(66)
    written["stages"][0]["attemptEnd"] |= {"node": "node-3", "message": "no shard\n\x1b[31munder s3://x"}
    out = shown(written).out
    assert "Failed  InputMissing: the data is gone" in out
    assert "InputMissing (66) on node-3: no shard under s3://x" in out
    assert "\x1b" not in out


def test_a_file_of_the_name_comes_before_a_cluster_unless_one_is_named(
    unimrg: Unimrg, api_stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api_stand_in.answer(f"GET {JOBS}/good", Answer(200, cluster_job(RUNNING)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(api_stand_in.kubeconfig))
    assert "1h20m" in unimrg("status", "good").out
    (tmp_path / "good").mkdir()
    assert "there is no run under file://" in unimrg("status", "good").err
    for option in (["-n", "research"], ["--context", "lab"], ["--kubeconfig", api_stand_in.kubeconfig]):
        assert "1h20m" in unimrg("status", "good", *option).out
    assert len(api_stand_in.requests) == 4
    assert unimrg("status", "job.yaml", "-n", "research").code == 64, "it cannot be a name"


def view(written: dict[str, Any]) -> ClusterJob:
    return read_job(cluster_job(written))


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ({"phase": "Pending"}, "Pending"),
        (
            {
                "phase": "Restarting",
                "reason": "BackingOff",
                "conditions": [condition("Running", "False", "BackingOff", "attempt 2 begins in 20 s")],
                "progress": RUNNING["progress"],
            },
            "Restarting (BackingOff): attempt 2 begins in 20 s",
        ),
    ],
)
def test_the_state_of_a_job_in_one_line(written: dict[str, Any], text: str) -> None:
    assert headline(view(written)) == text


@pytest.mark.parametrize(
    ("phase", "given", "expected"),
    [
        ("Pending", [condition("Accepted", "False", "BackendMissing")], ["Accepted"]),
        ("Starting", [condition("Running", "False", "Unschedulable")], ["Running"]),
        ("Running", [condition("Progressing", "Unknown", "NoReport")], ["Progressing"]),
        (
            "Running",
            [condition("Checkpointed", "True", "CheckpointSaved"), condition("Degraded", "False", "NoProblems")],
            [],
        ),
        ("Failed", [condition("Running", "False", "Ended"), condition("Failed", "True", "OutOfMemory")], ["Failed"]),
    ],
)
def test_conditions_are_shown_where_they_say_more_than_the_phase(
    phase: str, given: list[dict[str, Any]], expected: list[str]
) -> None:
    written = JobStatus.model_validate({"phase": phase, "conditions": given})
    assert [item.type for item in notable(written)] == expected


# --- submit, and waiting ----------------------------------------------------------------------------------------


@pytest.fixture
def submitted(unimrg: Unimrg, api_stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that submits a job and waits while its object is answered as given."""
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0)
    file = tmp_path / "job.yaml"
    text = GOOD_JOB.replace("file://", "s3://bucket/").replace("experiment: tests", "uri: http://mlflow:5000")
    file.write_text(text)

    def run(*answers: Answer, options: tuple[str, ...] = ("--wait",)) -> Ended:
        api_stand_in.answer(f"POST {JOBS}", Answer(201, cluster_job()))
        api_stand_in.answer(f"GET {JOBS}/good", *answers)
        return unimrg("submit", file, "--kubeconfig", api_stand_in.kubeconfig, *options)

    return run


def job(written: dict[str, Any] | None = None, uid: str = "u1") -> Answer:
    return Answer(200, cluster_job(written, uid=uid))


def test_a_job_is_sent_as_it_is_written_and_strictly(submitted: Any, api_stand_in: StandIn, tmp_path: Path) -> None:
    ended = submitted(options=())
    assert ended.code == 0, ended.err
    (request,) = api_stand_in.requests
    assert (request.method, request.path) == ("POST", JOBS)
    assert request.query == {"fieldValidation": "Strict", "fieldManager": "unimrg"}
    sent = request.body
    assert sent["metadata"] == {"name": "good", "namespace": "research"}
    assert sent["spec"] == read_yaml((tmp_path / "job.yaml").read_bytes()).value["spec"], "defaults are the server's"
    assert "created the UniMRGJob good in namespace research" in ended.out
    options = f"good -n research --kubeconfig {tmp_path}/kubeconfig"
    for command in ("unimrg status", "unimrg logs --follow", "unimrg cancel"):
        assert f"  {command} {options}\n" in ended.out


def test_a_job_from_a_pipe_is_sent_and_its_refusal_has_lines(
    submitted: Any, unimrg: Unimrg, api_stand_in: StandIn, tmp_path: Path
) -> None:
    assert submitted(options=()).code == 0
    cause = {"reason": "FieldValueInvalid", "message": "Invalid value: 42: no", "field": "spec.training.seed"}
    refused = refusal(422, "Invalid", "UniMRGJob is invalid", causes=[cause])
    text = (tmp_path / "job.yaml").read_text()
    api_stand_in.answer(f"POST {JOBS}", Answer(201, cluster_job()), refused)
    with piped(text) as pipe:
        assert unimrg("submit", pipe, "--kubeconfig", api_stand_in.kubeconfig).code == 0
    with piped(text) as pipe:
        ended = unimrg("submit", pipe, "--kubeconfig", api_stand_in.kubeconfig)
    assert ended.code == 64
    assert (
        f"{pipe}:{text[: text.index('seed: 42')].count(chr(10)) + 1}:11: spec.training.seed: Invalid value: 42: no"
        in ended.err
    )
    from_file, from_pipe, _ = (request.body for request in api_stand_in.requests)
    assert from_pipe == from_file


def test_waiting_ends_with_the_job_and_shows_each_change_once(submitted: Any) -> None:
    again = {"name": "train", "state": "Restarting", "attempt": 1, "attemptEnd": end("Stall", 75, "Restart")}
    restarting = job({"phase": "Restarting", "reason": "Stall", "stages": [again]})
    ended = submitted(job(), job(), job(RUNNING), job(RUNNING), restarting, job(SUCCEEDED))
    assert ended.code == 0, ended.err
    shown = [line.split("  ", 1)[1] for line in ended.err.splitlines()]
    assert shown == [
        "no operator has set its status yet",
        "Running (Advancing): train, step 120 of 400, loss 1.2500, 1h20m left",
        "Restarting (Stall)",
        "Succeeded: all is done",
    ]
    assert "held-out depth relative change  -0.447" in ended.out


@pytest.mark.parametrize(("code", "expected"), [(66, 66), (137, 137), (1, 70), (None, 70), (0, 70)])
def test_waiting_ends_with_the_code_of_the_stage_that_failed(code: int | None, expected: int, submitted: Any) -> None:
    assert submitted(job(failed(code))).code == expected


def test_an_api_server_that_is_briefly_unavailable_does_not_end_waiting(submitted: Any) -> None:
    away = refusal(503, "ServiceUnavailable", "restarting")
    ended = submitted(job(RUNNING), away, away, job(SUCCEEDED))
    assert ended.code == 0
    assert ended.err.count("503: restarting; asking again") == 1


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (refusal(404, "NotFound", "not found", name="good"), 66, "there is no UniMRGJob good"),
        (job(RUNNING, uid="u2"), 66, "was deleted meanwhile"),
        (refusal(403, "Forbidden", "no longer yours"), 77, "no longer yours"),
        (NOT_FOUND, 69, "CRD is not installed"),
        (refusal(503, "ServiceUnavailable", "restarting"), 69, "503: restarting"),
    ],
)
def test_a_job_that_goes_away_ends_the_waiting(
    answer: Answer, code: int, words: str, submitted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SILENCE_SECONDS", 0.05)
    submitted(job(RUNNING), answer).refused(code, words)


def test_ctrl_c_ends_the_waiting_and_not_the_job(submitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(waiting, "headline", interrupted)
    submitted(job(RUNNING)).refused(130, "no longer waiting for good, which goes on")
