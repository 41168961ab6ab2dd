"""Writes a checkpoint from all ranks at once: each its share of the tensors, all of them one decision."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from safetensors.torch import save as to_safetensors

from unimrg_api.digests import sha256_of
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.agreement import Agreement, on_all_ranks, on_first_rank
from unimrg_trainer.checkpoint.commit import Commit, publish, reserve
from unimrg_trainer.checkpoint.layout import object_name
from unimrg_trainer.checkpoint.manifest import CheckpointError, Manifest, ObjectEntry, TensorEntry
from unimrg_trainer.checkpoint.state import DTYPE_NAMES, TrainingState
from unimrg_trainer.storage.base import ObjectStore

OBJECT_BYTES = 1 << 30
"""Size from which a rank's share is split: bounds memory, and S3 takes at most 5 GiB in one request."""


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint comes from; goes into its manifest as it stands."""

    uid: str
    attempt: int
    strategy: str
    training_digest: str
    data_digest: str
    reason: str = ""
    mlflow_run_id: str | None = None
    spool_segments: list[str] = field(default_factory=list)


Written = tuple[str, ObjectEntry, list[str]]
"""One object that a rank has written: its name, its entry in the manifest, and its tensors."""


def write_checkpoint(store: ObjectStore, state: TrainingState, origin: Origin, agreement: Agreement) -> Commit:
    """Commit `state`, which every rank holds as a whole; returns the same commit on every rank.

    Every rank raises the same CheckpointError if any of them fails; then nothing is committed. The one
    exception is a rank lost after the marker was written: the others fail, and the commit stands.
    """
    what = f"the checkpoint of step {state.step}"
    _agree_on_contents(state, what, agreement)
    marker, folder = on_first_rank(agreement, f"reserving {what}", lambda: reserve(store, state.step, origin.attempt))
    sizes = {name: tensor.nbytes for name, tensor in state.tensors.items()}
    names = shares(sizes, agreement.world_size)[agreement.rank]
    written = on_all_ranks(
        agreement, f"writing {what}", lambda: write_share(store, folder, state, names, agreement.rank)
    )

    def publishing() -> Commit:
        objects = [one for share in written for one in share]
        return publish(store, marker, folder, _manifest(state, origin, agreement.world_size, objects))

    return on_first_rank(agreement, f"publishing {what}", publishing)


def shares(sizes: Mapping[str, int], world_size: int) -> list[list[str]]:
    """Deal tensors (bytes by name) to ranks: the largest first, each to the rank with least so far.

    The same on every rank; no rank has more than the mean and one tensor.
    """
    result: list[list[str]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        rank = loads.index(min(loads))
        result[rank].append(name)
        loads[rank] += sizes[name]
    return [sorted(names) for names in result]


def parts(names: Sequence[str], sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Cut a share into objects of at most `limit` bytes of tensors; a larger tensor has one of its own."""
    result: list[list[str]] = []
    filled = 0
    for name in names:
        if not result or filled + sizes[name] > limit:
            result.append([])
            filled = 0
        result[-1].append(name)
        filled += sizes[name]
    return result


def write_share(
    store: ObjectStore, folder: str, state: TrainingState, names: Sequence[str], rank: int
) -> list[Written]:
    """Write this rank's tensors below `folder`; nothing if it has none."""
    sizes = {name: state.tensors[name].nbytes for name in names}
    written = []
    for part, chosen in enumerate(parts(names, sizes, OBJECT_BYTES)):
        content = to_safetensors({name: state.tensors[name].contiguous() for name in chosen})
        name = object_name(rank, part)
        store.put(folder + name, content)
        entry = ObjectEntry(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        written.append((name, entry, chosen))
    return written


def _agree_on_contents(state: TrainingState, what: str, agreement: Agreement) -> None:
    """Make sure that every rank is about to write its share of the same thing."""

    def outline() -> str:
        problem = state.problem()
        if problem is not None:
            raise CheckpointError(problem, exit_code=ExitCode.PROGRAM)
        tensors = {name: [str(t.dtype), list(t.shape)] for name, t in state.tensors.items()}
        return sha256_of({"step": state.step, "tensors": tensors})

    outlines = on_all_ranks(agreement, what, outline)
    others = [rank for rank, one in enumerate(outlines) if one != outlines[0]]
    if others:
        raise CheckpointError(
            f"{what} failed: rank 0 and ranks {', '.join(map(str, others))} hold different steps or tensors",
            exit_code=ExitCode.PROGRAM,
        )


def _manifest(state: TrainingState, origin: Origin, world_size: int, objects: Sequence[Written]) -> Manifest:
    places = {tensor: name for name, _, tensors in objects for tensor in tensors}
    return Manifest(
        **asdict(origin),
        step=state.step,
        world_size=world_size,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        objects={name: entry for name, entry, _ in objects},
        tensors={
            name: TensorEntry(object=place, dtype=DTYPE_NAMES[tensor.dtype], shape=list(tensor.shape))
            for name, place in places.items()
            for tensor in (state.tensors[name],)
        },
    )
