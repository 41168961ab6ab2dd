"""Finds the newest commit that verifies, and quarantines those that do not, for people to look at.

Only evidence quarantines a commit: something missing, or bytes that contradict a digest. A store that cannot
be reached, or a schema of a newer version, is an error to report and says nothing about the commit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

import torch

from unimrg_api.commits import ROOT
from unimrg_api.digests import canonical_json
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.agreement import Agreement, on_all_ranks, on_first_rank
from unimrg_trainer.checkpoint.commit import Commit, best_first, read_marker, read_markers
from unimrg_trainer.checkpoint.layout import Marker, read_listing
from unimrg_trainer.checkpoint.manifest import SCHEMA_VERSION, CheckpointError, Unverified
from unimrg_trainer.checkpoint.objects import VerifiedObjects
from unimrg_trainer.checkpoint.reader import list_commits, read_manifest, verify
from unimrg_trainer.checkpoint.tensors import CommitReader
from unimrg_trainer.storage.base import AlreadyExists, ObjectStore

logger = logging.getLogger(__name__)

WEIGHTS = "model/"
"""How the names of weights begin in a state."""


def newest_verified(store: ObjectStore, *, best: bool = False) -> Commit | None:
    """Return the newest commit whose manifest and object sizes verify; None if the run never committed.

    With `best` it is the one with the lowest score, and the newest where none has one. Commits that do not verify are
    quarantined on the way. Raises CheckpointError (NO_VALID_CHECKPOINT) if there are commits and none verifies:
    starting anew would throw away work without anybody deciding so.
    """
    seen = read_listing(store.list(ROOT))
    findings = [f"step {marker.step} was quarantined before" for marker in sorted(seen.quarantined)]
    markers = seen.candidates()
    if best:
        readable, unreadable = read_markers(store, markers)
        markers = [*unreadable, *(commit.marker for commit in best_first(readable.values()))]
    for marker in markers:
        try:
            commit = read_marker(store, marker)
            verify(store, commit)
        except Unverified as finding:
            findings.append(f"step {marker.step}: {finding}")
            quarantine(store, marker, str(finding))
        else:
            return commit
    if not seen.committed and not seen.quarantined:
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


def damaged_beyond(store: ObjectStore, step: int) -> list[int]:
    """Return the steps beyond `step` whose commits were quarantined, so that training has to go on from `step`."""
    return sorted({marker.step for marker in read_listing(store.list(ROOT)).quarantined if marker.step > step})


def load_newest(
    store: ObjectStore,
    agreement: Agreement,
    import_state: Callable[[CommitReader], None],
    *,
    training_digest: str | None = None,
    best: bool = False,
) -> Commit | None:
    """Let every rank import the newest commit that verifies, or the best, the same one; None without any.

    Rank 0 chooses as `newest_verified` does; `import_state` reads what its rank needs and verifies what it reads. A
    commit that a rank finds damaged, and rank 0 too, is quarantined, and every rank imports the next one instead. With
    `training_digest` a commit of another training is refused. Raises CheckpointError on every rank: NO_VALID_CHECKPOINT
    as in `newest_verified`, CONFIGURATION for another training or an unknown schema. An error of `import_state` itself
    is raised as it is on its rank, and as COMMUNICATION on the others.
    """
    while True:
        commit = on_first_rank(agreement, "looking for a checkpoint", lambda: newest_verified(store, best=best))
        if commit is None or import_commit(store, agreement, commit, import_state, training_digest):
            return commit


def import_commit(
    store: ObjectStore,
    agreement: Agreement,
    commit: Commit,
    import_state: Callable[[CommitReader], None],
    training_digest: str | None,
) -> bool:
    """Import a commit on every rank, a collective call; quarantine it and return False if it is damaged.

    Raises as `load_newest`.
    """
    what = f"reading the checkpoint of step {commit.step}"
    broken: list[Exception] = []

    def part() -> Unverified | Literal["broken"] | None:
        try:
            return _import(store, commit, import_state, training_digest)
        except UserError:
            raise
        except Exception as error:
            broken.append(error)
            return "broken"

    answers = on_all_ranks(agreement, what, part)
    if broken:
        raise broken[0]  # as it is: a device that fails is classified by it
    if "broken" in answers:
        failed = ", ".join(str(rank) for rank, answer in enumerate(answers) if answer == "broken")
        raise CheckpointError(f"{what} failed on rank {failed}, see there", exit_code=ExitCode.COMMUNICATION)
    found = [(rank, finding) for rank, finding in enumerate(answers) if isinstance(finding, Unverified)]
    if not found:
        return True
    rank, finding = found[0]

    def quarantine_if_confirmed() -> None:
        if rank != 0 and not _finds_too(store, commit, finding):
            # the fault lies between the store and that rank
            raise CheckpointError(f"rank {rank}, unlike rank 0, found: {finding}")
        quarantine(store, commit.marker, str(finding))

    on_first_rank(agreement, what, quarantine_if_confirmed)
    return False


def _import(
    store: ObjectStore, commit: Commit, import_state: Callable[[CommitReader], None], training_digest: str | None
) -> Unverified | None:
    """Import a commit on this rank and return what is wrong with it, if anything is."""
    try:
        manifest = read_manifest(store, commit)
        if training_digest is not None and manifest.training_digest != training_digest:
            raise UserError(
                f"{store.uri}/{commit.key} belongs to another training: its configuration has digest"
                f" {manifest.training_digest}, the job's has {training_digest}",
                remedy="give this job a spec.checkpoint.uri of its own",
            )
        import_state(CommitReader(store, commit, manifest))
    except Unverified as finding:
        return finding.with_traceback(None)
    return None


def _finds_too(store: ObjectStore, commit: Commit, finding: Unverified) -> bool:
    """Whether what another rank found wrong is wrong from here too."""
    try:
        manifest = verify(store, commit)
        if finding.place is not None:
            name, offset, length = finding.place
            content = memoryview(bytearray(length))
            VerifiedObjects(store, commit.folder, manifest).read_into(name, offset, content)
    except Unverified:
        return True
    return False


def read_weights(store: ObjectStore) -> tuple[Commit, dict[str, torch.Tensor]]:
    """Read the weights of the newest commit that verifies, by the names of the module; moments are left out.

    Changes nothing. Raises UserError (INPUT_MISSING) without one.
    """
    for commit in list_commits(store):
        try:
            reader = CommitReader(store, commit, verify(store, commit))
            return commit, {
                name.removeprefix(WEIGHTS): reader.read_whole(name)
                for name in reader.tensors
                if name.startswith(WEIGHTS)
            }
        except Unverified as finding:
            logger.warning("the commit of step %d is damaged: %s", commit.step, finding)
    raise UserError(
        f"{store.uri} holds no checkpoint that verifies",
        remedy="give the job's file, the folder or the URI of a run that has committed",
        exit_code=ExitCode.INPUT_MISSING,
    )
