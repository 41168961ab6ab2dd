"""Exit codes of every process of a job, with what each means and what follows: one table for all sides.

The launcher reports them, the operator decides by them, and the command line ends with them. A code says what
kind of thing went wrong, never where; the message is in the termination record.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class ExitCode(IntEnum):
    """How a process ended. 64 to 78 follow BSD's sysexits.h; 80 to 87 are ours."""

    OK = 0
    CONFIGURATION = 64
    DATA_CORRUPT = 65
    INPUT_MISSING = 66
    UNAVAILABLE = 69
    PROGRAM = 70
    STALL = 75
    CREDENTIALS = 77
    GPU_FAULT = 80
    PREFLIGHT = 81
    NON_FINITE_LOSS = 82
    STRATEGY_CHECK = 83
    COMMUNICATION = 84
    INTERRUPTED = 85
    NO_VALID_CHECKPOINT = 87
    INTERRUPTED_TWICE = 130
    KILLED = 137
    TERMINATED = 143


class Action(Enum):
    """What follows from an attempt's end."""

    DONE = "Done"
    FAIL = "Fail"
    RESTART = "Restart"
    RESTART_ELSEWHERE = "RestartElsewhere"
    """Restart, and leave out the node on which it happened."""


class Budget(Enum):
    """What a restart is counted against."""

    NONE = "None"
    """Nothing is restarted, so nothing is counted."""
    USER = "User"
    """The program's own failures (`runPolicy.maxRestarts`)."""
    INFRA = "Infra"
    """Failures of machines, networks and stores."""
    FREE = "Free"
    """Not counted; but without a new commit since the previous free restart it counts as INFRA."""


class KillReason(Enum):
    """What the cluster says about a pod's end beyond its exit code."""

    UNKNOWN = "Unknown"
    OUT_OF_MEMORY = "OOMKilled"
    DISRUPTED = "Disrupted"
    """DisruptionTarget, Evicted, NodeLost, or the pod is missing."""


@dataclass(frozen=True)
class Rule:
    """What one end means and what follows."""

    reason: str
    """One CamelCase word, for the status and the termination record."""
    meaning: str
    action: Action
    budget: Budget = Budget.NONE
    fail_after: int | None = None
    """The attempt's job fails at the n-th such end, whatever is left of the budget."""
    exclude_node_after: int | None = None
    """A node is left out after the n-th such end on it."""


RULES: dict[ExitCode, Rule] = {
    ExitCode.OK: Rule("Completed", "done", Action.DONE),
    ExitCode.CONFIGURATION: Rule("ConfigInvalid", "the job's configuration is invalid", Action.FAIL),
    ExitCode.DATA_CORRUPT: Rule("DataCorrupt", "data is corrupt", Action.FAIL),
    ExitCode.INPUT_MISSING: Rule("InputMissing", "an input does not exist", Action.FAIL),
    ExitCode.UNAVAILABLE: Rule("Unavailable", "a store or the rendezvous is unavailable", Action.RESTART, Budget.INFRA),
    ExitCode.PROGRAM: Rule("ProgramFailed", "the program failed", Action.RESTART, Budget.USER),
    ExitCode.STALL: Rule(
        "Stalled", "no progress within the stall timeout", Action.RESTART, Budget.INFRA, exclude_node_after=2
    ),
    ExitCode.CREDENTIALS: Rule("CredentialsDenied", "credentials were denied", Action.FAIL),
    ExitCode.GPU_FAULT: Rule("GpuFault", "a GPU is faulty", Action.RESTART_ELSEWHERE, Budget.INFRA),
    ExitCode.PREFLIGHT: Rule(
        "PreflightFailed", "a node lacks what training needs", Action.RESTART_ELSEWHERE, Budget.INFRA
    ),
    ExitCode.NON_FINITE_LOSS: Rule("NonFiniteLoss", "too many losses or gradients are not finite", Action.FAIL),
    ExitCode.STRATEGY_CHECK: Rule(
        "StrategyCheckFailed", "a strategy does not train as one process does on these versions", Action.FAIL
    ),
    ExitCode.COMMUNICATION: Rule(
        "CommunicationFailed", "communication between processes failed", Action.RESTART, Budget.INFRA
    ),
    ExitCode.INTERRUPTED: Rule("Interrupted", "interrupted; the last checkpoint is kept", Action.RESTART, Budget.FREE),
    ExitCode.NO_VALID_CHECKPOINT: Rule("NoValidCheckpoint", "checkpoints exist and none verifies", Action.FAIL),
    ExitCode.INTERRUPTED_TWICE: Rule(
        "InterruptedTwice", "interrupted twice; the last checkpoint is kept", Action.RESTART, Budget.FREE
    ),
    ExitCode.KILLED: Rule("Killed", "killed (SIGKILL)", Action.RESTART, Budget.USER),
    ExitCode.TERMINATED: Rule("Terminated", "terminated (SIGTERM) before it could commit", Action.RESTART, Budget.USER),
}
"""Every known code, for an end about which the cluster says nothing more."""

OUT_OF_MEMORY = Rule("OutOfMemory", "out of host memory", Action.RESTART, Budget.USER, fail_after=2)
DISRUPTED = Rule("Disrupted", "the cluster took the pod away", Action.RESTART, Budget.FREE)


def rule(code: int, kill_reason: KillReason = KillReason.UNKNOWN) -> Rule:
    """Return what follows from an end with `code`; an unknown code is treated like a program failure.

    `kill_reason` matters only for a process that a signal ended (137, 143): a code that it chose itself is trusted.
    """
    if code == ExitCode.KILLED and kill_reason is KillReason.OUT_OF_MEMORY:
        return OUT_OF_MEMORY
    if code in (ExitCode.KILLED, ExitCode.TERMINATED) and kill_reason is KillReason.DISRUPTED:
        return DISRUPTED
    try:
        return RULES[ExitCode(code)]
    except ValueError:
        return Rule("ProgramFailed", f"unknown exit code {code}", Action.RESTART, Budget.USER)
