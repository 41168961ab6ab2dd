"""The manifest of a checkpoint: which objects belong together, their digests, where each piece of a tensor lies.

It is the only description of a checkpoint; nothing is guessed from names in a store. A manifest of a schema
that this version does not know is refused, never read halfway.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.layout import OBJECT_NAME

SCHEMA_VERSION = 2

Dtype = Literal["float32", "float64", "bfloat16", "float16", "int64", "int32", "uint8", "bool"]
"""Types that a checkpoint can hold, by their names in torch."""

ITEM_BYTES: dict[Dtype, int] = {
    "float32": 4,
    "float64": 8,
    "bfloat16": 2,
    "float16": 2,
    "int64": 8,
    "int32": 4,
    "uint8": 1,
    "bool": 1,
}

Count = Annotated[int, Field(ge=0)]

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CheckpointError(UserError):
    """A checkpoint cannot be written or read; `exit_code` says whether another attempt may help."""

    default_exit_code = ExitCode.UNAVAILABLE


class Unverified(Exception):  # noqa: N818 - a finding about a commit, not a failure of ours
    """A commit is not what its digests say, or a part of it is missing.

    `place` is (object, first byte, bytes) where that was found in an object's content.
    """

    def __init__(self, message: str, place: tuple[str, int, int] | None = None) -> None:
        super().__init__(message)
        self.place = place


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ObjectEntry(_Strict):
    """One safetensors object, named relative to the manifest's folder, with the digests of its chunks.

    Chunk i is the bytes from i * `chunk_bytes` on: so a range can be verified without reading the whole object.
    """

    size: Count
    chunk_bytes: Annotated[int, Field(ge=1)]
    sha256: list[Sha256]


class PieceEntry(_Strict):
    """Where `count` elements from `start` of a flattened tensor lie: from byte `offset` of an object."""

    object: str
    offset: Count
    start: Count
    count: Count


class TensorEntry(_Strict):
    """What one tensor is, and the pieces that it lies in."""

    dtype: Dtype
    shape: list[Count]
    pieces: list[PieceEntry]


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

    @property
    def total_bytes(self) -> int:
        """Size of all objects."""
        return sum(entry.size for entry in self.objects.values())

    def problem(self) -> str | None:
        """Return what contradicts itself in the manifest, None if nothing does."""
        for name, entry in self.objects.items():
            if OBJECT_NAME.fullmatch(name) is None:
                return f"it names {name[:100]!r}, which is not a safetensors object of a rank"
            if len(entry.sha256) != -(-entry.size // entry.chunk_bytes):
                return f"{name} has {len(entry.sha256)} digests for {entry.size} bytes"
        for name, tensor in self.tensors.items():
            wrong = uncovered(tensor.shape, ((piece.start, piece.count) for piece in tensor.pieces))
            if wrong is not None:
                return f"{name[:100]}: {wrong}"
            for piece in tensor.pieces:
                entry_of_piece = self.objects.get(piece.object)
                if entry_of_piece is None:
                    return f"the place of {name[:100]} is unknown"
                if piece.offset + piece.count * ITEM_BYTES[tensor.dtype] > entry_of_piece.size:
                    return f"{name[:100]} ends behind {piece.object}"
        return None


def uncovered(shape: Sequence[int], runs: Iterable[tuple[int, int]]) -> str | None:
    """Return where runs (start, count) do not cover a tensor of `shape` exactly once; None if they do."""
    expected = 0
    for start, count in sorted(runs):
        if start != expected:
            return f"element {min(start, expected)} is held {'twice' if start < expected else 'by nobody'}"
        expected += count
    total = math.prod(shape)
    if expected != total:
        return f"{expected} of its {total} elements are held"
    return None


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
    problem = manifest.problem()
    if problem is not None:
        raise Unverified(f"{key}: {problem}")
    return manifest
