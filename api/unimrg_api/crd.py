"""The CustomResourceDefinition of a job: schema, rules and columns, all from the models."""

from __future__ import annotations

from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from unimrg_api.cluster import GROUP, PLURAL, SHORT_NAME, SINGULAR, VERSION
from unimrg_api.fields import RULES, FieldRule
from unimrg_api.job import KIND, JobSpec, Metadata
from unimrg_api.locality import CLUSTER_RULES
from unimrg_api.lowering import structural_schema
from unimrg_api.status import JobStatus

_SPEC_STAYS = FieldRule(
    "spec",
    "the spec of a job cannot be changed, for what has run would no longer be what it says",
    "create a job with another name",
    lambda job: True,  # only an API server sees both
    "self.spec == oldSelf.spec",
)

_COLUMNS = (
    ("Phase", "string", ".status.phase", 0),
    ("Step", "string", ".status.progress.steps", 0),
    ("Loss", "string", ".status.progress.loss", 0),
    ("ETA", "string", ".status.progress.eta", 0),
    ("MLflow", "string", ".status.mlflow.url", 0),
    ("Attempt", "integer", ".status.attempt", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Method", "string", ".spec.method", 1),
    ("Nodes", "integer", ".spec.trainer.nodes", 1),
    ("Reason", "string", ".status.reason", 1),
    ("Checkpoint", "integer", ".status.checkpoint.step", 1),
)
"""What `kubectl get` shows: name, type, place, and 1 for what only `-o wide` shows."""

_HEADER = "# Written by `python tools/generate.py` from the models in api/unimrg_api; do not edit.\n"


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
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
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
    spec[RULES] = [*spec[RULES], *(rule.to_json() for rule in CLUSTER_RULES)]
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
        RULES: [_SPEC_STAYS.to_json()],
    }
