"""The format of the spool: JSON lines in numbered segments, readable up to the last complete line.

    spool/attempt-1/segment-000001-5f0c9a12.jsonl
    spool/attempt-1/files/5f0c9a12-000001/grid.png        (files that records name)

The eight hexadecimal digits belong to one writer, so that two writers of one attempt (training, then evaluation in
another pod with an empty disk) never use the same name. NaN and infinities are written as Python's `json` writes them.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""One line: what it adds to the run. Always `ts` (milliseconds) and `attempt`; what else, says `_FIELDS`."""

_FIELDS: dict[str, type] = {
    "ts": int,
    "attempt": int,
    "metrics": dict,
    "params": dict,
    "tags": dict,
    "step": int,  # optimiser steps finished: of `metrics` or of an image
    "resume_step": int,  # this record begins an attempt
    "file": str,  # path below the spool's folder
    "folder": str,  # where the file appears in the run
    "image": str,  # the file is a picture: the name of its series
    "dataset": dict,  # name, digest, uri, context
}
_NAME = re.compile(r"^attempt-(\d+)/segment-(\d{6,})-([0-9a-f]{8})\.jsonl$")

TRAINING = "train/"
"""Metrics that the job alone determines; others (speed, memory) differ whenever a step is run again."""

SCORES = "eval/"
"""Metrics of which an evaluation that is made again with other questions repeats some and changes some."""


@dataclass(frozen=True)
class Line:
    """One complete line of a segment; `end` is the offset behind it, `record` None where it is damaged."""

    segment: str
    end: int
    text: str
    record: Record | None

    @property
    def is_object(self) -> bool:
        """It takes a request of its own: a file or a data set."""
        return self.record is not None and ("file" in self.record or "dataset" in self.record)

    @property
    def writer(self) -> str:
        """Eight digits that no other writer has."""
        return self.segment[-14:-6]


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
            yield Line(segment, offset, raw.decode("utf-8", "replace").rstrip("\n"), decode(raw))


def read_records(folder: Path) -> Iterator[Record]:
    """Yield every readable record in the order of writing."""
    for segment in list_segments(folder):
        yield from (line.record for line in read_lines(folder, segment) if line.record is not None)


def read_curves(folder: Path) -> dict[str, dict[int, float]]:
    """Return for each metric its values by step, in order of steps; where attempts overlap, the latest one's."""
    curves: dict[str, dict[int, float]] = {}
    for record in read_records(folder):
        for name, value in record["metrics"].items():
            curves.setdefault(name, {})[record["step"]] = value
    return {name: dict(sorted(curves[name].items())) for name in sorted(curves)}


def read_attempts(folder: Path) -> list[Record]:
    """Return the records of the attempts' beginnings, in their order (where a plot shows resumptions)."""
    return [record for record in read_records(folder) if "resume_step" in record]


def encode(record: Record) -> bytes:
    """Return the record as one line. Floats keep all their bits."""
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def decode(raw: bytes) -> Record | None:
    """Return the record of one line, with empty `metrics`, `params` and `tags`; None if it is damaged."""
    try:
        record: Record = json.loads(raw)
        if not all(type(value) is _FIELDS[name] for name, value in record.items()):
            return None
        full = {"metrics": {}, "params": {}, "tags": {}, **record}
        full["metrics"] = {name: float(value) for name, value in full["metrics"].items()}
        for kind in ("params", "tags", "dataset"):
            if kind in full:
                full[kind] = {name: str(value) for name, value in full[kind].items()}
        complete = "ts" in full and "attempt" in full and ("step" in full or not (full["metrics"] or "image" in full))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return full if complete else None


def new_values(values: Mapping[str, float], earlier: Mapping[str, float]) -> dict[str, float]:
    """Return what a step that was run again adds to the values that are known of it.

    If a `train/*` value has other bits than before, the step is another one and all its values are new, except that
    `eval/*` values are compared one by one. Otherwise only names without a value are new: what was measured with
    equal training values (speed, memory) is kept from the first time.
    """
    changed = {name for name, value in values.items() if name in earlier and _bits(value) != _bits(earlier[name])}
    another = any(name.startswith(TRAINING) for name in changed)
    return {
        name: value
        for name, value in values.items()
        if name not in earlier or (name in changed if name.startswith(SCORES) else another)
    }


def _bits(value: float) -> bytes:
    """All NaNs count as one value; −0 and 0 as two."""
    return b"nan" if math.isnan(value) else struct.pack("<d", value)
