"""Events about a job, found by comparing its status before and after: each is said once, when it happens."""

from __future__ import annotations

from unimrg_api.job import RunPolicySpec
from unimrg_api.status import JobStatus, StageStatus
from unimrg_api.texts import duration
from unimrg_operator.core.budgets import backoff
from unimrg_operator.core.decision import Notice
from unimrg_operator.core.texts import line


def notices(old: JobStatus, new: JobStatus, policy: RunPolicySpec) -> tuple[Notice, ...]:
    """Return what is to be told about the step from one status to the next."""
    told: list[Notice] = []
    for stage in new.stages:
        told += _of_stage(old.stage(stage.name), stage, policy)
    told += refusals(old, new)
    complete, failed = new.condition("Complete"), new.condition("Failed")
    if complete is not None and old.condition("Complete") is None:
        told.append(Notice("Normal", "Completed", complete.message))
    if failed is not None and old.condition("Failed") is None:
        told.append(Notice("Warning", "Failed", line(failed.reason, failed.message)))
    return tuple(told)


def refusals(old: JobStatus, new: JobStatus) -> tuple[Notice, ...]:
    """Return what is to be told about a job that is not accepted, or not any more."""
    accepted, before = new.condition("Accepted"), old.condition("Accepted")
    if accepted is None or accepted.status != "False":
        return ()
    if before is not None and (before.status, before.reason) == (accepted.status, accepted.reason):
        return ()
    return (Notice("Warning", accepted.reason, accepted.message),)


def _of_stage(old: StageStatus, new: StageStatus, policy: RunPolicySpec) -> list[Notice]:
    told: list[Notice] = []
    if new.attempt > old.attempt:
        told.append(Notice("Normal", "StageStarted", f"{new.name} attempt {new.attempt} is {new.child}"))
    end = new.end
    if end is None or (new.attempt, end) == (old.attempt, old.end):
        return told
    if end.action == "Done":
        told.append(Notice("Normal", "StageSucceeded", f"{new.name} attempt {new.attempt} succeeded"))
        return told
    what = f"{new.name} attempt {new.attempt} ended: {end.reason}"
    told.append(Notice("Warning", "AttemptEnded", line(what, end.message)))
    if end.action == "Restart":
        pause = duration(backoff(new.ledger, policy))
        told.append(Notice("Normal", "Restarting", f"{new.name} restarts after {pause}; counted as {end.budget}"))
    for node in new.ledger.excluded_nodes:
        if node not in old.ledger.excluded_nodes:
            told.append(Notice("Warning", "NodeExcluded", f"later attempts of {new.name} stay away from {node}"))
    if new.name == "finish" and new.state == "Failed":
        told.append(Notice("Warning", "TrackingIncomplete", line(end.message)))
    return told
