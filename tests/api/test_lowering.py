"""Models become structural schemas, and what cannot become one is refused with its place."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model

from unimrg_api.lowering import structural_schema

Word = Annotated[str, Field(max_length=8)]
RULE, OTHER = {"rule": "self.size > 0", "message": "empty"}, {"rule": "self.size < 9", "message": "full"}


class Inner(BaseModel):
    """What the inner part is."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, json_schema_extra={"x-kubernetes-validations": [RULE]}
    )

    size: Annotated[int, Field(ge=0, le=9)] = 3
    """How large,
    in apples."""
    word: Word | None = None


class Outer(BaseModel):
    """What the outer part is."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    kind: Literal["Only"]
    inner: Annotated[Inner | None, Field(json_schema_extra={"x-kubernetes-validations": [OTHER]})] = Inner(size=5)
    """What it is here."""
    inners: Annotated[list[Inner], Field(max_length=2)] = []
    names: Annotated[dict[str, Word], Field(max_length=4)] | None = None


def test_references_are_resolved_and_what_stands_at_the_field_wins() -> None:
    schema = structural_schema(Outer, defaults=True)
    size = {"type": "integer", "description": "How large, in apples.", "default": 3, "minimum": 0, "maximum": 9}
    assert schema["properties"]["inner"] == {
        "type": "object",
        "description": "What it is here.",
        "default": {"size": 5},
        "properties": {"size": size, "word": {"type": "string", "maxLength": 8}},
        "x-kubernetes-validations": [RULE, OTHER],
    }
    assert schema["properties"]["kind"] == {"type": "string", "enum": ["Only"]}
    assert schema["required"] == ["kind"]
    assert schema["properties"]["inners"]["x-kubernetes-list-type"] == "atomic"
    assert schema["properties"]["inners"]["items"]["x-kubernetes-validations"] == [RULE]
    assert schema["properties"]["names"]["additionalProperties"] == {"type": "string", "maxLength": 8}
    assert "default" not in str(structural_schema(Outer, defaults=False))


@pytest.mark.parametrize(
    "annotation",
    [Annotated[int, Field(gt=0)], Annotated[int, Field(multiple_of=2)], float, bool, int | Word, tuple[int, int], Any],
    ids=str,
)
def test_what_a_custom_resource_cannot_say_is_refused_with_its_place(annotation: Any) -> None:
    part: Any = create_model("Part", field=(annotation, ...))
    model = create_model("Model", part=(Annotated[list[part], Field(max_length=1)], ...))
    with pytest.raises(TypeError, match=r"Model\.part\[\]\.field"):
        structural_schema(model, defaults=True)
