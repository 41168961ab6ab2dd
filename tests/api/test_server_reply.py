"""Replies of an API server, as they were recorded, become problems with the paths of the job."""

from __future__ import annotations

from typing import Any

import pytest

from unimrg_api.errors import Problem
from unimrg_api.server_reply import problems_of

PREFIX = 'UniMRGJob in version "v1alpha1" cannot be handled as a UniMRGJob: '


def refused(*causes: tuple[str, str]) -> dict[str, Any]:
    return {
        "kind": "Status",
        "reason": "Invalid",
        "code": 422,
        "message": 'UniMRGJob.training.unimrg.dev "x" is invalid: …',
        "details": {"causes": [{"field": field, "message": message} for field, message in causes]},
    }


def unreadable(message: str) -> dict[str, Any]:
    return {"kind": "Status", "reason": "BadRequest", "code": 400, "message": message}


@pytest.mark.parametrize(
    ("field", "message", "value", "words"),
    [
        (
            "spec.trainer.nodes",
            "Invalid value: 0: spec.trainer.nodes in body should be greater than or equal to 1",
            "0",
            "should be greater than or equal to 1",
        ),
        (
            "spec.trainer.nodes",
            'Invalid value: "string": spec.trainer.nodes in body must be of type integer: "string"',
            "",
            "must be of type integer",
        ),
        (
            "spec.objectives[1].name",
            'Unsupported value: "Normals": supported values: "Understanding", "Pixel"',
            '"Normals"',
            'unsupported value: supported values: "Understanding", "Pixel"',
        ),
        (
            "spec.objectives[1]",
            'Duplicate value: {"name":"Understanding"}',
            '{"name":"Understanding"}',
            "duplicate value",
        ),
        ("spec.data.shards", "Too many: 2: must have at most 1 item", "2", "too many: must have at most 1 item"),
        ("metadata.name", "Too long: may not be more than 40 bytes", "", "too long: may not be more than 40 bytes"),
        ("spec", "Forbidden: the spec of a job cannot be changed", "", "the spec of a job cannot be changed"),
        (
            "spec.tracking.mlflow.uri",
            "Required value: a cluster needs one: give it",
            "",
            "a cluster needs one: give it",
        ),
        (
            "spec.checkpoint.uri",
            r'Invalid value: "file://a\x00\"b": holds a NUL character: take it out',
            r'"file://a\x00\"b"',
            "holds a NUL character: take it out",
        ),
        ("spec.stages", "something new: that no one foresaw", "", "something new: that no one foresaw"),
    ],
)
def test_a_cause_keeps_its_path_and_shows_value_and_message(field: str, message: str, value: str, words: str) -> None:
    assert problems_of(refused((field, message))) == [Problem(field, value, words)]


def test_a_field_that_is_missing_says_what_belongs_there() -> None:
    (problem,) = problems_of(refused(("spec.model.harmon.variant", "Required value")))
    assert (problem.path, problem.message) == ("spec.model.harmon.variant", "the field is missing")
    assert "Tiny, 0.5B, 1.5B" in problem.remedy


def test_what_the_server_did_not_check_is_no_problem() -> None:
    status = refused(
        ("kind", 'Invalid value: "PyTorchJob": must be UniMRGJob'),
        ("spec.trainer", 'Invalid value: "object": no such key: volumes evaluating rule: two volumes are mounted'),
        ("", 'Invalid value: "": Checked value must be of type integer (default format) in spec.trainer.nodes'),
        ("<nil>", "Invalid value: null: some validation rules were not checked because the object was invalid"),
    )
    assert [problem.path for problem in problems_of(status)] == ["kind"]


def test_a_whole_number_with_a_decimal_point_is_named_as_what_it_is() -> None:
    texts = ("the cohorts of an objective", "two volumes are mounted")
    said = 'Invalid value: "object": invalid data, expected int, got float64 evaluating rule: '
    (problem,) = problems_of(refused(*(("spec", said + text) for text in texts)))
    assert (problem.path, problem.value) == ("spec", "")
    assert "decimal point" in problem.message
    assert "2, not 2.0" in problem.remedy


def test_unknown_fields_are_all_named_with_what_was_meant() -> None:
    text = f'{PREFIX}strict decoding error: unknown field "spec.objectives[0].wait", unknown field "spec.trainer.node"'
    first, second = problems_of(unreadable(text))
    assert (first.path, second.path) == ("spec.objectives[0].wait", "spec.trainer.node")
    assert "nodes?" in second.remedy


def test_a_field_that_we_know_and_the_cluster_does_not_points_to_its_custom_resource() -> None:
    (problem,) = problems_of(unreadable(f'{PREFIX}strict decoding error: unknown field "spec.storage.region"'))
    assert problem.path == "spec.storage.region"
    assert "install the custom resource of this version" in problem.remedy


def test_a_field_that_is_given_twice_is_named() -> None:
    (problem,) = problems_of(unreadable(f'{PREFIX}strict decoding error: duplicate field "spec.checkpoint.uri"'))
    assert (problem.path, problem.message) == ("spec.checkpoint.uri", "the field is given twice")


def test_metadata_of_the_wrong_type_and_another_version_have_their_paths() -> None:
    text = f"{PREFIX}json: cannot unmarshal number into Go struct field ObjectMeta.name of type string"
    assert [problem.path for problem in problems_of(unreadable(text))] == ["metadata.name"]
    text = 'UniMRGJob in version "v1" cannot be handled as a UniMRGJob: strict decoding error: unknown field "spec"'
    assert [problem.path for problem in problems_of(unreadable(text))] == ["apiVersion"]


def test_a_password_in_a_value_is_not_repeated() -> None:
    message = "Invalid value: \"https://me:hunter2@mlflow\": spec.tracking.mlflow.uri in body should match '^h'"
    (problem,) = problems_of(refused(("spec.tracking.mlflow.uri", message)))
    assert "hunter2" not in str(problem)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"reason": "Forbidden", "message": 'unimrgjobs is forbidden: User "me" cannot create'}, "cannot create"),
        ({"reason": "NotFound", "message": 'namespaces "x" not found'}, "not found"),
        ({"reason": "Invalid", "message": "no details", "details": None}, "no details"),
        ({"reason": "Invalid", "message": "odd", "details": {"causes": ["text", None]}}, "odd"),
        ({}, "without a reason"),
    ],
)
def test_any_other_reply_is_one_problem_without_a_path(status: dict[str, Any], words: str) -> None:
    (problem,) = problems_of(status)
    assert problem.path == ""
    assert words in problem.message
