"""Rendered PyTorchJobs against the schema that Training Operator installs; what it does not know is refused."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.control_plane import find_assets
from tests.support.rendered_children import documents
from unimrg_operator.backends.base import Manifest

JOBS = [
    (f"{name}-{index}", manifest)
    for name, manifests in documents().items()
    for index, manifest in enumerate(manifests)
    if manifest["kind"] == "PyTorchJob"
]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    folder = find_assets() / "manifests" / "training-operator"
    for file in sorted(folder.glob("*.yaml")):
        for item in yaml.load_all(file.read_text(), Loader=yaml.CSafeLoader):
            if item and item["metadata"]["name"] == "pytorchjobs.kubeflow.org":
                (version,) = item["spec"]["versions"]
                return closed(version["schema"]["openAPIV3Schema"])
    pytest.fail(f"there is no PyTorchJob in {folder}")


def closed(schema: Any) -> Any:
    """A server drops fields that a schema does not know; here they are mistakes."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(item) for key, item in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        result.setdefault("additionalProperties", False)
    return result


def complaints(schema: dict[str, Any], manifest: Manifest) -> list[str]:
    # The schema of any custom resource leaves metadata to the API server.
    value = {**manifest, "metadata": {}}
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(value)]


@pytest.mark.parametrize(("name", "manifest"), JOBS, ids=[name for name, _ in JOBS])
def test_training_operator_knows_every_field_of_a_rendered_job(
    schema: dict[str, Any], name: str, manifest: Manifest
) -> None:
    assert complaints(schema, manifest) == []


def test_a_mistake_would_be_noticed(schema: dict[str, Any]) -> None:
    manifest = copy.deepcopy(JOBS[0][1])
    manifest["spec"]["nprocPerNode"] = 1
    manifest["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["restart_policy"] = "Never"
    first, second = sorted(complaints(schema, manifest))
    assert "is not of type 'string'" in first
    assert "'restart_policy' was unexpected" in second
