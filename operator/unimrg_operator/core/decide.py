"""The reconcile function: from one observation of a job to its new status and the next actions.

It is a pure, level-triggered function of the observed state: equal observations give equal decisions. The controller
(`app/`) writes the status, then executes the actions.
"""

from __future__ import annotations

from functools import partial

from unimrg_api.stages import JobPhase, counted_stage
from unimrg_api.status import Condition, JobStatus
from unimrg_operator.core import conditions
from unimrg_operator.core.accounting import usage
from unimrg_operator.core.actions import plan_deletion_of_running_children, plan_next_attempt
from unimrg_operator.core.conditions import ConditionValue, StatusInputs
from unimrg_operator.core.decision import CreateChild, Decision, Plan
from unimrg_operator.core.events import acceptance_events, events
from unimrg_operator.core.failed_children import plan_deletion_of_failed_children
from unimrg_operator.core.observation import Observation
from unimrg_operator.core.progress import merge_progress, merge_reports
from unimrg_operator.core.stages import Stages, decided_result, is_job_terminal, phase_of, update_stages
from unimrg_operator.core.texts import format_time, shortest_wait
from unimrg_operator.core.trouble.finding import Trouble
from unimrg_operator.core.ttl import plan_ttl

CREATION_RETRY_SECONDS = 30
"""Interval at which a job that cannot create children is checked again."""
BLIND_RETRY_SECONDS = 1
"""Interval at which a job of which not everything is known is looked at again."""
PREVIOUS_JOB_RETRY_SECONDS = 10
"""Interval at which pods of an earlier job of the same name are looked for again."""


def decide(observation: Observation, now: float) -> Decision:
    """Return the new status and the actions of a job; `now` is Unix time in seconds.

    Idempotent: with the returned status as the observed one and nothing else changed, it returns an equal status.
    """
    observed_status = observation.job.status
    if not observation.complete:
        return Decision(observed_status, requeue_after=BLIND_RETRY_SECONDS)  # what is not seen need not be gone
    if observation.job.deleting:
        return Decision(observed_status)  # garbage collection deletes the children, with their grace period
    job = observation.job.parsed
    if is_job_terminal(observed_status):
        stages = Stages(tuple(observed_status.stages))
        plan = plan_deletion_of_running_children(stages, observed_status, observation, now)
        plan += Plan() if job is None else plan_ttl(observed_status, observation, job, now)
        return Decision(observed_status, plan.actions, requeue_after=plan.requeue_after)
    if job is None:
        return _invalid_job(observation, now)
    reported = merge_reports(observed_status, observation, job)
    stages = update_stages(observed_status, observation, job, reported.checkpoint, now)
    progress = merge_progress(observed_status.progress, stages.current, observation, reported.checkpoint)
    inputs = StatusInputs(observation, job, stages, reported, progress, observed_status, now)
    status, requeue_after = _status(inputs)
    plan = plan_deletion_of_running_children(stages, observed_status, observation, now)
    plan += plan_deletion_of_failed_children(observed_status, observation, job, now)
    plan += _next_attempt(inputs)
    requeue_after = shortest_wait(stages.requeue_after, plan.requeue_after, requeue_after)
    return Decision(status, plan.actions, events(observed_status, status, job.spec.run_policy), requeue_after)


def _next_attempt(inputs: StatusInputs) -> Plan:
    plan = plan_next_attempt(inputs.stages, inputs.observed_status, inputs.observation, inputs.job, inputs.now)
    retry_after = CREATION_RETRY_SECONDS if inputs.observation.creation_error is not None else None
    if inputs.observation.previous_job_pods:
        retry_after = PREVIOUS_JOB_RETRY_SECONDS
    if retry_after is None:
        return plan
    without_creations = tuple(action for action in plan.actions if not isinstance(action, CreateChild))
    return Plan(without_creations, shortest_wait(plan.requeue_after, retry_after))


def _status(inputs: StatusInputs) -> tuple[JobStatus, float | None]:
    """Return the whole status, and the seconds until a condition can change without any event."""
    stages, reported, observed_status, now = inputs.stages, inputs.reported, inputs.observed_status, inputs.now
    generation = inputs.observation.job.generation
    result = decided_result(stages, inputs.job)
    phase = phase_of(stages, result, inputs.observation, inputs.job)

    to_condition = partial(conditions.to_condition, observed_status=observed_status, generation=generation, now=now)

    accepted = to_condition("Accepted", conditions.accepted(inputs))
    running, admitted = conditions.running(inputs), conditions.admitted(inputs)
    run = to_condition("Running", running)
    progressing = conditions.progressing(inputs, run)
    found = [
        accepted,
        *([to_condition("Admitted", admitted)] if admitted is not None else []),
        run,
        to_condition("Progressing", progressing),
        to_condition("Checkpointed", conditions.checkpointed(inputs)),
        to_condition("Degraded", conditions.degraded(inputs)),
    ]
    main_condition = _main_condition({condition.type: condition for condition in found}, phase)
    suspended = conditions.suspended(inputs)
    if suspended is not None:
        found.append(to_condition("Suspended", suspended))
        main_condition = found[-1] if inputs.job.spec.suspend else main_condition
    if stages.current is None and result is not None:
        end = ConditionValue("True", result.reason, result.message)
        main_condition = to_condition("Complete" if result.succeeded else "Failed", end)
        found.append(main_condition)
    status = JobStatus(
        observed_generation=generation,
        phase=phase,
        reason=main_condition.reason,
        conditions=found,
        stages=list(stages.all),
        attempt=stages[counted_stage(inputs.job)].attempt,
        progress=inputs.progress,
        checkpoint=reported.checkpoint,
        benchmarks=reported.benchmarks,
        scores=reported.scores,
        mlflow=reported.mlflow,
        usage=usage(list(stages.all), inputs.job, reported.checkpoint),
        start_time=observed_status.start_time or _start_time(inputs.observation, now),
        completion_time=format_time(now) if stages.current is None else None,
    )
    waits = [value.requeue_after for value in (running, progressing, admitted) if value is not None]
    return status, shortest_wait(*waits)


def _main_condition(found: dict[str, Condition], phase: JobPhase) -> Condition:
    """Return the condition whose reason is shown beside the phase: what a person has to see first."""
    accepted, run, progressing, degraded = (found[name] for name in ("Accepted", "Running", "Progressing", "Degraded"))
    if accepted.status == "False" or phase == "Pending":
        return accepted
    if run.status == "True" and progressing.status == "False":
        return progressing
    if run.status == "True" and degraded.reason in set(Trouble):
        return degraded
    return run


def _start_time(observation: Observation, now: float) -> str:
    return format_time(min((child.created for child in observation.children), default=now))


def _invalid_job(observation: Observation, now: float) -> Decision:
    """Return the decision for a job whose spec does not parse: Accepted=False; nothing is created or deleted."""
    observed_status, generation = observation.job.status, observation.job.generation
    value = ConditionValue("False", "InvalidSpec", observation.job.parse_error)
    not_accepted = conditions.to_condition("Accepted", value, observed_status, generation, now)
    others = [condition for condition in observed_status.conditions if condition.type != "Accepted"]
    status = observed_status.model_copy(
        update={
            "observed_generation": generation,
            "reason": not_accepted.reason,
            "conditions": [not_accepted, *others],
            "start_time": observed_status.start_time or _start_time(observation, now),
        }
    )
    return Decision(status, events=acceptance_events(observed_status, status))
