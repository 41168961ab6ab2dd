"""The operator's one decision: from everything that is known about a job to its status and what is done next.

It is a pure function, level-triggered: it asks what is, never what happened, and the same observation gives the same
decision. The shell writes the status, then carries out the actions.
"""

from __future__ import annotations

from unimrg_api.stages import TRAINING
from unimrg_api.status import Condition, ConditionType, JobStatus
from unimrg_operator.core import conditions
from unimrg_operator.core.actions import Plan, end_what_is_over, proceed, tidy_up
from unimrg_operator.core.conditions import Finding, StatusInputs
from unimrg_operator.core.decision import CreateChild, Decision
from unimrg_operator.core.events import events, refusals
from unimrg_operator.core.observation import Observation
from unimrg_operator.core.progress import progress_of, read_reports
from unimrg_operator.core.stages import Stages, follow_all, is_terminal, phase_of, result_so_far
from unimrg_operator.core.texts import soonest, time_text

FAULT_SECONDS = 60
"""How often it is tried whether what keeps children from being made is gone."""
PREDECESSOR_SECONDS = 10
"""How often it is looked whether the pods of an earlier job of the same name have ended."""


def decide(observation: Observation, now: float) -> Decision:
    """Return what is to be done about a job; `now` is Unix time in seconds.

    Given back its own status, with nothing else changed, it returns an equal one.
    """
    old = observation.job.status
    if observation.job.deleting:
        return Decision(old)  # garbage collection ends the children, with their grace period
    if is_terminal(old):
        plan = end_what_is_over(Stages(tuple(old.stages)), old, observation, now)
        return Decision(old, plan.actions, requeue_after=plan.wait)
    job = observation.job.job
    if job is None:
        return _unreadable(observation, now)
    reported = read_reports(old, observation, job)
    stages = follow_all(old, observation, job, reported.commit_step, now)
    progress = progress_of(old.progress, stages.current, observation, job)
    inputs = StatusInputs(observation, job, stages, reported, progress, old, now)
    status, wait = _status(inputs)
    plan = end_what_is_over(stages, old, observation, now)
    plan += tidy_up(old, observation)
    plan += _next(inputs)
    return Decision(
        status, plan.actions, events(old, status, job.spec.run_policy), soonest(stages.wait, plan.wait, wait)
    )


def _next(inputs: StatusInputs) -> Plan:
    plan = proceed(inputs.stages, inputs.old, inputs.observation, inputs.job, inputs.now)
    again = FAULT_SECONDS if inputs.observation.fault is not None else None
    if inputs.observation.predecessors:
        again = PREDECESSOR_SECONDS
    if again is None:
        return plan
    possible = tuple(action for action in plan.actions if not isinstance(action, CreateChild))
    return Plan(possible, soonest(plan.wait, again))


def _status(inputs: StatusInputs) -> tuple[JobStatus, float | None]:
    """Return the whole status, and the seconds after which a condition may change by time alone."""
    stages, reported, old, now = inputs.stages, inputs.reported, inputs.old, inputs.now
    generation = inputs.observation.job.generation
    result = result_so_far(stages, inputs.job)
    phase = phase_of(stages, result)

    def dated(name: ConditionType, finding: Finding) -> Condition:
        return conditions.dated(name, finding, old, generation, now)

    accepted, run = dated("Accepted", conditions.accepted(inputs)), dated("Running", conditions.running(inputs))
    advancing = conditions.progressing(inputs, run)
    found = [
        accepted,
        run,
        dated("Progressing", advancing),
        dated("Checkpointed", conditions.checkpointed(inputs)),
        dated("Degraded", conditions.degraded(inputs)),
    ]
    explains = accepted if accepted.status == "False" or phase == "Pending" else run
    if stages.current is None and result is not None:
        end = Finding("True", result.reason, result.message)
        explains = dated("Complete" if result.succeeded else "Failed", end)
        found.append(explains)
    status = JobStatus(
        observed_generation=generation,
        phase=phase,
        reason=explains.reason,
        conditions=found,
        stages=list(stages.known),
        attempt=stages[TRAINING].attempt,
        progress=inputs.progress,
        checkpoint=reported.checkpoint,
        benchmarks=reported.benchmarks,
        mlflow=reported.mlflow,
        start_time=old.start_time or _began(inputs.observation, now),
        completion_time=time_text(now) if stages.current is None else None,
    )
    return status, advancing.wait


def _began(observation: Observation, now: float) -> str:
    return time_text(min((child.created for child in observation.children), default=now))


def _unreadable(observation: Observation, now: float) -> Decision:
    """Return the decision about a job that does not parse: it says so, and nothing is made or ended."""
    old, generation = observation.job.status, observation.job.generation
    finding = Finding("False", "RenderError", observation.job.problem)
    refusal = conditions.dated("Accepted", finding, old, generation, now)
    others = [condition for condition in old.conditions if condition.type != "Accepted"]
    status = old.model_copy(
        update={
            "observed_generation": generation,
            "reason": refusal.reason,
            "conditions": [refusal, *others],
            "start_time": old.start_time or _began(observation, now),
        }
    )
    return Decision(status, events=refusals(old, status))
