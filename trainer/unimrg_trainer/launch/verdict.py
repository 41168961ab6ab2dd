"""From how the processes of a stage ended to one cause: pure, over what the launcher has seen.

The first failure is the cause, the rest are its echoes: when a rank dies the others fail in their collectives
and torchrun kills what still waits. So communication faults and interruptions count only where nothing else
failed.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.launch.exit_records import RankExit
from unimrg_trainer.launch.watchdog import Stall

_RENDEZVOUS = re.compile(
    r"Rendezvous\w*(Error|Exception)|DistNetworkError|DistStoreError|EADDRINUSE|"
    r"(?:client|server) socket has (?:failed|timed out)|rendezvous.*tim(?:ed|e)\s?out",
    re.IGNORECASE,
)
_KNOWN_CODES = frozenset(int(code) for code in ExitCode)


@dataclass(frozen=True)
class RankOutcome:
    """One rank of this node as the launcher saw it.

    `status` is its exit status as torchrun reports it (negative: signal), None if unknown; `ended_at` is the
    Unix time at which it was seen gone, in seconds.
    """

    rank: int
    record: RankExit | None = None
    status: int | None = None
    ended_at: float | None = None


@dataclass(frozen=True)
class GangOutcome:
    """How torchrun and its ranks ended on this node."""

    ranks: tuple[RankOutcome, ...] = ()
    processes: int = 1
    torchrun_status: int | None = 0
    torchrun_log: str = ""
    stop_requested: bool = False
    interrupted_twice: bool = False
    overdue: bool = False
    """The grace period was used up and the launcher killed the ranks."""
    stall: Stall | None = None
    stall_timeout: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """The cause: exit code, reason in one word, message in one sentence, the rank it came from."""

    code: ExitCode
    reason: str
    message: str = ""
    rank: int | None = None
    step: int | None = None
    commit: int | None = None


def judge(outcome: GangOutcome) -> Verdict:
    """Name the cause of a gang's end."""
    if outcome.interrupted_twice:
        return Verdict(ExitCode.INTERRUPTED_TWICE, "InterruptedTwice", "interrupted twice: all processes were killed")
    if outcome.stall is not None:
        return Verdict(
            ExitCode.STALL,
            "Stalled",
            f"nothing advanced for {outcome.stall.seconds:.0f} s (allowed: {outcome.stall_timeout:.0f} s); "
            f"last sign of life: {outcome.stall.beat or 'none'}; the stacks of all ranks are in their logs",
        )
    failures = [failure for rank in outcome.ranks if (failure := _failure(rank, outcome)) is not None]
    causes = [failure for failure in failures if failure.code not in _ECHOES]
    died = outcome.torchrun_status is not None and outcome.torchrun_status < 0
    if died and not outcome.overdue and all(rank.record is None for rank in outcome.ranks):
        name = _signal_name(-(outcome.torchrun_status or 0))
        return Verdict(ExitCode.PROGRAM, "LauncherDied", f"torchrun was killed by {name}, and its ranks with it")
    if causes:
        return _first(causes)
    if len(outcome.ranks) < outcome.processes and not outcome.stop_requested:
        return _never_started(outcome)
    broken = [failure for failure in failures if failure.code == ExitCode.COMMUNICATION]
    interrupted = [failure for failure in failures if failure.code == ExitCode.INTERRUPTED]
    if broken and not (interrupted and outcome.stop_requested):  # else a rank that stopped has left the others
        return _first(broken)
    if interrupted:
        if outcome.overdue and any(rank.record is None for rank in outcome.ranks):
            return replace(
                _first(interrupted),
                message="the grace period was not enough to reach a step boundary; the last commit stands",
            )
        return _first(interrupted)
    if len(outcome.ranks) < outcome.processes:
        return Verdict(ExitCode.INTERRUPTED, "Interrupted", "stopped before the ranks had started")
    return Verdict(ExitCode.OK, "Completed")


_ECHOES = (ExitCode.COMMUNICATION, ExitCode.INTERRUPTED)


def _failure(rank: RankOutcome, outcome: GangOutcome) -> _TimedVerdict | None:
    """The rank's own failure, None if it completed."""
    record = rank.record
    if record is not None:
        if record.code == ExitCode.OK:
            return None
        code = ExitCode(record.code) if record.code in _KNOWN_CODES else ExitCode.PROGRAM
        return _TimedVerdict(
            code, record.reason, record.message, rank.rank, record.step, record.commit, at=record.finished_at
        )
    at = rank.ended_at if rank.ended_at is not None else float("inf")
    if outcome.overdue or (outcome.stop_requested and rank.status == -signal.SIGTERM):
        return _TimedVerdict(ExitCode.INTERRUPTED, "Interrupted", "killed while stopping", rank.rank, at=at)
    status = rank.status
    if status is None or status == -signal.SIGKILL:
        message = "killed (SIGKILL) without a word: out of memory, or killed from outside"
        return _TimedVerdict(ExitCode.KILLED, "Killed", message, rank.rank, at=at)
    if status == -signal.SIGTERM:
        return _TimedVerdict(ExitCode.TERMINATED, "Terminated", "killed by SIGTERM", rank.rank, at=at)
    if status < 0:
        hint = "; /dev/shm may be too small" if status == -signal.SIGBUS else ""
        message = f"killed by {_signal_name(-status)}{hint}; stacks are in its log"
        return _TimedVerdict(ExitCode.PROGRAM, "Crashed", message, rank.rank, at=at)
    code = ExitCode(status) if status in _KNOWN_CODES and status else ExitCode.PROGRAM
    message = f"ended with status {status} and left no exit record"
    return _TimedVerdict(code, "NoRecord", message, rank.rank, at=at)


@dataclass(frozen=True)
class _TimedVerdict(Verdict):
    at: float = 0.0


def _first(failures: Sequence[_TimedVerdict]) -> Verdict:
    """The earliest failure, of equal times the lowest rank's."""
    first = min(failures, key=lambda failure: (failure.at, failure.rank if failure.rank is not None else -1))
    return Verdict(first.code, first.reason, first.message, first.rank, first.step, first.commit)


def _never_started(outcome: GangOutcome) -> Verdict:
    lines = [line.strip() for line in outcome.torchrun_log.splitlines() if line.strip()]
    meeting = next((line for line in reversed(lines) if _RENDEZVOUS.search(line)), None)
    if meeting is not None:
        return Verdict(ExitCode.UNAVAILABLE, "Rendezvous", f"the ranks did not find one another: {meeting}")
    last = lines[-1] if lines else "it wrote nothing"
    started = f"{len(outcome.ranks)} of {outcome.processes} ranks had started"
    return Verdict(
        ExitCode.PROGRAM,
        "TorchrunFailed",
        f"torchrun ended with {outcome.torchrun_status}; {started}: {last}",
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
