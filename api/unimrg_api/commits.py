"""Where a step's commits lie below a run's prefix: the trainer writes them there, the operator names the place."""

from __future__ import annotations

import re

ROOT = "ckpt/"
_STEP_FOLDER = re.compile(rf"{ROOT}step-(\d{{1,12}})(?!\d)")


def step_folder(step: int) -> str:
    """Return the folder of a step, with a trailing slash; folders sort like steps."""
    return f"{ROOT}step-{step:08d}/"


def step_in(text: str) -> int | None:
    """Return the step whose folder a text names, as a termination record does; None if it names none."""
    match = _STEP_FOLDER.search(text)
    return int(match[1]) if match else None
