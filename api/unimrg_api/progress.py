"""How far a running job is: written by rank 0, served by its launcher, read by operator and command line."""

from __future__ import annotations

from typing import Self

from pydantic import Field

from unimrg_api.record import Record
from unimrg_api.stages import StageName


class Progress(Record):
    """One report (JSON, at most 4 KiB); a newer one replaces it."""

    stage: StageName = "check"
    """The stage that runs."""
    step: int = 0
    """Steps finished."""
    total_steps: int = 0
    """The step at which the stage ends; 0: not known."""
    eta_seconds: float | None = None
    """Seconds that the rest of the stage will take at the present rate."""
    loss: float | None = None
    """The training loss of the last step: the weighted mean over the objectives."""
    losses: dict[str, float] = Field(default_factory=dict)
    """Loss of the last step, by objective."""
    rows_per_second: float | None = None
    """Rows of all objectives per second, whole world."""
    skipped_steps: int = 0
    """Steps that the numeric guard skipped since the start of training."""
    slowest_rank: int | None = None
    """The rank that took longest over its own part of the last steps."""
    slowest_rank_ratio: float | None = None
    """Its time divided by the median over the ranks."""
    checkpoint_step: int | None = None
    """Step of the last commit."""
    checkpoint_time: float | None = None
    """When this attempt made it, Unix time in seconds."""
    notice: str | None = None
    """What a person should know of this training, e.g. that a damaged checkpoint was passed over, or why it ended."""
    mlflow_run_id: str | None = None
    """Run in MLflow."""
    mlflow_url: str | None = None
    """Link to the run in MLflow."""
    mlflow_problem: str | None = None
    """Why MLflow takes no records at present, and what to do; training goes on."""
    updated: float = 0.0
    """When this was written, Unix time in seconds."""

    @classmethod
    def parse(cls, data: bytes | str) -> Self | None:
        """Read a report; None if it is none. A field that does not fit has its default."""
        return cls.read(data)
