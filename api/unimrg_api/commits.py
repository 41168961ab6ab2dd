"""Keys below a run's prefix that the trainer writes, and the operator or the command line knows too."""

from __future__ import annotations

ROOT = "ckpt/"
FINISHED_KEY = "outcomes/finished.json"
"""The outcome of the newest attempt, and whether its MLflow run was closed."""
SUMMARY_KEY = "results/summary.json"


def step_folder(step: int) -> str:
    """Return the folder of a step, with a trailing slash; folders sort like steps."""
    return f"{ROOT}step-{step:08d}/"


def outcome_key(attempt: str, stage: str) -> str:
    """Return the key of a stage's termination record."""
    return f"outcomes/attempt-{attempt}-{stage}.json"
