"""Replies of an API server, as they were recorded, become problems with the paths of the job."""

from __future__ import annotations

from typing import Any

from unimrg_api.server_reply import problems_of


def refused(*causes: tuple[str, str]) -> dict[str, Any]:
    listed = [{"field": field, "message": message} for field, message in causes]
    return {"kind": "Status", "reason": "Invalid", "message": "is invalid: …", "details": {"causes": listed}}


def test_every_cause_keeps_its_path_and_its_message_without_passwords() -> None:
    causes = [
        ("spec.trainer.nodes", "Invalid value: 0: spec.trainer.nodes in body should be greater than or equal to 1"),
        ("spec.tracking.mlflow.uri", 'Invalid value: "https://me:hunter2@mlflow": should match'),
        ("spec.stages", "something new: that no one foresaw"),
    ]
    problems = problems_of(refused(*causes))
    assert [problem.path for problem in problems] == [path for path, _ in causes]
    assert problems[0].message == causes[0][1]
    assert "hunter2" not in str(problems[1])


def test_any_other_reply_is_one_problem_without_a_path() -> None:
    for status in (
        {"reason": "Forbidden", "message": 'unimrgjobs is forbidden: User "me" cannot create'},
        {"reason": "Invalid", "message": "no details", "details": None},
        {"reason": "Invalid", "message": "odd", "details": {"causes": ["text", None]}},
    ):
        assert [(problem.path, problem.message) for problem in problems_of(status)] == [("", status["message"])]
    assert "without a reason" in problems_of({})[0].message
