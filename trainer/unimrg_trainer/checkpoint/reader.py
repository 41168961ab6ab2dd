"""Reads a commit back and believes nothing but its digests. JSON and safetensors only; no pickle."""

from __future__ import annotations

import hashlib

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors

from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.checkpoint.manifest import Manifest, Unverified, parse_manifest
from unimrg_trainer.checkpoint.state import DTYPES, TrainingState
from unimrg_trainer.storage.base import NotFound, ObjectStore


def read_manifest(store: ObjectStore, commit: Commit) -> Manifest:
    """Return a commit's manifest, checked against the marker's digest.

    Raises Unverified if it is missing or damaged, UserError for an unknown schema version, StorageError if
    the store cannot be read now.
    """
    content = _get(store, commit.manifest_key)
    if hashlib.sha256(content).hexdigest() != commit.manifest_sha256:
        raise Unverified(f"{commit.manifest_key} is not what {commit.key} names")
    manifest = parse_manifest(content, commit.manifest_key)
    if manifest.step != commit.step:
        raise Unverified(f"{commit.manifest_key} is of step {manifest.step}")
    return manifest


def verify(store: ObjectStore, commit: Commit) -> Manifest:
    """Check marker → manifest → presence and size of every object, without reading tensors.

    Raises like `read_manifest`.
    """
    manifest = read_manifest(store, commit)
    sizes = dict(store.list(commit.folder))
    for name, entry in manifest.objects.items():
        size = sizes.get(commit.folder + name)
        if size is None:
            raise Unverified(f"{commit.folder}{name} is missing")
        if size != entry.size:
            raise Unverified(f"{commit.folder}{name} has {size} bytes instead of {entry.size}")
    return manifest


def read_state(store: ObjectStore, commit: Commit, manifest: Manifest) -> TrainingState:
    """Read all tensors [shapes and types of the manifest], comparing the digest of every object.

    Raises Unverified if anything differs from the manifest, StorageError if the store cannot be read now.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, entry in manifest.objects.items():
        key = commit.folder + name
        content = _get(store, key)
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise Unverified(f"{key} is not what was written: its SHA-256 differs")
        try:
            held = from_safetensors(content)
        except SafetensorError as error:
            raise Unverified(f"{key} is not a safetensors object: {error}") from error
        wanted = {tensor for tensor, place in manifest.tensors.items() if place.object == name}
        if set(held) != wanted:
            raise Unverified(f"{key} does not hold the tensors that its manifest names")
        tensors |= held
    for tensor, place in manifest.tensors.items():
        found = tensors[tensor]
        if found.dtype != DTYPES[place.dtype] or list(found.shape) != place.shape:
            raise Unverified(f"{tensor} is {found.dtype} {list(found.shape)}, unlike its manifest")
    return TrainingState(manifest.step, {name: tensors[name] for name in manifest.tensors}, manifest.extra)


def _get(store: ObjectStore, key: str) -> bytes:
    try:
        return store.get(key)
    except NotFound as error:
        raise Unverified(f"{key} is missing") from error
