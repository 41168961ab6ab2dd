"""Finds the newest commit that verifies, and quarantines those that do not, for people to look at.

Only evidence quarantines a commit: something missing, or bytes that contradict a digest. A store that cannot
be reached, or a schema of a newer version, is an error to report and says nothing about the commit.
"""

from __future__ import annotations

import hashlib
import logging
import time

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors

from unimrg_api.commits import ROOT
from unimrg_api.digests import canonical_json
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.agreement import Agreement, on_all_ranks, on_first_rank
from unimrg_trainer.checkpoint.commit import Commit, read_marker
from unimrg_trainer.checkpoint.layout import Marker, read_listing
from unimrg_trainer.checkpoint.manifest import SCHEMA_VERSION, CheckpointError, Manifest, Unverified
from unimrg_trainer.checkpoint.reader import get_verifiable, list_commits, read_manifest, verify
from unimrg_trainer.checkpoint.state import DTYPES, TrainingState
from unimrg_trainer.storage.base import AlreadyExists, ObjectStore

logger = logging.getLogger(__name__)

WEIGHTS = "model/"
"""How the names of weights begin in a state."""


def newest_verified(store: ObjectStore) -> Commit | None:
    """Return the newest commit whose manifest and object sizes verify; None if the run never committed.

    Commits that do not verify are quarantined on the way. Raises CheckpointError (NO_VALID_CHECKPOINT) if
    there are commits and none verifies: starting anew would throw away work without anybody deciding so.
    """
    seen = read_listing(store.list(ROOT))
    findings = [f"step {marker.step} was quarantined before" for marker in sorted(seen.quarantined)]
    for marker in seen.candidates():
        try:
            commit = read_marker(store, marker)
            verify(store, commit)
        except Unverified as finding:
            findings.append(f"step {marker.step}: {finding}")
            quarantine(store, marker, str(finding))
        else:
            return commit
    if not seen.committed:
        return None
    raise CheckpointError(
        f"there are commits below {store.uri}/{ROOT}, and none verifies: {'; '.join(findings)}",
        remedy="restore the objects and delete the QUARANTINED objects, or start over under another"
        " spec.checkpoint.uri",
        exit_code=ExitCode.NO_VALID_CHECKPOINT,
    )


def quarantine(store: ObjectStore, marker: Marker, finding: str) -> None:
    """Quarantine a commit: nobody loads it any more, and its step can be committed again.

    Nothing happens if the marker is gone: then retention deleted the commit while we looked at it.
    """
    if store.size(marker.key) is None:
        return
    logger.warning("step %d is quarantined, its commit %s does not verify: %s", marker.step, marker.key, finding)
    content = {"schema_version": SCHEMA_VERSION, "finding": finding, "created": time.time()}
    try:
        store.put(marker.quarantine_key, canonical_json(content).encode(), if_absent=True)
    except AlreadyExists:
        logger.info("%s was there already", marker.quarantine_key)


def load_newest(
    store: ObjectStore, agreement: Agreement, *, training_digest: str | None = None
) -> tuple[Commit, TrainingState] | None:
    """Read the newest commit that verifies to its last byte, the same on every rank; None without any.

    Rank 0 chooses, every rank reads. A commit that rank 0 finds damaged is quarantined, and the next older one is
    taken. With `training_digest`, a commit of another training is refused. Raises CheckpointError on every rank:
    NO_VALID_CHECKPOINT as in `newest_verified`, CONFIGURATION for another training or an unknown schema.
    """
    while True:
        commit = on_first_rank(agreement, "looking for a checkpoint", lambda: newest_verified(store))
        if commit is None:
            return None
        state = _read_on_all_ranks(store, agreement, commit, training_digest)
        if state is not None:
            return commit, state


