"""The format of the spool: JSON lines in numbered segments, readable up to the last complete line.

    spool/attempt-1/segment-000001-5f0c9a12.jsonl
    spool/attempt-1/files/5f0c9a12-000001/grid.png        (files that records of the kind `artifact` name)

The eight hexadecimal digits belong to one writer, so that two writers of one attempt (training, then
evaluation in another pod with an empty disk) never use the same name. JSON has no NaN and no infinities; they
are written as strings.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

from unimrg_trainer.files import write_atomically

_NAME = re.compile(r"^attempt-(\d+)/segment-(\d{6,})-([0-9a-f]{8})\.jsonl$")
_FIELDS: dict[str, dict[str, type]] = {
    "attempt": {"resume_step": int},
    "step": {"step": int, "metrics": dict},
    "params": {"params": dict},
    "tags": {"tags": dict},
    "artifact": {"path": str, "folder": str},
    "end": {"reason": str},
}
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Record(TypedDict, total=False):
    """One line. `op`, `ts` (milliseconds) and `attempt` are always there; the rest depends on `op`:

    `attempt`: resume_step · `step`: step, metrics · `params`: params · `tags`: tags ·
    `artifact`: path (below the spool's folder), folder (in the run) · `end`: reason
    """

    op: str
    ts: int
    attempt: int
    step: int
    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]
    path: str
    folder: str
    resume_step: int
    reason: str


@dataclass(frozen=True, order=True)
class SegmentName:
    """Names sort in the order in which they were written."""

    attempt: int
    number: int
    writer: str

    def __str__(self) -> str:
        return f"attempt-{self.attempt}/segment-{self.number:06d}-{self.writer}.jsonl"

    @staticmethod
    def parse(text: str) -> SegmentName | None:
        """Return the name, or None if `text` (relative to the spool's folder) is no segment."""
        match = _NAME.match(text)
        return SegmentName(int(match[1]), int(match[2]), match[3]) if match else None


@dataclass(frozen=True)
class Line:
    """One complete line of a segment; `end` is the offset behind it, `record` None where it is damaged."""

    segment: SegmentName
    end: int
    text: str
    record: Record | None


def list_segments(folder: Path) -> list[SegmentName]:
    """Return the segments below the spool's folder (which may be missing) in the order of writing."""
    found = (SegmentName.parse(path.relative_to(folder).as_posix()) for path in folder.glob("attempt-*/*"))
    return sorted(name for name in found if name is not None)


def read_lines(folder: Path, segment: SegmentName, offset: int = 0) -> Iterator[Line]:
    """Yield the complete lines from `offset` (bytes) on; the torn line of a killed writer is left out."""
    with (folder / str(segment)).open("rb") as file:
        file.seek(offset)
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            offset += len(raw)
            yield Line(segment, offset, raw.decode("utf-8", "replace").rstrip("\n"), decode(raw))


def read_records(folder: Path) -> Iterator[Record]:
    """Yield every readable record in the order of writing."""
    for segment in list_segments(folder):
        for line in read_lines(folder, segment):
            if line.record is not None:
                yield line.record


def encode(record: Record) -> bytes:
    """Return the record as one line. Floats keep all their bits."""
    plain: dict[str, Any] = dict(record)
    if "metrics" in plain:
        plain["metrics"] = {name: _plain(value) for name, value in plain["metrics"].items()}
    return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def decode(raw: bytes) -> Record | None:
    """Return the record of one line, or None if it is damaged."""
    try:
        record = json.loads(raw)
        fields = {"ts": int, "attempt": int, **_FIELDS[record["op"]]}
        if not all(type(record[name]) is kind for name, kind in fields.items()):
            return None
        match record["op"]:
            case "step":
                record["metrics"] = {name: _number(value) for name, value in record["metrics"].items()}
            case "params" | "tags" as kind:
                record[kind] = {name: str(value) for name, value in record[kind].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return cast(Record, record)


def complete_bytes(path: Path) -> bytes:
    """Return the content of a segment up to its last complete line."""
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1]


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Replace the file by `content` as JSON, atomically."""
    write_atomically(path, json.dumps(content, sort_keys=True).encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that the file holds; an empty one if it is missing or damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _plain(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _number(value: object) -> float:
    if isinstance(value, str):
        return _NOT_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)
