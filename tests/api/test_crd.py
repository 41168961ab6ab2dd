"""The schema of the custom resource has bounds everywhere, and what no schema can say is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import Field, create_model

from tools.crd import crd, structural_schema
from unimrg_api.fields import PRESERVE

Schema = dict[str, Any]
SCHEMA: Schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}" if path else name)
    for keyword, sign in (("items", "[]"), ("additionalProperties", ".*")):
        if keyword in schema:
            yield from nodes(schema[keyword], path + sign)


def test_every_node_has_a_bound_and_every_field_a_description() -> None:
    found = list(nodes(SCHEMA))
    assert len(found) > 120
    for path, schema in found:
        kind = schema["type"]
        if kind == "string" and path not in ("apiVersion", "kind"):
            assert "maxLength" in schema or "enum" in schema, path
        if kind == "array":
            assert "maxItems" in schema, path
        if kind == "object" and "properties" not in schema and PRESERVE not in schema:
            assert "maxProperties" in schema, path
        if kind == "integer" and path.startswith("spec"):
            assert {"minimum", "maximum"} <= set(schema), path
        if path.startswith("spec.") and not path.endswith(("[]", ".*")):
            assert schema["description"].endswith("."), path
        assert not (path.startswith("status") and "default" in schema), "a status has one writer"


@pytest.mark.parametrize(
    "annotation",
    [Annotated[int, Field(gt=0)], Annotated[int, Field(multiple_of=2)], float, int | str, tuple[int, int], Any],
    ids=str,
)
def test_what_a_custom_resource_cannot_say_is_refused_with_its_place(annotation: Any) -> None:
    part: Any = create_model("Part", field=(annotation, ...))
    model = create_model("Model", part=(Annotated[list[part], Field(max_length=1)], ...))
    with pytest.raises(TypeError, match=r"Model\.part\[\]\.field"):
        structural_schema(model, defaults=True)
