"""`unimrg wait`, `suspend`, `resume` and `cancel`: what they ask an API server for, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support.api_stand_in import JOBS, Answer, StandIn, refusal
from tests.support.cluster_jobs import RUNNING, SUCCEEDED, cluster_job, failed
from tests.support.command_line import Ended, Unimrg
from unimrg_cli import waiting

JOB = f"{JOBS}/good"


@pytest.fixture
def about(unimrg: Unimrg, api_stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a command about the job `good`, whose status is answered as given."""
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0)

    def run(command: str, *options: object, written: list[dict[str, Any]], **spec: Any) -> Ended:
        jobs = [cluster_job(item) for item in written]
        jobs = [{**job, "spec": {**job["spec"], **spec}} for job in jobs]
        api_stand_in.answer(f"GET {JOB}", *(Answer(200, job) for job in jobs))
        ended = unimrg(command, "good", "--kubeconfig", api_stand_in.kubeconfig, *options)
        assert "Traceback" not in ended.err
        return ended

    return run


def test_waiting_ends_with_a_condition_or_with_the_jobs_code(about: Any) -> None:
    assert about("wait", written=[RUNNING, failed(66)]).code == 66
    ended = about("wait", "-o", "json", written=[RUNNING, SUCCEEDED])
    assert ended.code == 0
    assert json.loads(ended.out)["status"]["phase"] == "Succeeded"
    assert about("wait", "--for", "Running", written=[{"phase": "Pending"}, RUNNING]).code == 0
    assert about("wait", "--for", "Checkpointed", written=[RUNNING, failed(66)]).code == 66
    about("wait", "--for", "Checkpointed", written=[SUCCEEDED]).refused(69, "its condition Checkpointed is not True")


def test_waiting_has_a_limit_and_knows_the_conditions(about: Any) -> None:
    about("wait", "--timeout", 0, written=[RUNNING]).refused(69, "good has not ended after 0 seconds", "step 120")
    about("wait", "--for", "Done", written=[RUNNING]).refused(64, "none of Accepted, ")


def test_suspending_changes_one_field_once(about: Any, api_stand_in: StandIn) -> None:
    stopped = cluster_job(RUNNING)
    stopped["spec"]["suspend"] = True
    api_stand_in.answer(f"PATCH {JOB}", Answer(200, stopped))
    ended = about("suspend", written=[RUNNING])
    assert (ended.code, ended.out.count("unimrg resume good -n research")) == (0, 1)
    patch = api_stand_in.requests[-1]
    assert (patch.method, patch.body) == ("PATCH", {"spec": {"suspend": True}})
    assert patch.headers["content-type"] == "application/merge-patch+json"
    assert json.loads(about("suspend", "-o", "json", written=[RUNNING]).out)["suspend"] is True
    before = len(api_stand_in.requests)
    assert "is suspended already" in about("suspend", written=[RUNNING], suspend=True).out
    assert [request.method for request in api_stand_in.requests[before:]] == ["GET"]


def test_resuming_is_the_way_back_and_an_ended_job_has_none(about: Any, api_stand_in: StandIn) -> None:
    api_stand_in.answer(f"PATCH {JOB}", Answer(200, cluster_job(RUNNING)))
    assert about("resume", written=[RUNNING], suspend=True).code == 0
    assert api_stand_in.requests[-1].body == {"spec": {"suspend": False}}
    assert "is not suspended" in about("resume", written=[RUNNING]).out
    for command in ("suspend", "resume"):
        about(command, written=[SUCCEEDED]).refused(64, "good is complete; nothing is left to do")
        about(command, written=[failed(66)]).refused(
            64, "good has ended and cannot be", "unimrg cancel good -n research"
        )


def test_a_job_is_deleted_by_its_uid_and_what_stays_is_named(about: Any, api_stand_in: StandIn) -> None:
    api_stand_in.answer(f"DELETE {JOB}", Answer(200, {"kind": "Status", "status": "Success"}))
    ended = about("cancel", "--yes", written=[RUNNING])
    assert ended.code == 0, ended.err
    assert api_stand_in.requests[-1].body == {"preconditions": {"uid": "u1"}}
    assert "s3://runs/good/" in ended.out and "http://mlflow/#/r1" in ended.out
    api_stand_in.answer(f"DELETE {JOB}", refusal(409, "Conflict", "the UID in the precondition does not match"))
    about("cancel", "--yes", written=[RUNNING]).refused(64, "another job of that name")


def test_a_shell_completes_the_names_of_jobs(api_stand_in: StandIn) -> None:
    jobs = [cluster_job(RUNNING, name) for name in ("good", "gone", "other")]
    api_stand_in.answer(f"GET {JOBS}", Answer(200, {"items": jobs}))
    asked = {"_UNIMRG_COMPLETE": "complete_bash", "COMP_WORDS": "unimrg wait go", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "unimrg_cli.main"],
        env={**os.environ, **asked, "KUBECONFIG": str(api_stand_in.kubeconfig)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["good", "gone"], done.stderr


def test_without_a_terminal_nothing_is_deleted_unasked(about: Any, api_stand_in: StandIn) -> None:
    about("cancel", written=[RUNNING]).refused(64, "nobody can be asked", "--yes")
    assert {request.method for request in api_stand_in.requests} == {"GET"}
