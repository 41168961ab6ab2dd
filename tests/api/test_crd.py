"""The custom resource obeys the rules of structural schemas, and its defaults are those of the models."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.bad_jobs import GOOD_CLUSTER_JOB, GOOD_JOB, SMALLEST
from unimrg_api.crd import crd, crd_yaml
from unimrg_api.fields import PRESERVE
from unimrg_api.load import dump_job, parse_job
from unimrg_api.yaml_source import read_yaml

Schema = dict[str, Any]

SCHEMA: Schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

WORDS = {
    "string": {"enum", "pattern", "minLength", "maxLength"},
    "integer": {"minimum", "maximum"},
    "array": {"items", "minItems", "maxItems", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"},
    "object": {"properties", "required", "additionalProperties", "maxProperties", PRESERVE},
}


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}" if path else name)
    for word, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if word in schema:
            yield from nodes(schema[word], path + mark)


def defaulted(value: Any, schema: Schema) -> Any:
    """Fill defaults in as an API server does: from the top down, so that those of a part that was filled in count."""
    if isinstance(value, dict):
        value = dict(value)
        for name, inner in schema.get("properties", {}).items():
            if name not in value and "default" in inner:
                value[name] = copy.deepcopy(inner["default"])
            if name in value:
                value[name] = defaulted(value[name], inner)
    elif isinstance(value, list):
        value = [defaulted(item, schema["items"]) for item in value]
    return value


def at(path: str) -> Schema | None:
    """Return the schema at a path like `.status.phase`."""
    schema: Schema | None = SCHEMA
    for name in path.strip(".").split("."):
        schema = schema.get("properties", {}).get(name) if schema else None
    return schema


def test_every_node_says_only_what_a_structural_schema_may_say_and_has_a_bound() -> None:
    found = list(nodes(SCHEMA))
    assert len(found) > 120
    for path, schema in found:
        kind = schema["type"]
        assert set(schema) <= {"type", "description", "default", "x-kubernetes-validations"} | WORDS[kind], path
        if kind == "string" and path not in ("apiVersion", "kind"):
            assert "maxLength" in schema or "enum" in schema, path
        if kind == "array":
            assert "maxItems" in schema, path
        if kind == "object" and "properties" not in schema and PRESERVE not in schema:
            assert "maxProperties" in schema, path
        if kind == "integer" and path.startswith("spec"):
            assert {"minimum", "maximum"} <= set(schema), path


def test_every_rule_points_to_a_field_that_exists_and_says_what_to_do_in_one_line() -> None:
    count = 0
    for path, schema in nodes(SCHEMA):
        for rule in schema.get("x-kubernetes-validations", ()):
            count += 1
            inner: Schema | None = schema
            for name in rule.get("fieldPath", "").strip(".").split("."):
                inner = inner["properties"].get(name) if inner and name else inner
            assert inner is not None, f"{path}: {rule}"
            assert re.fullmatch(r"[ -~]+: [ -~]+", rule["message"]), rule["message"]
            assert len(rule["message"]) < 256
    assert count > 25


@pytest.mark.parametrize(
    "job", [SMALLEST, read_yaml(GOOD_JOB.encode()).value, read_yaml(GOOD_CLUSTER_JOB.encode()).value]
)
def test_the_defaults_of_the_schema_are_those_of_the_models(job: dict[str, Any]) -> None:
    assert defaulted(job, SCHEMA) == dump_job(parse_job(job))


def test_a_default_of_a_part_is_what_the_defaults_of_its_fields_make_of_nothing() -> None:
    parts = [(path, schema) for path, schema in nodes(SCHEMA) if schema["type"] == "object" and "default" in schema]
    assert len(parts) >= 8
    for path, schema in parts:
        assert defaulted({}, schema) == schema["default"], path


def test_a_status_has_one_writer_and_no_defaults() -> None:
    assert not [path for path, schema in nodes(SCHEMA) if path.startswith("status") and "default" in schema]


def test_what_is_shown_and_asked_for_exists() -> None:
    version = crd()["spec"]["versions"][0]
    columns = {column["name"]: column for column in version["additionalPrinterColumns"]}
    assert list(columns)[:7] == ["Phase", "Step", "Loss", "ETA", "MLflow", "Attempt", "Age"]
    assert [name for name, column in columns.items() if column.get("priority")] == list(columns)[7:]
    for column in columns.values():
        if column["name"] != "Age":
            found = at(column["jsonPath"])
            assert found is not None, column
            assert found["type"] == column["type"]
    for field in version["selectableFields"]:
        assert (at(field["jsonPath"]) or {}).get("type") == "string"


def test_the_file_says_what_the_definition_says() -> None:
    assert YAML(typ="safe", pure=True).load(crd_yaml()) == crd()
