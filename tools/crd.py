"""The CustomResourceDefinition of a job: schema, rules and columns, all from the models.

A model's JSON schema becomes the structural schema that Kubernetes takes; what has no counterpart there raises
TypeError. That every list and text has an upper bound is tested on the schema of the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from unimrg_api.cluster import GROUP, PLURAL, SHORT_NAME, SINGULAR, VERSION
from unimrg_api.fields import LIST_KEYS, LIST_TYPE, PRESERVE, RULES
from unimrg_api.introspection import Schema, resolved
from unimrg_api.job import KIND, JobSpec, Metadata
from unimrg_api.locality import CLUSTER_RULES
from unimrg_api.mutable_fields import transition_rules
from unimrg_api.status import JobStatus

_COLUMNS = (
    ("Phase", "string", ".status.phase", 0),
    ("Step", "string", ".status.progress.steps", 0),
    ("Loss", "string", ".status.progress.loss", 0),
    ("ETA", "string", ".status.progress.eta", 0),
    ("Attempt", "integer", ".status.attempt", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("MLflow", "string", ".status.mlflow.url", 1),
    ("Method", "string", ".spec.method", 1),
    ("Nodes", "integer", ".spec.trainer.nodes", 1),
    ("Queue", "string", ".spec.queue.name", 1),
    ("Reason", "string", ".status.reason", 1),
    ("Checkpoint", "integer", ".status.checkpoint.step", 1),
    ("Scores", "string", ".status.scores", 1),
)
"""What `kubectl get` shows: name, type, place, and 1 for what only `-o wide` shows."""

_HEADER = "# Written by `python -m tools.generate` from the models in api/unimrg_api; do not edit.\n"


def crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition as plain values."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _schema()},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, **({"priority": priority} if priority else {})}
            for name, kind, path, priority in _COLUMNS
        ],
        "selectableFields": [{"jsonPath": ".spec.method"}, {"jsonPath": ".status.phase"}],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        # Helm's uninstall leaves it, and with it all jobs.
        "metadata": {"name": f"{PLURAL}.{GROUP}", "annotations": {"helm.sh/resource-policy": "keep"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT_NAME],
                "categories": ["training"],
            },
            "versions": [version],
        },
    }


def crd_yaml() -> str:
    """Return the CustomResourceDefinition as a YAML document, the same text every time."""
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 120
    text = StringIO()
    yaml.dump(crd(), text)
    return _HEADER + text.getvalue()


def _schema() -> dict[str, Any]:
    """Return the schema of the whole object; of metadata, API servers allow rules about the name only."""
    spec = structural_schema(JobSpec, defaults=True)
    spec[RULES] = [*spec[RULES], *(rule.to_json() for rule in (*CLUSTER_RULES, *transition_rules()))]
    name = structural_schema(Metadata, defaults=True)["properties"]["name"]
    return {
        "type": "object",
        "description": "A training of a unified multimodal model.",
        "required": ["metadata", "spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"{KIND}."},
            "metadata": {"type": "object", "properties": {"name": name}},
            "spec": spec,
            "status": structural_schema(JobStatus, defaults=False),
        },
    }


_ALWAYS = ("type", "description", "default", RULES)
_KEYWORDS = {
    "string": (*_ALWAYS, "enum", "pattern", "minLength", "maxLength"),
    "integer": (*_ALWAYS, "minimum", "maximum"),
    "boolean": _ALWAYS,
    "array": (*_ALWAYS, "items", "minItems", "maxItems", LIST_TYPE, LIST_KEYS),
    "object": (*_ALWAYS, "properties", "required", "additionalProperties", "maxProperties", PRESERVE),
}
"""For each type: the keywords of its schema, in the order in which they are written."""


def structural_schema(model: type[BaseModel], *, defaults: bool) -> Schema:
    """Return the structural schema of a model.

    `defaults` says whether it names the defaults: the API server fills in those of a spec; a status has one writer,
    which writes them itself. Raises TypeError for what such a schema cannot say.
    """
    schema = model.model_json_schema(by_alias=True)
    return _lower(schema, schema.pop("$defs", {}), defaults, model.__name__)


def _lower(node: Schema, definitions: Mapping[str, Schema], defaults: bool, path: str) -> Schema:
    node = resolved(node, definitions, path)
    node.pop("title", None)
    if isinstance(node.get("additionalProperties"), bool):
        del node["additionalProperties"]  # strict field validation refuses unknown fields, unless they are preserved
    if not defaults or node.get("default", ...) is None:
        node.pop("default", None)
    unknown = set(node) - set(_KEYWORDS.get(node.get("type", ""), ()))
    if unknown or "type" not in node:
        raise TypeError(f"{path} ({node.get('type')}): a custom resource has no {', '.join(sorted(unknown))}")
    if "default" in node:
        node["default"] = without_nulls(node["default"])
    if node["type"] == "array":
        node["items"] = _lower(node["items"], definitions, defaults, f"{path}[]")
        node.setdefault(LIST_TYPE, "atomic")
    if "properties" in node:
        fields = node["properties"].items()
        node["properties"] = {name: _lower(item, definitions, defaults, f"{path}.{name}") for name, item in fields}
    if "additionalProperties" in node:
        node["additionalProperties"] = _lower(node["additionalProperties"], definitions, defaults, f"{path}.*")
    return {keyword: node[keyword] for keyword in _KEYWORDS[node["type"]] if keyword in node}


def without_nulls(value: Any) -> Any:
    """Leave out what a default does not set: absence is not null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
