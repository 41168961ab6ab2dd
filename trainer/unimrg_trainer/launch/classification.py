"""From how the ranks of a stage ended to one result: a pure function over what the launcher has seen.

The first failure is the cause, the others follow from it: when a rank dies its peers fail in their collectives and are
ended by the launcher. So communication faults and interruptions count only where nothing else failed.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass, replace

from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.launch.exit_records import StageResult
from unimrg_trainer.launch.watchdog import Stall

_CONSEQUENCES = (ExitCode.COMMUNICATION, ExitCode.INTERRUPTED)


@dataclass(frozen=True)
class RankEnd:
    """How one rank of this node ended, as the launcher saw it."""

    rank: int
    record: StageResult | None = None
    """What the rank wrote about its end; None if it was killed or crashed."""
    status: int | None = None
    """Its exit status (negative: signal); None for a process that does not end."""
    ended_at: float | None = None
    """When it was seen ended, Unix time in seconds."""
    killed_by_launcher: bool = False
    last_line: str = ""
    """The last line of its log, where there is no record."""


@dataclass(frozen=True)
class GroupEnd:
    """How the ranks of this node ended."""

    ranks: tuple[RankEnd, ...] = ()
    stop_requested: bool = False
    interrupted_twice: bool = False
    overdue: bool = False
    """The grace period was used up and the launcher killed the ranks."""
    stall: Stall | None = None


def classify(end: GroupEnd) -> StageResult:
    """Return the result of a stage from how its ranks ended."""
    if end.interrupted_twice:
        return StageResult(ExitCode.INTERRUPTED_TWICE, "InterruptedTwice", "interrupted twice: all ranks were killed")
    if end.stall is not None:
        beat = end.stall.beat
        last = "{}, step {}".format(*beat) if isinstance(beat, tuple) else beat or "none"
        return StageResult(
            ExitCode.STALL,
            "Stalled",
            f"nothing advanced for {end.stall.seconds:.0f} s (runPolicy.stallTimeoutSeconds); last progress: {last}; "
            "the stacks of all ranks are in their logs",
        )
    failures = [failure for rank in end.ranks if (failure := _failure(rank, end)) is not None]
    causes = [failure for failure in failures if failure.code not in _CONSEQUENCES]
    if causes:
        return _first(causes)
    faults = [failure for failure in failures if failure.code == ExitCode.COMMUNICATION]
    interrupted = [failure for failure in failures if failure.code == ExitCode.INTERRUPTED]
    if faults and not (interrupted and end.stop_requested):  # otherwise a rank that stopped has left the others
        return _first(faults)
    if not interrupted:
        return StageResult(ExitCode.OK, "Completed")
    first = _first(interrupted)
    if end.overdue and any(rank.record is None for rank in end.ranks):
        message = "the grace period was not enough to reach a step boundary; the last commit stands"
        return replace(first, message=message)
    return first


def _failure(rank: RankEnd, end: GroupEnd) -> StageResult | None:
    """The rank's own failure; None if it completed, or was killed because of another's."""
    if rank.record is not None:
        return None if rank.record.code == ExitCode.OK else rank.record
    status = rank.status
    code, reason, message = ExitCode.PROGRAM, "NoRecord", f"ended with status {status}: {rank.last_line or 'no log'}"
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
    at = rank.ended_at if rank.ended_at is not None else float("inf")
    return StageResult(code, reason, message, rank.rank, at=at)


def _first(failures: Iterable[StageResult]) -> StageResult:
    """The earliest failure, of equal times the lowest rank's."""
    return min(failures, key=lambda failure: (failure.at, failure.rank))
