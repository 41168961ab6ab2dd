"""The termination record of a pod: why it ended, how far it came and where its results are."""

from __future__ import annotations

from typing import Self

from pydantic import Field

from unimrg_api.exit_codes import ExitCode
from unimrg_api.record import Record
from unimrg_api.redaction import clean


class TerminationRecord(Record):
    """What the launcher writes to the termination log when an attempt ends (JSON, at most 4 KiB)."""

    reason: str = ""
    """One CamelCase word, e.g. `Completed`, `Interrupted`, `OutOfMemory`."""
    exit_code: int = int(ExitCode.OK)
    """Exit code of the pod, see `exit_codes`."""
    rank: int | None = None
    """The rank on which it happened; None if it was not one rank's doing."""
    step: int | None = None
    """The last step that was finished."""
    total_steps: int | None = None
    """The step at which training stops."""
    checkpoint_step: int | None = None
    """Step of the last checkpoint."""
    mlflow_run_id: str | None = None
    """Run in MLflow."""
    mlflow_url: str | None = None
    """Link to the run in MLflow."""
    scores: dict[str, float] = Field(default_factory=dict)
    """Results of the evaluation, by name."""

    @classmethod
    def parse(cls, data: bytes | str) -> Self:
        """Read what a pod left. Never raises: what is no record at all becomes the message of one.

        Such a record has the reason `Unreadable` (`Nothing` for an empty log) and the exit code 70, because
        the real one, which Kubernetes reports beside it, is not known here.
        """
        record = cls.read(data)
        if record is not None:
            return record
        text = data if isinstance(data, str) else data.decode("utf-8", "replace")
        reason = "Unreadable" if text.strip() else "Nothing"
        message = clean(text.strip(), cls.message_limit)
        return cls(reason=reason, exit_code=int(ExitCode.PROGRAM), message=message)
