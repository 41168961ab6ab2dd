"""Reads curves back from the spool, for reports and plots; no server is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unimrg_trainer.tracking.segments import read_records


@dataclass(frozen=True)
class Attempt:
    """When an attempt began (milliseconds) and after how many optimiser steps."""

    attempt: int
    started_ms: int
    resume_step: int


def read_curves(folder: Path) -> dict[str, dict[int, float]]:
    """Return for each metric its values by step, in order of steps; where attempts overlap, the latest one's.

    `folder` is a spool (`run_dir/spool`, or `RUN/spool` of a local store).
    """
    curves: dict[str, dict[int, float]] = {}
    for record in read_records(folder):
        if record["op"] == "step":
            for name, value in record["metrics"].items():
                curves.setdefault(name, {})[record["step"]] = value
    return {name: dict(sorted(curves[name].items())) for name in sorted(curves)}


def read_attempts(folder: Path) -> list[Attempt]:
    """Return the attempts in the order in which they began (where a plot shows resumptions)."""
    return [
        Attempt(record["attempt"], record["ts"], record["resume_step"])
        for record in read_records(folder)
        if record["op"] == "attempt"
    ]
