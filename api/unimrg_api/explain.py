"""Turns pydantic's errors into messages for people: what is wrong, and what to write instead."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

from unimrg_api.fields import DECIMALS, URI_PATTERN, Spec
from unimrg_api.introspection import Location, Schema, fields, format_location, is_required, schema_at
from unimrg_api.job import NAME_PATTERN, NAMESPACE_PATTERN
from unimrg_api.redaction import clean
from unimrg_api.spec_maps import SHA256_PATTERN, WEIGHTS_PATTERN
from unimrg_api.spec_platform import (
    ENDPOINT_PATTERN,
    MOUNT_PATTERN,
    OBJECT_NAME_PATTERN,
    REGION_PATTERN,
    TRACKING_PATTERN,
)

VALUE_LIMIT = 60
"""Characters of a wrong value that are shown."""

_FORMS = {
    **DECIMALS,
    NAME_PATTERN: ("lower-case letters, digits and dashes, from a letter on", ""),
    NAMESPACE_PATTERN: ("lower-case letters, digits and dashes", ""),
    OBJECT_NAME_PATTERN: ("lower-case letters, digits, dashes and single dots", ""),
    REGION_PATTERN: ("lower-case letters, digits and dashes", "us-east-1"),
    ENDPOINT_PATTERN: ("the address of a store: scheme, host, port (at most 65535)", "https://minio.example:9000"),
    TRACKING_PATTERN: ("the address of a tracking server", "http://mlflow:5000"),
    MOUNT_PATTERN: ("an absolute path of plain names, without .. and a slash at the end", "/mnt/data"),
    URI_PATTERN: ("a URI: file://path, or s3://bucket/prefix without white space, backslash or control character", ""),
    WEIGHTS_PATTERN: (
        "a file:// or s3:// URI, or hf://OWNER/NAME@COMMIT with all 40 digits of the commit",
        "hf://facebook/sam-vit-huge@0123456789abcdef0123456789abcdef01234567",
    ),
    SHA256_PATTERN: ("64 hexadecimal digits in small letters, as `sha256sum` prints them", "e3b0c442…"),
}
"""For each form of a text: what it must be, and an example; "": one is made from what was written."""

_KEYS = {
    ENDPOINT_PATTERN: "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    TRACKING_PATTERN: "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
}
"""The variables for the keys that somebody wrote into an address."""


_UNSUPPORTED = {"fp16": "FP16 is not supported: use BF16, which needs no loss scaling"}
"""What people know from elsewhere and is no choice here, in small letters, and what to use instead."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a document, before it is known where in a file it stands."""

    location: Location
    message: str
    remedy: str
    reads: frozenset[Location] = frozenset()
    """Every further place that must be right by itself for this to be true."""
    at_key: bool = False
    """Whether the name of the field is what is wrong, not its value."""
    secret: bool = False
    """Whether the value must not be shown."""
    meant: Location | None = None
    """The field that an unknown one was probably meant to be."""


def explain(root: type[Spec], location: Location, kind: str, value: Any, written: str | None, text: str) -> Finding:
    """Explain one error of a model.

    `kind` and `text` are pydantic's type and message, `value` the wrong value, `written` how it is written in a file.
    """
    if location[-1:] == ("[key]",) and kind != "extra_forbidden":  # pydantic's sign that a key is wrong, not its value
        message = f"{show(location[-2])} is not a possible name here"
        return Finding(location[:-1], message, _description(root, location[:-2]), at_key=True, secret=True)
    if kind == "missing":
        message = "the field is missing, and there is no default for it"
        return Finding(location, message, f"add it: {_description(root, location)}")
    if kind == "extra_forbidden":
        return _unknown(root, location)
    if value is None:
        remedy = "give it a value" if is_required(root, location) else "give it a value, or leave the field out"
        return Finding(location, "the field has no value (null)", remedy)
    schema = schema_at(root, location)
    if schema is None:
        return Finding(location, text[:1].lower() + text[1:], "see docs/reference/job.md")
    label = f"{location[-1]}: " if location and isinstance(location[-1], str) else ""
    if schema.get("pattern") in DECIMALS and "default" not in schema and not is_required(root, location):
        schema = {**schema, "default": None}  # what is usual where there is no default, its description says
    message, remedy = _wrong_value(schema, value, str(value) if written is None else written, label)
    return Finding(location, message, remedy or _description(root, location))


def show(value: Any) -> str:
    """Return a value as Python shows it, on one short line and without keys."""
    text = "null" if value is None else clean(repr(value)).replace("\n", " ")
    return text if len(text) <= VALUE_LIMIT else f"{text[: VALUE_LIMIT - 1]}…"


def closest(text: str, known: list[str]) -> str | None:
    """Return the known name that was most likely meant, if one is near; case, - and _ do not count."""
    plain = {re.sub(r"[-_]", "", item).casefold(): item for item in reversed(known)}
    found = difflib.get_close_matches(re.sub(r"[-_]", "", text).casefold(), list(plain), n=1, cutoff=0.66)
    return plain[found[0]] if found else None


