"""What the operator writes to a job's `/status`; all but the restart counters can be rebuilt from the children."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from unimrg_api.fields import listed_by
from unimrg_api.stages import JobPhase, StageName

TEXT_LIMIT = 1024
"""Characters of a message; the schema refuses more, so whoever writes one cuts it."""

Text = Annotated[str, Field(max_length=TEXT_LIMIT)]
Name = Annotated[str, Field(max_length=253)]
Number = Annotated[str, Field(max_length=32)]
"""A decimal string: floats have no place in the API of a cluster."""
Time = Annotated[str, Field(max_length=32, pattern=r"^[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z$")]
"""UTC in ISO 8601, whole seconds."""

ConditionType = Literal[
    "Accepted", "Admitted", "Running", "Suspended", "Progressing", "Checkpointed", "Degraded", "Complete", "Failed"
]  # fmt: skip
StageState = Literal["Pending", "Starting", "Running", "Suspended", "Restarting", "Succeeded", "Failed", "Skipped"]


class StatusPart(BaseModel):
    """Base of the parts: what an older or newer operator wrote beyond our fields is ignored."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True, extra="ignore"
    )


class Condition(StatusPart):
    """One fact about the job, in the form that Kubernetes' tools know."""

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9]*)$", max_length=64)]
    """One CamelCase word."""
    message: Text = ""
    last_transition_time: Time
    """When `status` last changed."""
    observed_generation: Annotated[int, Field(ge=0)] = 0


class RestartCounters(StatusPart):
    """What attempts before the present one have used up; also an annotation on each child."""

    user_restarts: Annotated[int, Field(ge=0)] = 0
    """Restarts counted against `runPolicy.maxRestarts`."""
    infra_restarts: Annotated[int, Field(ge=0)] = 0
    """Restarts counted against `runPolicy.maxInfraRestarts`."""
    free_restarts: Annotated[int, Field(ge=0)] = 0
    """Restarts that counted against nothing."""
    free_checkpoint_step: Annotated[int, Field(ge=0)] | None = None
    """The newest checkpoint known at the last of them: the next is free only at a newer one. None: none yet."""
    out_of_memory: Annotated[int, Field(ge=0)] = 0
    """Ends by the kernel for want of host memory."""
    consecutive_failures: Annotated[int, Field(ge=0)] = 0
    """Failures since a new checkpoint was last seen; the back-off doubles with each."""
    checkpoint_step: Annotated[int, Field(ge=0)] = 0
    """The newest checkpoint known when an attempt last ended."""
    stalls: Annotated[dict[str, int], Field(max_length=64)] = Field(default={})
    """Stalls by node."""
    excluded_nodes: Annotated[list[Name], Field(max_length=64)] = Field(default=[])
    """Nodes that later attempts stay away from."""
    running_seconds: Annotated[int, Field(ge=0)] = 0
    """Seconds for which all pods of an attempt ran."""
    lost_seconds: Annotated[int, Field(ge=0)] = 0
    """Those of them whose work was lost: from an attempt's last checkpoint to its failure."""
    idle_pod_seconds: Annotated[int, Field(ge=0)] = 0
    """Seconds for which pods held a node before all pods of their attempt ran, summed over the pods."""


class AttemptEnd(StatusPart):
    """How an attempt ended and what follows; written before anything is done about it."""

    time: Time
    reason: Annotated[str, Field(max_length=64)]
    """One CamelCase word."""
    message: Text = ""
    """The cause line: node, rank, what the pod said."""
    exit_code: int | None = None
    """Exit code of the pod that ended first; None if there was none to see."""
    pod: Name | None = None
    node: Name | None = None
    action: Literal["Done", "Fail", "Restart", "Suspend"]
    budget: Literal["None", "User", "Infra", "Free"] = "None"


class StageStatus(StatusPart):
    """One stage: a sequence of attempts, each a child of the job."""

    name: StageName
    state: StageState = "Pending"
    attempt: Annotated[int, Field(ge=0)] = 0
    """Number of the newest attempt; 0: none yet."""
    child: Name | None = None
    """Name of the newest attempt's child."""
    child_uid: Annotated[str, Field(max_length=64)] | None = None
    pod_uids: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=64)] = Field(default=[])
    """Pods of the newest attempt, once all of them were observed; a change means that one was lost."""
    resume_time: Time | None = None
    """When the newest attempt's child was last resumed after a suspension; its pods are new ones since then."""
    start_time: Time | None = None
    """When the first attempt was created; of the finish stage, when it could first be."""
    attempt_time: Time | None = None
    """When the newest attempt was created."""
    running_time: Time | None = None
    """Since when all pods of the newest attempt run; None before that, and once the time is in `restartCounters`."""
    completion_time: Time | None = None
    restart_counters: RestartCounters = RestartCounters()
    """What the attempts up to the newest end or suspension have used up."""
    attempt_end: AttemptEnd | None = None
    """How the newest attempt ended; None while it has not."""
    last_attempt_end: AttemptEnd | None = None
    """How the attempt before it ended."""


