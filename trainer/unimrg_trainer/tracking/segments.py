"""The format of the spool: JSON lines in numbered segments, readable up to the last complete line.

    spool/attempt-1/segment-000001-5f0c9a12.jsonl
    spool/attempt-1/files/5f0c9a12-000001/grid.png        (files that records name)

The eight hexadecimal digits belong to one writer, so that two writers of one attempt (training, then evaluation in
another pod with an empty disk) never use the same name. NaN and infinities are written as Python's `json` writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

_NAME = re.compile(r"^attempt-(\d+)/segment-(\d{6,})-([0-9a-f]{8})\.jsonl$")

SCORES = ("eval/", "dev/")
"""Metrics that a step may have twice: an evaluation that is made again repeats some and changes some."""


class Record(BaseModel):
    """One line: what it adds to the run."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ts: int
    """Milliseconds since 1970."""
    attempt: int
    step: int = 0
    """Optimiser steps finished: of `metrics` or of an image."""
    metrics: dict[str, float] = {}
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    resume_step: int | None = None
    """This record begins an attempt, after so many steps."""
    file: str | None = None
    """Path below the spool's folder."""
    folder: str = ""
    """Where the file appears in the run."""
    image: str | None = None
    """The file is a picture: the name of its series."""
    dataset: dict[str, str] | None = None
    """A data set that the run reads: name, digest, uri, context. With a `model`: the one that it was scored on."""
    model: str | None = None
    """`metrics` are scores of the checkpoint whose manifest has this SHA-256."""

    @property
    def is_object(self) -> bool:
        """It takes a request of its own: a file, a data set, or the link from scores to a model."""
        return self.file is not None or self.dataset is not None


@dataclass(frozen=True)
class Line:
    """One complete line of a segment; `end` is the offset behind it, `record` None where it is damaged."""

    segment: str
    end: int
    record: Record | None


def writer_of(segment: str) -> str:
    """Return the eight digits that no other writer has."""
    return segment[-14:-6]


def segment_name(attempt: int, number: int, writer: str) -> str:
    """Return the path of a segment, relative to the spool's folder."""
    return f"attempt-{attempt}/segment-{number:06d}-{writer}.jsonl"


def list_segments(folder: Path) -> list[str]:
    """Return the segments below the spool's folder (which may be missing) in the order of writing."""
    names = (path.relative_to(folder).as_posix() for path in folder.glob("attempt-*/*"))
    found = [match for name in names if (match := _NAME.match(name))]
    return [match[0] for match in sorted(found, key=lambda match: (int(match[1]), int(match[2]), match[3]))]


def read_lines(folder: Path, segment: str, offset: int = 0) -> Iterator[Line]:
    """Yield the complete lines from `offset` (bytes) on; the torn line of a killed writer is left out."""
    with (folder / segment).open("rb") as file:
        file.seek(offset)
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            offset += len(raw)
            try:
                record = Record.model_validate_json(raw)
            except ValidationError:
                record = None
            yield Line(segment, offset, record)


def read_records(folder: Path) -> Iterator[Record]:
    """Yield every readable record in the order of writing."""
    for segment in list_segments(folder):
        yield from (line.record for line in read_lines(folder, segment) if line.record is not None)


def read_curves(folder: Path) -> dict[str, dict[int, float]]:
    """Return for each metric its values by step, in order of steps; where attempts overlap, the latest one's."""
    curves: dict[str, dict[int, float]] = {}
    for record in read_records(folder):
        for name, value in record.metrics.items():
            curves.setdefault(name, {})[record.step] = value
    return {name: dict(sorted(curves[name].items())) for name in sorted(curves)}