def _read_on_all_ranks(
    store: ObjectStore, agreement: Agreement, commit: Commit, training_digest: str | None
) -> TrainingState | None:
    """Read a commit on every rank; quarantine it and return None if rank 0 finds it damaged."""
    what = f"reading the checkpoint of step {commit.step}"
    loaded: list[TrainingState] = []
    answers = on_all_ranks(agreement, what, lambda: _read(store, commit, training_digest, loaded))
    found = [(rank, finding) for rank, finding in enumerate(answers) if finding is not None]
    if not found:
        return loaded[0]
    rank, finding = found[0]
    if rank != 0:
        # Rank 0 read the same objects and they were right: the fault lies between the store and that rank.
        raise CheckpointError(f"{what} failed: rank {rank}, unlike rank 0, found: {finding}")
    on_first_rank(
        agreement,
        f"quarantining the checkpoint of step {commit.step}",
        lambda: quarantine(store, commit.marker, finding),
    )
    return None


def _read(store: ObjectStore, commit: Commit, training_digest: str | None, into: list[TrainingState]) -> str | None:
    """Put the state into `into` and return what is wrong with the commit, if anything is.

    What a rank returns is sent to all others, and a state is large.
    """
    try:
        manifest = read_manifest(store, commit)
        if training_digest is not None and manifest.training_digest != training_digest:
            raise UserError(
                f"{store.uri}/{commit.key} belongs to another training: its configuration has digest"
                f" {manifest.training_digest}, the job's has {training_digest}",
                remedy="give this job a spec.checkpoint.uri of its own",
            )
        into.append(read_state(store, commit, manifest))
    except Unverified as finding:
        return str(finding)
    return None


def read_weights(store: ObjectStore) -> tuple[Commit, dict[str, torch.Tensor]]:
    """Read the weights of the newest commit that verifies, by the names of the module; moments are left out.

    Changes nothing. Raises UserError (INPUT_MISSING) without one, DATA_CORRUPT where the weights differ from it.
    """
    for commit in list_commits(store):
        try:
            manifest = verify(store, commit)
            weights: dict[str, torch.Tensor] = {}
            for name in manifest.objects:
                held = _read_object(store, commit, manifest, name)
                weights |= {key.removeprefix(WEIGHTS): held[key] for key in held if key.startswith(WEIGHTS)}
        except Unverified as finding:
            logger.warning("the commit of step %d is damaged: %s", commit.step, finding)
        else:
            return commit, weights
    raise UserError(
        f"{store.uri} holds no checkpoint that verifies",
        remedy="give the job's file, the folder or the URI of a run that has committed",
        exit_code=ExitCode.INPUT_MISSING,
    )


def read_state(store: ObjectStore, commit: Commit, manifest: Manifest) -> TrainingState:
    """Read all tensors [shapes and types of the manifest], comparing the digest of every object.

    Raises Unverified if anything differs from the manifest, StorageError if the store cannot be read now.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name in manifest.objects:
        tensors |= _read_object(store, commit, manifest, name)
    return TrainingState(manifest.step, {name: tensors[name] for name in manifest.tensors})


def _read_object(store: ObjectStore, commit: Commit, manifest: Manifest, name: str) -> dict[str, torch.Tensor]:
    """Read the tensors of one object. Raises Unverified if anything differs from the manifest."""
    key = commit.folder + name
    content = get_verifiable(store, key)
    if hashlib.sha256(content).hexdigest() != manifest.objects[name].sha256:
        raise Unverified(f"{key} is not what was written: its SHA-256 differs")
    try:
        held: dict[str, torch.Tensor] = from_safetensors(content)
    except SafetensorError as error:
        raise Unverified(f"{key} is not a safetensors object: {error}") from error
    wanted = {tensor: place for tensor, place in manifest.tensors.items() if place.object == name}
    if held.keys() != wanted.keys():
        raise Unverified(f"{key} does not hold the tensors that its manifest names")
    for tensor, place in wanted.items():
        found = held[tensor]
        if found.dtype != DTYPES[place.dtype] or list(found.shape) != place.shape:
            raise Unverified(f"{tensor} is {found.dtype} {list(found.shape)}, unlike its manifest")
    return held
