"""The manifest of a checkpoint: which objects belong together, their digests, where each tensor lies.

It is the only description of a checkpoint; nothing is guessed from names in a store. A manifest of a schema
that this version does not know is refused, never read halfway.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.layout import OBJECT_NAME

SCHEMA_VERSION = 1

Dtype = Literal["float32", "float64", "bfloat16", "float16", "int64", "int32", "uint8", "bool"]
"""Types that a checkpoint can hold, by their names in torch."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CheckpointError(UserError):
    """A checkpoint cannot be written or read; `exit_code` says whether another attempt may help."""

    default_exit_code = ExitCode.UNAVAILABLE


class Unverified(Exception):  # noqa: N818 - a finding about a commit, not a failure of ours
    """A commit is not what its digests say, or a part of it is missing."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ObjectEntry(_Strict):
    """One safetensors object, named relative to the manifest's folder."""

    size: int = Field(ge=0)
    sha256: Sha256


class TensorEntry(_Strict):
    """Where one tensor lies and what it is."""

    object: str
    dtype: Dtype
    shape: list[Annotated[int, Field(ge=0)]]


class Manifest(_Strict):
    """A checkpoint's table of contents. `created` is UTC in ISO 8601; digests are SHA-256 in hexadecimal."""

    schema_version: int = SCHEMA_VERSION
    step: int = Field(ge=0)
    attempt: int = Field(ge=0)
    uid: str
    world_size: int = Field(ge=1)
    strategy: str
    reason: str
    created: str
    training_digest: str
    data_digest: str
    mlflow_run_id: str | None
    spool_segments: list[str]
    objects: dict[str, ObjectEntry]
    tensors: dict[str, TensorEntry]


def read_json(content: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object of ours and check its schema version.

    Raises Unverified for what is no such object, UserError (CONFIGURATION) for a version that we do not know.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unverified(f"{what} is not JSON") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if type(version) is not int:
        raise Unverified(f"{what} has no schema version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{what} has schema version {version}, and this version of unimrg reads {SCHEMA_VERSION}",
            remedy="go on with the version that wrote it, or start under another spec.checkpoint.uri",
        )
    return dict(value)


def parse_manifest(content: bytes, key: str) -> Manifest:
    """Read a manifest. Raises Unverified if it is none, UserError for an unknown schema version."""
    value = read_json(content, key)
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        raise Unverified(f"{key} is not a manifest: {error.errors()[0]['msg']}") from error
    for name in manifest.objects:
        if OBJECT_NAME.fullmatch(name) is None:
            raise Unverified(f"{key} names {name[:100]!r}, which is not a safetensors object of a rank")
    for name, tensor in manifest.tensors.items():
        if tensor.object not in manifest.objects:
            raise Unverified(f"{key}: the place of {name[:100]} is unknown")
    return manifest
