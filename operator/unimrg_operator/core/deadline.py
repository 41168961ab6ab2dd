"""Ends training once it has run for `activeDeadlineSeconds`, over all attempts.

Only the time counts in which all pods of an attempt ran; it is the operator's own timer, because Training Operator
notices a deadline at the next event only.
"""

from __future__ import annotations

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES
from unimrg_api.status import AttemptEnd, StageStatus
from unimrg_operator.core.accounting import running_seconds
from unimrg_operator.core.texts import format_time, one_line

REASON = "DeadlineExceeded"


def seconds_to_deadline(stage: StageStatus, job: UniMRGJob, now: float) -> float | None:
    """Return for how long a stage may still run; None: as long as it takes."""
    limit = job.spec.run_policy.active_deadline_seconds
    if limit is None or not STAGES[stage.name].trains:
        return None
    return max(0.0, limit - running_seconds(stage, now))


def deadline_end(job: UniMRGJob, now: float, *causes: str) -> AttemptEnd:
    """Return the end of an attempt at the deadline; `causes` say what else ended it then."""
    limit = job.spec.run_policy.active_deadline_seconds
    message = f"training ran for the {limit} s of runPolicy.activeDeadlineSeconds; its last checkpoint is kept"
    return AttemptEnd(time=format_time(now), reason=REASON, message=one_line(message, *causes), action="Fail")
