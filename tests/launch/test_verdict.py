"""From how processes ended to one cause, as a table."""

from __future__ import annotations

import signal

import pytest

from unimrg_api.errors import Interrupted, JobError, Problem, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.launch.exit_records import RankExit, describe
from unimrg_trainer.launch.verdict import GangOutcome, RankOutcome, Verdict, judge
from unimrg_trainer.launch.watchdog import Stall


def ended(rank: int, code: int, at: float, message: str = "") -> RankOutcome:
    return RankOutcome(rank, RankExit(code, "Reason", message, finished_at=at), ended_at=at)


def vanished(rank: int, at: float | None = None, status: int | None = None) -> RankOutcome:
    return RankOutcome(rank, None, status, at)


def gang(*ranks: RankOutcome, **more: object) -> GangOutcome:
    return GangOutcome(ranks=ranks, **({"processes": len(ranks), "torchrun_status": 1} | more))  # type: ignore[arg-type]


CASES: list[tuple[str, GangOutcome, ExitCode, int | None]] = [
    ("all ranks completed", gang(ended(0, 0, 1), ended(1, 0, 2), torchrun_status=0), ExitCode.OK, None),
    ("completed although torchrun failed afterwards", gang(ended(0, 0, 1), ended(1, 0, 2)), ExitCode.OK, None),
    ("the earliest failure is the cause", gang(ended(0, 70, 9), ended(1, 65, 8)), ExitCode.DATA_CORRUPT, 1),
    ("equal times: the lowest rank", gang(ended(0, 66, 9), ended(1, 65, 9)), ExitCode.INPUT_MISSING, 0),
    ("broken communication is an echo", gang(ended(0, 84, 1), ended(1, 70, 2)), ExitCode.PROGRAM, 1),
    ("nothing but broken communication", gang(ended(0, 84, 3), ended(1, 84, 2)), ExitCode.COMMUNICATION, 1),
    ("killed by the kernel", gang(ended(0, 84, 5), vanished(1, 5.05, -9)), ExitCode.KILLED, 1),
    ("killed, nobody knows how", gang(ended(0, 84, 5), vanished(1, 5.05)), ExitCode.KILLED, 1),
    (
        "a waiting peer that torchrun killed is an echo",
        gang(ended(0, 65, 1), vanished(1, 31, -9)),
        ExitCode.DATA_CORRUPT,
        0,
    ),
    ("a crash in native code", gang(vanished(0, 1, -signal.SIGSEGV)), ExitCode.PROGRAM, 0),
    ("terminated before it could listen", gang(vanished(0, 1, -signal.SIGTERM)), ExitCode.TERMINATED, 0),
    ("ended with a known code and no record", gang(vanished(0, 1, 77)), ExitCode.CREDENTIALS, 0),
    ("ended with an unknown code", gang(ended(0, 3, 1)), ExitCode.PROGRAM, 0),
    ("ended with success and no record", gang(vanished(0, 1, 0)), ExitCode.PROGRAM, 0),
    ("all interrupted", gang(ended(0, 85, 1), ended(1, 85, 2), stop_requested=True), ExitCode.INTERRUPTED, 0),
    ("interrupted through another node", gang(ended(0, 85, 1)), ExitCode.INTERRUPTED, 0),
    (
        "one completed, one interrupted",
        gang(ended(0, 0, 1), ended(1, 85, 2), stop_requested=True),
        ExitCode.INTERRUPTED,
        1,
    ),
    ("asked to stop in the last step", gang(ended(0, 0, 1), stop_requested=True), ExitCode.OK, None),
    ("a failure while stopping", gang(ended(0, 85, 1), ended(1, 69, 2), stop_requested=True), ExitCode.UNAVAILABLE, 1),
    (
        "broken communication beside a rank that stopped",
        gang(ended(0, 85, 2), ended(1, 84, 1), stop_requested=True),
        ExitCode.INTERRUPTED,
        0,
    ),
    (
        "broken communication on all ranks while stopping",
        gang(ended(0, 84, 1), ended(1, 84, 2), stop_requested=True),
        ExitCode.COMMUNICATION,
        0,
    ),
    ("grace used up", gang(vanished(0, 9), vanished(1, 9), stop_requested=True, overdue=True), ExitCode.INTERRUPTED, 0),
    ("asked to stop before the start", gang(processes=2, stop_requested=True), ExitCode.INTERRUPTED, None),
    (
        "torchrun killed, its ranks with it",
        gang(vanished(0, 1), vanished(1, 1), torchrun_status=-9),
        ExitCode.PROGRAM,
        None,
    ),
    (
        "torchrun failed before any rank",
        gang(processes=2, torchrun_log="a\nImportError: no torch\n"),
        ExitCode.PROGRAM,
        None,
    ),
    (
        "the nodes did not meet",
        gang(processes=2, torchrun_log="torch.distributed.DistNetworkError: The client socket has timed out\n"),
        ExitCode.UNAVAILABLE,
        None,
    ),
    ("one rank never came up", gang(ended(0, 85, 1), processes=2), ExitCode.PROGRAM, None),
    ("stalled", gang(vanished(0, 1), stall=Stall(900, ("train", 3))), ExitCode.STALL, None),
    (
        "interrupted twice",
        gang(vanished(0, 1), stop_requested=True, interrupted_twice=True),
        ExitCode.INTERRUPTED_TWICE,
        None,
    ),
]


@pytest.mark.parametrize(("outcome", "code", "rank"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_cause_of_an_end(outcome: GangOutcome, code: ExitCode, rank: int | None) -> None:
    verdict = judge(outcome)
    assert (verdict.code, verdict.rank) == (code, rank), verdict
    assert verdict.reason and (verdict.message or verdict.reason in {"Completed", "Reason"})


def test_the_verdict_carries_the_ranks_message_and_steps() -> None:
    record = RankExit(65, "DataCorrupt", "shard 3", step=12, commit=10, finished_at=1.0)
    assert judge(gang(RankOutcome(0, record))) == Verdict(ExitCode.DATA_CORRUPT, "DataCorrupt", "shard 3", 0, 12, 10)


def test_a_full_shared_memory_is_suspected_after_a_bus_error() -> None:
    assert "/dev/shm" in judge(gang(vanished(0, 1, -signal.SIGBUS))).message


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("bad", exit_code=ExitCode.CREDENTIALS), ExitCode.CREDENTIALS),
        (UserError("bad"), ExitCode.CONFIGURATION),
        (
            JobError([Problem("spec.image", "", "no", exit_code=ExitCode.INPUT_MISSING)]),
            ExitCode.INPUT_MISSING,
        ),
        (Interrupted("stopped after step 3"), ExitCode.INTERRUPTED),
        (OutOfMemoryError("CUDA out of memory"), ExitCode.KILLED),
        (MemoryError(), ExitCode.KILLED),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), ExitCode.KILLED),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), ExitCode.GPU_FAULT),
        (
            RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer"),
            ExitCode.COMMUNICATION,
        ),
        (ValueError("a bug"), ExitCode.PROGRAM),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
    ],
)
def test_an_exception_becomes_the_exit_code_of_its_kind(error: BaseException, code: ExitCode) -> None:
    assert describe(error).code == code


def test_all_problems_of_a_job_are_in_the_record() -> None:
    problems = [Problem("spec.a", "", "first wrong"), Problem("spec.b", "", "second wrong")]
    message = describe(JobError(problems)).message
    assert "spec.a: first wrong" in message
    assert "spec.b: second wrong" in message
