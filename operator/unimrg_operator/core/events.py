"""Events about a job: the differences of its old and new status, so each is published once."""

from __future__ import annotations

from unimrg_api.spec_platform import RunPolicySpec
from unimrg_api.stages import STAGES
from unimrg_api.status import JobStatus, StageStatus
from unimrg_api.texts import duration
from unimrg_operator.core.backoff import backoff
from unimrg_operator.core.decision import Event
from unimrg_operator.core.texts import one_line
from unimrg_operator.core.trouble.finding import Trouble


def events(old: JobStatus, new: JobStatus, policy: RunPolicySpec) -> tuple[Event, ...]:
    """Return the events of the change between two statuses."""
    found: list[Event] = []
    for stage in new.stages:
        found += _stage_events(old.stage(stage.name), stage, policy)
    found += acceptance_events(old, new)
    found += _queue_events(old, new)
    found += _suspension_events(old, new)
    published = {event.reason for event in found}
    found += [event for event in _trouble_events(old, new) if event.reason not in published]
    complete, failed = new.condition("Complete"), new.condition("Failed")
    if complete is not None and old.condition("Complete") is None:
        found.append(Event("Normal", "Completed", complete.message))
    if failed is not None and old.condition("Failed") is None:
        found.append(Event("Warning", "Failed", one_line(failed.reason, failed.message)))
    return tuple(found)


def acceptance_events(old: JobStatus, new: JobStatus) -> tuple[Event, ...]:
    """Return an event if Accepted became False or changed its reason."""
    accepted, before = new.condition("Accepted"), old.condition("Accepted")
    if accepted is None or accepted.status != "False":
        return ()
    if before is not None and (before.status, before.reason) == (accepted.status, accepted.reason):
        return ()
    return (Event("Warning", accepted.reason, accepted.message),)


def _trouble_events(old: JobStatus, new: JobStatus) -> list[Event]:
    """Return an event for each trouble that a condition tells and did not tell before."""
    known = {condition.reason for condition in old.conditions}
    return [
        Event("Warning", condition.reason, condition.message)
        for condition in new.conditions
        if condition.reason in set(Trouble) - known
    ]


def _queue_events(old: JobStatus, new: JobStatus) -> tuple[Event, ...]:
    """Return an event if something of the job began to wait in a queue, was admitted or was pushed out."""
    admitted, before = new.condition("Admitted"), old.condition("Admitted")
    if admitted is None or admitted.reason in ("NotQueued", "Finished"):
        return ()
    if before is not None and before.reason == admitted.reason:
        return ()
    wrong = admitted.reason in ("Evicted", "QueueNotFound")
    return (Event("Warning" if wrong else "Normal", admitted.reason, admitted.message),)


def _suspension_events(old: JobStatus, new: JobStatus) -> tuple[Event, ...]:
    """Return an event if the job became suspended, or is no longer."""
    suspended, before = new.condition("Suspended"), old.condition("Suspended")
    if suspended is None or (before is not None and before.reason == suspended.reason):
        return ()
    is_news = suspended.status == "True" or suspended.reason == "Resumed"
    return (Event("Normal", "Resumed" if suspended.status == "False" else "Suspended", suspended.message),) * is_news


def _stage_events(old: StageStatus, new: StageStatus, policy: RunPolicySpec) -> list[Event]:
    found: list[Event] = []
    if new.attempt > old.attempt:
        found.append(Event("Normal", "StageStarted", f"{new.name} attempt {new.attempt} started as {new.child}"))
    end = new.attempt_end
    if end is None or (new.attempt, end) == (old.attempt, old.attempt_end):
        return found
    if end.action == "Done":
        found.append(Event("Normal", "StageSucceeded", f"{new.name} attempt {new.attempt} succeeded"))
        return found
    if end.action == "Suspend":
        found.append(Event("Normal", "Suspending", one_line(f"{new.name} attempt {new.attempt}: {end.message}")))
        return found
    what = f"{new.name} attempt {new.attempt} failed: {end.reason}"
    found.append(Event("Warning", "AttemptFailed", one_line(what, end.message)))
    if end.action == "Restart":
        delay = duration(backoff(new.restart_counters, policy))
        message = f"{new.name} restarts in {delay}, charged to the {end.budget} restart budget"
        found.append(Event("Normal", "Restarting", message))
    for node in new.restart_counters.excluded_nodes:
        if node not in old.restart_counters.excluded_nodes:
            found.append(Event("Warning", "NodeExcluded", f"later attempts of {new.name} are not scheduled on {node}"))
    definition = STAGES[new.name]
    if not definition.fails_job and definition.failure_reason is not None and new.state == "Failed":
        found.append(Event("Warning", definition.failure_reason, one_line(end.message)))
    return found