def _unknown(root: type[Spec], location: Location) -> Finding:
    name = str(location[-1])
    known = list((schema_at(root, location[:-1]) or {}).get("properties", {}))
    elsewhere = [
        format_location(place).replace("[0]", "[]")
        for place, _ in fields(root)
        if str(place[-1]).casefold() == name.replace("_", "").casefold()
    ]
    guess = closest(name, known) or (elsewhere[0] if len(elsewhere) == 1 else None)
    remedy = f"did you mean {guess}?" if guess is not None else f"known fields here: {', '.join(known)}"
    meant = (*location[:-1], guess) if guess is not None and guess in known else None
    return Finding(location, f"there is no field {name!r} here", remedy, at_key=True, secret=True, meant=meant)


def _description(root: type[Spec], location: Location) -> str:
    """Return what the field at a place, or the one around it, says about itself."""
    for end in range(len(location), 0, -1):
        schema = schema_at(root, location[:end]) or {}
        if "enum" in schema:
            return f"one of {', '.join(schema['enum'])}"
        if "description" in schema:
            return str(schema["description"][:1].lower() + schema["description"][1:].rstrip("."))
    return "see the reference in docs"


def _wrong_value(schema: Schema, value: Any, written: str, label: str) -> tuple[str, str]:
    """Return what is wrong with a value and what to write instead; an empty remedy: what its field says."""
    noun, kind = _noun(value), schema["type"]
    if kind == "object" and "properties" in schema:
        return f"must hold fields, not {noun}", f"put fields below it: {', '.join(schema['properties'])}"
    if kind == "object" and not isinstance(value, dict):
        return f"must be a mapping of names to values, not {noun}", "write `name: value` lines below it"
    if kind == "array" and not isinstance(value, list):
        remedy = "begin each entry with a dash" if isinstance(value, dict) else f"write {label}[{written}]"
        return f"must be a list, not {noun}", remedy
    if kind in ("array", "object"):
        least, most = schema.get("minItems", 0), schema.get("maxItems", schema.get("maxProperties"))
        return f"has {len(value)} entries, and {least} to {most} are allowed", "add one" if not value else "shorten it"
    if "enum" in schema:
        choices = schema["enum"]
        guess = closest(str(value), choices)
        remedy = f"did you mean {guess}?" if guess and len(choices) > 1 else f"write one of: {', '.join(choices)}"
        remedy = _UNSUPPORTED.get(str(value).casefold(), remedy if len(choices) > 1 else f"write {choices[0]}")
        return f"must be {' or '.join(choices)}", remedy
    if kind == "boolean":
        return f"must be true or false, not {noun}", f"write {label}true or {label}false, without quotes"
    if kind == "integer":
        least, most = schema["minimum"], schema["maximum"]
        message = f"must be a whole number from {least} to {most}"
        plain = re.fullmatch(r"([+-]?[0-9]{1,18})(\.0*)?", str(value))
        if plain and not isinstance(value, int) and least <= int(plain[1]) <= most:
            return f"{message}, without quotes or a decimal point", f"write {label}{int(plain[1])}"
        example = schema.get("default")
        return message, f"write e.g. {label}{least if example is None else example}"
    return _wrong_text(schema, value, written, label)


def _wrong_text(schema: Schema, value: Any, written: str, label: str) -> tuple[str, str]:
    pattern = schema.get("pattern", "")
    wanted, example = _FORMS.get(pattern, ("", ""))
    if pattern in DECIMALS and "default" in schema:
        example = "" if schema["default"] is None else f'"{schema["default"]}"'
    if not isinstance(value, str):
        if isinstance(value, int | float) and (not wanted or re.search(pattern, written)):
            return f"must be a text in quotes, not {_noun(value)}", f'write {label}"{written}"'
        return f"must be {wanted or 'a text'}, not {_noun(value)}", f"write e.g. {label}{example}" if example else ""
    if len(value) > schema.get("maxLength", len(value)):
        return f"is {len(value)} characters long, and at most {schema['maxLength']} are allowed", "shorten it"
    if not value.strip():
        return "is empty", "give it a value, or leave the field out"
    if pattern in _KEYS and "@" in value:
        remedy = f"name a Secret in credentials.secretName; `unimrg run` takes {_KEYS[pattern]} of the environment"
        return "may not hold a user name or password", remedy
    if not wanted:
        return "does not have the form that is wanted", ""
    if pattern in DECIMALS:
        return f"must be {wanted}", f"write e.g. {label}{example}" if example else ""
    slug = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-").lstrip("-0123456789")
    example = _right_uri(value) if pattern == URI_PATTERN else example or slug or "my-job"
    return f"must be {wanted}", f"write e.g. {label}{example}"


def _right_uri(value: str) -> str:
    name, colon, rest = value.strip().partition(":")
    if not colon or name == "file":
        return f"file://{rest.removeprefix('//') or name}"
    bucket, _, key = rest.strip("/").partition("/")
    return f"s3://{bucket.lower() or 'bucket'}/{key or 'prefix'} (buckets: 3 to 63 letters, digits, dots, dashes)"


def _noun(value: Any) -> str:
    for kind, noun in ((bool, "true/false"), (dict, "a mapping"), (list, "a list"), (str, "a text")):
        if isinstance(value, kind):
            return noun
    return "a number"
