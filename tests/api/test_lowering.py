"""Models become structural schemas, and what cannot become one is refused with its place."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model

from unimrg_api.lowering import NotLowerableError, structural_schema

Word = Annotated[str, Field(max_length=8)]


class Inner(BaseModel):
    """What the inner part is."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    size: Annotated[int, Field(ge=0, le=9)] = 3
    """How large,
    in apples."""
    word: Word | None = None


class Outer(BaseModel):
    """What the outer part is."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    kind: Literal["Only"]
    inner: Inner = Inner(size=5)
    """What it is here."""
    inners: Annotated[list[Inner], Field(max_length=2)] = []
    names: Annotated[dict[str, Word], Field(max_length=4)] | None = None


def test_references_are_put_in_place_and_what_stands_at_the_field_wins() -> None:
    inner = structural_schema(Outer, defaults=True)["properties"]["inner"]
    assert inner == {
        "type": "object",
        "description": "What it is here.",
        "default": {"size": 5},
        "properties": {
            "size": {
                "type": "integer",
                "description": "How large, in apples.",
                "default": 3,
                "minimum": 0,
                "maximum": 9,
            },
            "word": {"type": "string", "maxLength": 8},
        },
    }


RULE, OTHER = {"rule": "self.size > 0", "message": "empty"}, {"rule": "self.size < 9", "message": "full"}


class Ruled(Inner):
    """A part with a rule of its own."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [RULE]})


@pytest.mark.parametrize("part", [Ruled, Ruled | None])
def test_rules_of_a_field_come_beside_those_of_what_it_holds(part: Any) -> None:
    ruled = Field(json_schema_extra={"x-kubernetes-validations": [OTHER]})
    model = create_model("Model", part=(Annotated[part, ruled], None), plain=(part, None))
    found = structural_schema(model, defaults=True)["properties"]
    assert found["part"]["x-kubernetes-validations"] == [RULE, OTHER]
    assert found["plain"]["x-kubernetes-validations"] == [RULE]


def test_a_single_choice_is_an_enumeration_and_required_what_has_no_default() -> None:
    schema = structural_schema(Outer, defaults=True)
    assert schema["properties"]["kind"] == {"type": "string", "enum": ["Only"]}
    assert schema["required"] == ["kind"]


def test_a_list_is_atomic_unless_the_model_says_otherwise() -> None:
    assert structural_schema(Outer, defaults=True)["properties"]["inners"]["x-kubernetes-list-type"] == "atomic"
    keyed = Field(max_length=2, json_schema_extra={"x-kubernetes-list-type": "set"})
    model = create_model("Model", names=(Annotated[list[Word], keyed], ...))
    assert structural_schema(model, defaults=True)["properties"]["names"]["x-kubernetes-list-type"] == "set"


def test_a_mapping_keeps_the_schema_of_its_values() -> None:
    assert structural_schema(Outer, defaults=True)["properties"]["names"] == {
        "type": "object",
        "additionalProperties": {"type": "string", "maxLength": 8},
        "maxProperties": 4,
    }


def test_without_defaults_no_default_is_named_at_any_depth() -> None:
    assert "default" in str(structural_schema(Outer, defaults=True))
    assert "default" not in str(structural_schema(Outer, defaults=False))


class Endless(BaseModel):
    """A part that holds itself."""

    again: Endless | None = None


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (str, "this string has no upper bound"),
        (list[int], "this array has no upper bound"),
        (dict[str, Word], "this object has no upper bound"),
        (Annotated[dict[str, Any], Field(max_length=3)], "either named fields, or values of one type"),
        (dict[Annotated[str, Field(max_length=3)], Word], "propertyNames"),
        (Annotated[int, Field(gt=0)], "exclusiveMinimum"),
        (Annotated[int, Field(multiple_of=2)], "multipleOf"),
        (float, "the type number"),
        (bool, "the type boolean"),
        (int | Word, "a union of 2 types"),
        (tuple[int, int], "prefixItems"),
        (Annotated[set[int], Field(max_length=3)], "uniqueItems"),
        (Literal[1, 2], "enum"),
        (Literal["a", 1], "the type None"),
        (Any, "the type None"),
        (Endless, "Endless holds itself"),
    ],
    ids=str,
)
def test_what_a_custom_resource_cannot_say_is_refused_with_its_place(annotation: Any, words: str) -> None:
    model = create_model(
        "Model", part=(Annotated[list[create_model("Part", field=(annotation, ...))], Field(max_length=1)], ...)
    )
    with pytest.raises(NotLowerableError, match=words) as caught:
        structural_schema(model, defaults=True)
    assert str(caught.value).startswith("Model.part[].field")
