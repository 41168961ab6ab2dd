"""Where everything of a checkpoint lies below the run's prefix, and what a listing of it says. Pure text.

ckpt/step-00000010/attempt-2-1f0c9a3e/reservation.json     written first: who, and when
                                     /rank-0.safetensors   each rank's share of the tensors
                                     /manifest.json        what belongs together, with digests
ckpt/step-00000010/COMMITTED-0                             names the manifest: the commit itself
ckpt/step-00000010/QUARANTINED-0                           that commit does not verify; the next one is -1
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from unimrg_api.commits import step_folder

RESERVATION = "reservation.json"
MANIFEST = "manifest.json"

_STEP = r"ckpt/step-(\d{8}|[1-9]\d{8,})/"
_MARKER = re.compile(_STEP + r"(COMMITTED|QUARANTINED)-(0|[1-9]\d*)")
_FOLDER = re.compile(rf"({_STEP}attempt-(\d+)-[0-9a-f]{{8}}/)(.*)")
OBJECT_NAME = re.compile(r"rank-\d+(\.part-\d+)?\.safetensors")


@dataclass(frozen=True, order=True)
class Marker:
    """The `generation`-th commit of a step, by name only: its content has not been read."""

    step: int
    generation: int

    @property
    def key(self) -> str:
        return f"{step_folder(self.step)}COMMITTED-{self.generation}"

    @property
    def quarantine_key(self) -> str:
        return f"{step_folder(self.step)}QUARANTINED-{self.generation}"


@dataclass(frozen=True)
class Folder:
    """What one writer wrote for one step: `key` ends with a slash, `sizes` is bytes by full key."""

    key: str
    step: int
    attempt: int
    sizes: dict[str, int]


@dataclass(frozen=True)
class Listing:
    """Everything that a listing shows below `ckpt/`."""

    committed: set[Marker] = field(default_factory=set)
    quarantined: set[Marker] = field(default_factory=set)
    folders: dict[str, Folder] = field(default_factory=dict)

    def candidates(self) -> list[Marker]:
        """Commits that nobody found wrong yet, newest first."""
        return sorted(self.committed - self.quarantined, reverse=True)


def attempt_folder(step: int, attempt: int, token: str) -> str:
    """The folder of one writer, with a trailing slash; `token` is 8 hexadecimal digits."""
    return f"{step_folder(step)}attempt-{attempt}-{token}/"


def object_name(rank: int, part: int) -> str:
    """The name of one object of a rank's share."""
    return f"rank-{rank}.safetensors" if part == 0 else f"rank-{rank}.part-{part}.safetensors"


def folder_of(manifest_key: str) -> Folder | None:
    """The (empty) folder that a manifest's key lies in, None if it is no such key."""
    match = _FOLDER.fullmatch(manifest_key)
    if match is None or match[4] != MANIFEST:
        return None
    return Folder(match[1], int(match[2]), int(match[3]), {})


def read_listing(listing: Iterable[tuple[str, int]]) -> Listing:
    """Sort a listing of (key, bytes); keys that are none of ours are passed over."""
    result = Listing()
    for key, size in listing:
        if match := _MARKER.fullmatch(key):
            seen = result.committed if match[2] == "COMMITTED" else result.quarantined
            seen.add(Marker(int(match[1]), int(match[3])))
        elif match := _FOLDER.fullmatch(key):
            folder = Folder(match[1], int(match[2]), int(match[3]), {})
            result.folders.setdefault(match[1], folder).sizes[key] = size
    return result
