"""From how ranks ended to one cause, as a table."""

from __future__ import annotations

import errno
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unimrg_api.errors import Interrupted, JobError, Problem, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.launch.classification import RankExit, WorkerGroupExit, classify
from unimrg_trainer.launch.exit_records import MESSAGE_LIMIT, ExitResult, read_exits, result_from_error, write_exit
from unimrg_trainer.launch.watchdog import Heartbeat, Stall


def ended(rank: int, code: int, at: float) -> RankExit:
    return RankExit(rank, ExitResult(ExitCode(code), "Reason", rank=rank, occurred_at=at), code, at)


def died(rank: int, status: int, at: float = 1.0) -> RankExit:
    return RankExit(rank, None, status, at)


def reporting(rank: int, status: int, at: float) -> RankExit:
    return RankExit(rank, None, status, at, last_line="OSError: [Errno 28] No space left on device")


def killed(rank: int, at: float = 9.0) -> RankExit:
    """By the launcher."""
    return RankExit(rank, None, -signal.SIGKILL, at, killed_by_launcher=True)


def group(*ranks: RankExit, **more: Any) -> WorkerGroupExit:
    return WorkerGroupExit(ranks=ranks, **more)


def stopped(*ranks: RankExit, **more: Any) -> WorkerGroupExit:
    return group(*ranks, stop_requested=True, **more)


CASES: list[tuple[str, WorkerGroupExit, ExitCode, int | None]] = [
    ("all completed", group(ended(0, 0, 1), ended(1, 0, 2)), ExitCode.OK, None),
    ("the earliest failure is the cause", group(ended(0, 70, 9), ended(1, 65, 8)), ExitCode.DATA_CORRUPT, 1),
    ("equal times: the lowest rank", group(ended(0, 66, 9), ended(1, 65, 9)), ExitCode.INPUT_MISSING, 0),
    ("a communication fault beside a failure", group(ended(0, 84, 1), ended(1, 70, 2)), ExitCode.PROGRAM, 1),
    ("communication faults alone", group(ended(0, 84, 3), ended(1, 84, 2)), ExitCode.COMMUNICATION, 1),
    ("a communication fault, and a peer that hung", group(ended(0, 84, 3), killed(1)), ExitCode.COMMUNICATION, 0),
    ("one that says nothing, and the cause", group(died(0, 69, 1), reporting(1, 69, 2)), ExitCode.UNAVAILABLE, 1),
    ("killed by the kernel", group(ended(0, 84, 5), died(1, -9, 5.05)), ExitCode.KILLED, 1),
    ("a failure, and a peer that hung", group(ended(0, 65, 1), killed(1)), ExitCode.DATA_CORRUPT, 0),
    ("a crash in native code", group(died(0, -signal.SIGSEGV)), ExitCode.PROGRAM, 0),
    ("terminated from outside", group(died(0, -signal.SIGTERM)), ExitCode.TERMINATED, 0),
    ("a known code and no record", group(died(0, 77)), ExitCode.CREDENTIALS, 0),
    ("an unknown code and no record", group(died(0, 3)), ExitCode.PROGRAM, 0),
    ("success and no record", group(died(0, 0)), ExitCode.PROGRAM, 0),
    ("all interrupted", stopped(ended(0, 85, 1), ended(1, 85, 2)), ExitCode.INTERRUPTED, 0),
    ("interrupted through another node", group(ended(0, 85, 1)), ExitCode.INTERRUPTED, 0),
    ("one completed, one interrupted", stopped(ended(0, 0, 1), ended(1, 85, 2)), ExitCode.INTERRUPTED, 1),
    ("a stop request in the last step", stopped(ended(0, 0, 1)), ExitCode.OK, None),
    ("a failure while stopping", stopped(ended(0, 85, 1), ended(1, 69, 2)), ExitCode.UNAVAILABLE, 1),
    ("a rank that stopped left another", stopped(ended(0, 85, 2), ended(1, 84, 1)), ExitCode.INTERRUPTED, 0),
    ("communication faults while stopping", stopped(ended(0, 84, 1), ended(1, 84, 2)), ExitCode.COMMUNICATION, 0),
    ("grace used up", stopped(killed(0), killed(1), grace_exceeded=True), ExitCode.INTERRUPTED, 0),
    ("stalled", group(killed(0), stall=Stall(900, Heartbeat("train", 3, 1.0))), ExitCode.STALL, None),
    ("interrupted twice", stopped(killed(0), interrupted_twice=True), ExitCode.INTERRUPTED_TWICE, None),
]


