"""Derives the result of a stage from the ends of its ranks: a pure function of what the launcher has observed.

The first failure is the cause, the others follow from it: when a rank dies its peers fail in their collectives and are
killed by the launcher. So communication faults and interruptions count only where nothing else failed.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass, replace

from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.launch.exit_records import ExitResult
from unimrg_trainer.launch.watchdog import Stall

_NO_LOG = "no log"
_SECONDARY_EXIT_CODES = (ExitCode.COMMUNICATION, ExitCode.INTERRUPTED)


@dataclass(frozen=True)
class RankExit:
    """The end of one rank of this node, as the launcher observed it."""

    rank: int
    result: ExitResult | None = None
    """The result that the rank wrote; None if it was killed or crashed."""
    status: int | None = None
    """Its exit status (negative: signal); None for a process that does not end."""
    ended_at: float | None = None
    """When its end was observed, Unix time in seconds."""
    killed_by_launcher: bool = False
    last_line: str = ""
    """The last line of its log, where there is no result."""


@dataclass(frozen=True)
class WorkerGroupExit:
    """The ends of the ranks of this node, and what the launcher did."""

    ranks: tuple[RankExit, ...] = ()
    stop_requested: bool = False
    interrupted_twice: bool = False
    grace_exceeded: bool = False
    """The ranks did not stop within the grace period, and the launcher killed them."""
    stall: Stall | None = None


def classify(end: WorkerGroupExit) -> ExitResult:
    """Return the result of a stage from how its ranks ended."""
    if end.interrupted_twice:
        return ExitResult(ExitCode.INTERRUPTED_TWICE, "InterruptedTwice", "interrupted twice: all ranks were killed")
    if end.stall is not None:
        return ExitResult(
            ExitCode.STALL,
            "Stalled",
            f"no progress for {end.stall.seconds:.0f} s (runPolicy.stallTimeoutSeconds, a third of it between steps); "
            f"last progress: {end.stall.heartbeat or 'none'}; the stacks of all ranks are in their logs",
        )
    failures = [failure for rank in end.ranks if (failure := _failure(rank, end)) is not None]
    causes = [failure for failure in failures if failure.code not in _SECONDARY_EXIT_CODES]
    if causes:
        return _earliest(causes)
    faults = [failure for failure in failures if failure.code == ExitCode.COMMUNICATION]
    interrupted = [failure for failure in failures if failure.code == ExitCode.INTERRUPTED]
    # after a stop request, a communication error follows from a rank that stopped before its peers
    if faults and not (interrupted and end.stop_requested):
        return _earliest(faults)
    if not interrupted:
        return ExitResult(ExitCode.OK, "Completed")
    first = _earliest(interrupted)
    if end.grace_exceeded and any(rank.result is None for rank in end.ranks):
        message = "the ranks did not finish a step within the grace period; the last checkpoint is kept"
        return replace(first, message=message)
    return first


def _failure(rank: RankExit, end: WorkerGroupExit) -> ExitResult | None:
    """The rank's own failure; None if it completed, or was killed because another rank failed."""
    if rank.result is not None:
        return None if rank.result.code == ExitCode.OK else rank.result
    status = rank.status
    code, reason, message = ExitCode.PROGRAM, "NoExitRecord", f"exit status {status}: {rank.last_line or _NO_LOG}"
    if end.stop_requested and (rank.killed_by_launcher or status == -signal.SIGTERM):
        code, reason, message = ExitCode.INTERRUPTED, "Interrupted", "killed while stopping"
    elif rank.killed_by_launcher:
        return None
    elif status == -signal.SIGKILL:
        code, reason, message = ExitCode.KILLED, "Killed", "killed (SIGKILL): out of memory, or killed from outside"
    elif status == -signal.SIGTERM:
        code, reason, message = ExitCode.TERMINATED, "Terminated", "killed by SIGTERM"
    elif status is not None and status < 0:
        hint = "; /dev/shm may be too small" if status == -signal.SIGBUS else ""
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        reason, message = "Crashed", f"killed by {name}{hint}; stacks are in its log"
    elif status in set(ExitCode) - {ExitCode.OK}:
        code = ExitCode(status)
    occurred_at = rank.ended_at if rank.ended_at is not None else float("inf")
    return ExitResult(code, reason, message, rank.rank, occurred_at=occurred_at)


def _earliest(failures: Iterable[ExitResult]) -> ExitResult:
    """The earliest failure that says what happened, or else the earliest; of equal times the lowest rank's."""
    return min(failures, key=lambda failure: (failure.message.endswith(_NO_LOG), failure.occurred_at, failure.rank))
