"""What each rank is doing right now, in one small file per rank, which the launcher reads when nothing moves any more.

A rank overwrites its file in place, which takes microseconds: once for each part of a step.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Section = Literal["set-up", "first step", "fetch", "step", "save", "evaluate"]
REPEATED: tuple[Section, ...] = ("fetch", "step")
"""What takes about as long every time, so that it may be waited for less long than the rest."""

_FOLDER = "sections"
_SIZE = 64


@dataclass(frozen=True)
class Position:
    """Where a rank is."""

    section: str
    step: int
    """Finished optimiser steps."""
    count: int
    """Sections entered and ticks so far: a rank that works changes it."""


class SectionFile:
    """This rank's file."""

    def __init__(self, run_dir: Path, rank: int) -> None:
        folder = run_dir / _FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(folder / f"rank-{rank}", os.O_WRONLY | os.O_CREAT, 0o644)
        self._count = 0
        self._step = 0
        self.enter("set-up")

    def enter(self, section: Section, step: int | None = None) -> None:
        """Say that `section` begins; `step` finished optimiser steps, if that has changed."""
        self._section = section
        self._step = self._step if step is None else step
        self.tick()

    def tick(self) -> None:
        """Say that the section goes on, where it may last longer than a stall."""
        self._count += 1
        with suppress(OSError):  # a full disk must not end the training
            os.pwrite(self._descriptor, f"{self._step} {self._count} {self._section}".ljust(_SIZE).encode(), 0)


def read_positions(run_dir: Path) -> dict[int, Position]:
    """Return where each rank of this node is; a rank without a file that can be read is left out."""
    found = {}
    for path in sorted((run_dir / _FOLDER).glob("rank-*")):
        try:
            step, count, section = path.read_text().split(maxsplit=2)
            found[int(path.name.removeprefix("rank-"))] = Position(section.strip(), int(step), int(count))
        except (OSError, ValueError):
            continue
    return found


def clear_positions(run_dir: Path) -> None:
    """Delete the files of an earlier stage or attempt."""
    shutil.rmtree(run_dir / _FOLDER, ignore_errors=True)


def described(positions: dict[int, Position]) -> str:
    """Return who is where in one line, ranks of one place together: `ranks 0, 2: step 8 (fetch)`."""
    places: dict[tuple[int, str], list[int]] = {}
    for rank, position in positions.items():
        places.setdefault((position.step, position.section), []).append(rank)
    return "; ".join(
        f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}: {section} after {step} steps"
        for (step, section), ranks in sorted(places.items())
    )