@pytest.mark.parametrize(("end", "code", "rank"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_cause_of_an_end(end: WorkerGroupExit, code: ExitCode, rank: int | None) -> None:
    result = classify(end)
    assert (result.code, result.rank) == (code, rank), result
    assert result.reason and (result.message or result.reason in {"Completed", "Reason"})


def test_the_result_has_the_message_that_a_rank_wrote(tmp_path: Path) -> None:
    written = ExitResult(ExitCode.DATA_CORRUPT, "DataCorrupt", "shard 3")
    write_exit(tmp_path, 0, written)
    (tmp_path / "exit" / "rank-1.json").write_text("{")
    assert classify(group(RankExit(0, read_exits(tmp_path)[0]))) == replace(written, rank=0)
    assert read_exits(tmp_path).keys() == {0}


def test_a_rank_without_a_record_is_quoted_from_its_log() -> None:
    end = RankExit(0, None, 1, 1.0, last_line="ImportError: no torch")
    assert "ImportError: no torch" in classify(group(end)).message


def test_a_full_shared_memory_is_suspected_after_a_bus_error() -> None:
    assert "/dev/shm" in classify(group(died(0, -signal.SIGBUS))).message


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


class DistNetworkError(RuntimeError):
    """Named like torch's."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("bad", exit_code=ExitCode.CREDENTIALS), ExitCode.CREDENTIALS),
        (UserError("bad"), ExitCode.CONFIGURATION),
        (JobError([Problem("spec.image", "", "no", exit_code=ExitCode.INPUT_MISSING)]), ExitCode.INPUT_MISSING),
        (Interrupted("stopped after step 3"), ExitCode.INTERRUPTED),
        (OutOfMemoryError("CUDA out of memory"), ExitCode.PROGRAM),
        (MemoryError(), ExitCode.KILLED),
        (OSError(errno.ENOSPC, "No space left on device"), ExitCode.UNAVAILABLE),
        (OSError(errno.EIO, "Input/output error"), ExitCode.PROGRAM),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), ExitCode.KILLED),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), ExitCode.GPU_FAULT),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer"), ExitCode.COMMUNICATION),
        (DistNetworkError("The client socket has timed out after 600000ms"), ExitCode.UNAVAILABLE),
        (DistNetworkError("Connection reset by peer"), ExitCode.COMMUNICATION),
        (ValueError("a bug"), ExitCode.PROGRAM),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
    ],
)
def test_an_exception_becomes_the_exit_code_of_its_kind(error: BaseException, code: ExitCode) -> None:
    assert result_from_error(error).code == code


def test_all_problems_of_a_job_are_in_the_record() -> None:
    problems = [Problem("spec.a", "", "first wrong"), Problem("spec.b", "", "second wrong")]
    message = result_from_error(JobError(problems)).message
    assert "spec.a: first wrong" in message
    assert "spec.b: second wrong" in message


def test_every_problem_is_named_where_their_remedies_are_too_long() -> None:
    problems = [Problem(f"spec.{name}", "", f"{name} is missing", "x" * 400) for name in "abcdefg"]
    message = result_from_error(JobError(problems)).message
    assert len(message) < MESSAGE_LIMIT
    assert message.splitlines()[1:] == [f"spec.{name}: {name} is missing" for name in "abcdefg"]
