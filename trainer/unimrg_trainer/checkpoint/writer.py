"""Writes a checkpoint from all ranks at once: each the pieces that it holds, all of them one decision."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch

from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.agreement import Agreement, on_all_ranks, on_first_rank
from unimrg_trainer.checkpoint.commit import Commit, publish, reserve
from unimrg_trainer.checkpoint.layout import object_name
from unimrg_trainer.checkpoint.manifest import (
    CheckpointError,
    Dtype,
    Manifest,
    ObjectEntry,
    PieceEntry,
    TensorEntry,
    uncovered,
)
from unimrg_trainer.checkpoint.objects import CHUNK_BYTES, BufferStream, Header, describe, header_bytes
from unimrg_trainer.checkpoint.state import DTYPE_NAMES, LocalState, Piece
from unimrg_trainer.storage.base import ObjectStore

OBJECT_BYTES = 1 << 30
"""Size from which a rank's pieces are split: what has to be sent again if an upload is lost."""


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


@dataclass(frozen=True)
class Run:
    """A piece without its values: `count` elements from `start` of a tensor."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    start: int
    count: int


Written = tuple[str, ObjectEntry, list[PieceEntry]]
"""One object that a rank has written: its name, its entry in the manifest, and where its pieces lie, in their order."""


def write_checkpoint(
    store: ObjectStore,
    state: LocalState,
    origin: Origin,
    agreement: Agreement,
    before_commit: Callable[[], None] = lambda: None,
    score: float | None = None,
    misses: int = 0,
) -> Commit:
    """Commit the state of which every rank holds its pieces; returns the same commit on every rank.

    `before_commit` writes what the manifest refers to, on rank 0; `score` and `misses` are those of `Commit`. Every
    rank raises the same CheckpointError if any of them fails; then nothing is committed. The one exception is a rank
    lost after the marker was written: the others fail, and the commit stands.
    """
    what = f"the checkpoint of step {state.step}"
    objects: list[list[Piece]] = []
    runs = _agree_on_contents(state, objects, what, agreement)
    marker, folder = on_first_rank(agreement, f"reserving {what}", lambda: reserve(store, state.step, origin.attempt))
    written = on_all_ranks(agreement, f"writing {what}", lambda: write_objects(store, folder, objects, agreement.rank))

    def publishing() -> Commit:
        before_commit()
        places = [place for share in written for _, _, places in share for place in places]
        tensors: dict[str, TensorEntry] = {}
        for run, place in zip(runs, places, strict=True):
            entry = tensors.setdefault(run.name, TensorEntry(dtype=run.dtype, shape=list(run.shape), pieces=[]))
            entry.pieces.append(place)
        manifest = Manifest(
            **asdict(origin),
            step=state.step,
            world_size=agreement.world_size,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            objects={name: entry for share in written for name, entry, _ in share},
            tensors=tensors,
        )
        return publish(store, marker, folder, manifest, score, misses)

    return on_first_rank(agreement, f"publishing {what}", publishing)


def assign_to_ranks(sizes: Mapping[str, int], world_size: int) -> list[list[str]]:
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


def split_into_objects(pieces: Sequence[Piece], limit: int) -> list[list[Piece]]:
    """Deal pieces to objects of at most `limit` bytes of values, wide types first, as safetensors aligns them.

    Only a piece that is larger than an object is cut.
    """
    result: list[list[Piece]] = []
    room = 0
    for whole in sorted(pieces, key=lambda piece: -piece.values.itemsize):
        piece, size = whole, whole.values.itemsize
        while True:
            if not result or room < min(piece.values.nbytes, limit):
                result.append([])
                room = max(limit, size)
            fits = min(room // size, piece.values.numel())
            result[-1].append(replace(piece, values=piece.values[:fits]))
            room -= fits * size
            piece = replace(piece, start=piece.start + fits, values=piece.values[fits:])
            if not piece.values.numel():
                break
    return result


def write_objects(store: ObjectStore, folder: str, objects: Sequence[Sequence[Piece]], rank: int) -> list[Written]:
    """Write objects, each of its pieces, below `folder`, from where its values lie in memory."""
    written = []
    for number, pieces in enumerate(objects):
        header, place = Header(), 0
        for run in map(_run, pieces):
            name, entry = describe(run.name, run.dtype, run.shape, run.start, run.count, place)
            header[name] = entry
            place = entry["data_offsets"][1]
        begin = header_bytes(header)
        values = [piece.values.contiguous().view(torch.uint8).numpy() for piece in pieces]
        content = BufferStream([memoryview(begin), *(array.data for array in values)])
        object_entry = ObjectEntry(size=content.size, chunk_bytes=CHUNK_BYTES, sha256=content.digests())
        object_key = object_name(rank, number)
        store.put(folder + object_key, content)
        offsets = [len(begin) + entry["data_offsets"][0] for entry in header.values()]
        places = [
            PieceEntry(object=object_key, offset=offset, start=piece.start, count=piece.values.numel())
            for offset, piece in zip(offsets, pieces, strict=True)
        ]
        written.append((object_key, object_entry, places))
    return written


def _run(piece: Piece) -> Run:
    return Run(piece.name, DTYPE_NAMES[piece.values.dtype], piece.shape, piece.start, piece.values.numel())


def _agree_on_contents(state: LocalState, objects: list[list[Piece]], what: str, agreement: Agreement) -> list[Run]:
    """Cut this rank's pieces into objects, and return the runs of all ranks, by rank.

    Raises CheckpointError (PROGRAM) unless together they are one state.
    """

    def outline() -> tuple[int, list[Run]]:
        problem = state.problem()
        if problem is not None:
            raise CheckpointError(problem, exit_code=ExitCode.PROGRAM)
        objects.extend(split_into_objects(state.pieces, OBJECT_BYTES))
        return state.step, [_run(piece) for pieces in objects for piece in pieces]

    outlines = on_all_ranks(agreement, what, outline)
    runs = [run for _, held in outlines for run in held]
    problem = _disagreement([step for step, _ in outlines], runs)
    if problem is not None:
        raise CheckpointError(f"{what} failed: {problem}", exit_code=ExitCode.PROGRAM)
    return runs


def _disagreement(steps: Sequence[int], runs: Sequence[Run]) -> str | None:
    if len(set(steps)) > 1:
        return f"the ranks hold the steps {', '.join(map(str, steps))}"
    tensors: dict[str, list[Run]] = {}
    for run in runs:
        tensors.setdefault(run.name, []).append(run)
    for name, held in tensors.items():
        kinds = {(run.dtype, run.shape) for run in held}
        if len(kinds) > 1:
            return f"the ranks hold different tensors {name}: {' and '.join(f'{d} {list(s)}' for d, s in kinds)}"
        wrong = uncovered(held[0].shape, ((run.start, run.count) for run in held))
        if wrong is not None:
            return f"{name}: {wrong}"
    return None