class NamedNumber(StatusPart):
    """The loss of an objective, or a score of the evaluation."""

    name: Annotated[str, Field(max_length=64)]
    value: Number


class ProgressStatus(StatusPart):
    """The last report that was pulled from the job's pods, or their termination record."""

    stage: StageName
    step: Annotated[int, Field(ge=0)] = 0
    total_steps: Annotated[int, Field(ge=0)] = 0
    steps: Annotated[str, Field(max_length=32)] = ""
    """`120/400`, for `kubectl get`."""
    percent: Annotated[int, Field(ge=0, le=100)] = 0
    eta_seconds: Annotated[int, Field(ge=0)] | None = None
    eta: Annotated[str, Field(max_length=16)] = ""
    """`1h20m`, for `kubectl get`."""
    loss: Number = ""
    """The loss that is trained, the weighted mean of the objectives', for `kubectl get`."""
    losses: Annotated[list[NamedNumber], Field(max_length=16, json_schema_extra=listed_by("name"))] = Field(default=[])
    rows_per_second: Number | None = None
    updated_time: Time | None = None
    """When the trainer wrote the report."""


class CheckpointStatus(StatusPart):
    """The newest checkpoint that was reported."""

    uri: Annotated[str, Field(max_length=2048)]
    step: Annotated[int, Field(ge=0)]
    time: Time | None = None
    """When a pod first reported it."""


class MlflowStatus(StatusPart):
    """The run in MLflow."""

    run_id: Annotated[str, Field(max_length=64)] | None = None
    url: Annotated[str, Field(max_length=2048)] | None = None


class UsageStatus(StatusPart):
    """What the job's GPUs did, in seconds times GPUs; time in a queue or in suspension holds none and is not here."""

    gpu_seconds: Annotated[int, Field(ge=0)] = 0
    """Useful: in attempts that ran, up to the last checkpoint known, or to the end of a stage that succeeded."""
    lost_gpu_seconds: Annotated[int, Field(ge=0)] = 0
    """Lost: from the last checkpoint to the failure of an attempt."""
    idle_gpu_seconds: Annotated[int, Field(ge=0)] = 0
    """Held by pods before all pods of their attempt ran."""


class JobStatus(StatusPart):
    """Everything under `.status`."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    phase: JobPhase = "Pending"
    reason: Annotated[str, Field(max_length=64)] = ""
    """Reason of the condition that explains the phase, for `kubectl get -o wide`."""
    conditions: Annotated[list[Condition], Field(max_length=16, json_schema_extra=listed_by("type"))] = Field(
        default=[]
    )
    stages: Annotated[list[StageStatus], Field(max_length=8, json_schema_extra=listed_by("name"))] = Field(default=[])
    attempt: Annotated[int, Field(ge=0)] = 0
    """Number of the newest attempt to train, or of the evaluation where nothing is trained, for `kubectl get`."""
    progress: ProgressStatus | None = None
    checkpoint: CheckpointStatus | None = None
    benchmarks: Annotated[list[NamedNumber], Field(max_length=32, json_schema_extra=listed_by("name"))] = Field(
        default=[]
    )
    scores: Annotated[str, Field(max_length=128)] = ""
    """The first score of each benchmark, for `kubectl get -o wide`."""
    mlflow: MlflowStatus | None = None
    usage: UsageStatus | None = None
    """Of a job without GPUs there is none."""
    start_time: Time | None = None
    completion_time: Time | None = None

    def stage(self, name: StageName) -> StageStatus:
        """Return the stage of that name; one that was not begun is pending."""
        return next((stage for stage in self.stages if stage.name == name), None) or StageStatus(name=name)

    def condition(self, name: ConditionType) -> Condition | None:
        """Return the condition of that type, if it was set."""
        return next((condition for condition in self.conditions if condition.type == name), None)
