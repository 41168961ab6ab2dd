"""From how the ranks of a stage ended to one result: a pure function over what the launcher has seen.

The first failure is the cause, the others follow from it: when a rank dies its peers fail in their collectives and are
ended by the launcher. So communication faults and interruptions count only where nothing else failed.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.launch.exit_records import RankExit
from unimrg_trainer.launch.watchdog import Stall

_KNOWN_CODES = frozenset(int(code) for code in ExitCode)
_CONSEQUENCES = (ExitCode.COMMUNICATION, ExitCode.INTERRUPTED)


@dataclass(frozen=True)
class RankEnd:
    """How one rank of this node ended, as the launcher saw it."""

    rank: int
    record: RankExit | None = None
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


@dataclass(frozen=True)
class StageResult:
    """What a stage came to: exit code, reason in one CamelCase word, message in one sentence, the rank at fault."""

    code: ExitCode
    reason: str
    message: str = ""
    rank: int | None = None
    step: int | None = None
    commit: int | None = None
    at: float = field(default=0.0, compare=False)
    """When it happened, Unix time in seconds; orders the failures of ranks."""


def classify(end: GroupEnd) -> StageResult:
    """Return the result of a stage from how its ranks ended."""
    if end.interrupted_twice:
        return StageResult(ExitCode.INTERRUPTED_TWICE, "InterruptedTwice", "interrupted twice: all ranks were killed")
    if end.stall is not None:
        last = end.stall.beat or "none"
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
    record, status = rank.record, rank.status
    if record is not None:
        if record.code == ExitCode.OK:
            return None
        code, at = _known(record.code), record.finished_at
        return StageResult(code, record.reason, record.message, rank.rank, record.step, record.commit, at)
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
        reason, message = "Crashed", f"killed by {_signal_name(-status)}{hint}; stacks are in its log"
    elif status:
        code = _known(status)
    return StageResult(
        code, reason, message, rank.rank, at=rank.ended_at if rank.ended_at is not None else float("inf")
    )


def _known(code: int) -> ExitCode:
    return ExitCode(code) if code in _KNOWN_CODES else ExitCode.PROGRAM


def _first(failures: Iterable[StageResult]) -> StageResult:
    """The earliest failure, of equal times the lowest rank's."""
    return min(failures, key=lambda failure: (failure.at, failure.rank))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
