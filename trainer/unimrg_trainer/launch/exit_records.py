"""How ranks ended: one JSON file per rank under RUN_DIR/exit, because an exit status has no room for a reason."""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from unimrg_api.errors import Interrupted, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.files import write_atomically

logger = logging.getLogger(__name__)

MESSAGE_LIMIT = 1024
"""Characters of a message; the whole traceback is in the rank's log."""

_RENDEZVOUS_TEXTS = (
    "client socket has timed out",
    "client socket has failed",
    "server socket has failed",
    "waiting for clients",
)
_COMMUNICATION_ERRORS = frozenset({"DistBackendError", "DistNetworkError", "DistStoreError", "DistError"})
_COMMUNICATION_TEXTS = (
    "gloo/transport",
    "Connection closed by peer",
    "NCCL error",
    "NCCL communicator was aborted",
)
_GPU_FAULT_TEXTS = (
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "NVLink error",
    "fallen off the bus",
    "hardware stack error",
    "device has become unavailable",
)


@dataclass(frozen=True)
class RankExit:
    """How a rank ended. `finished_at` is Unix time in seconds; `step` and `commit` are steps, where known."""

    code: int
    reason: str
    message: str = ""
    step: int | None = None
    commit: int | None = None
    finished_at: float = field(default_factory=time.time)


def describe(error: BaseException) -> RankExit:
    """Turn what ended a rank into its exit record.

    Errors that name their exit code keep it; memory, rendezvous, communication and GPU faults are distinguished because
    the operator treats them differently (docs/method/cluster.md); everything else is an error of the program.
    """
    step, commit = getattr(error, "step", None), getattr(error, "commit", None)
    name, text = type(error).__name__, " ".join(str(error).split())[:MESSAGE_LIMIT]
    if isinstance(error, UserError):
        return RankExit(int(error.exit_code), name, text, step, commit)
    if isinstance(error, Interrupted):
        return RankExit(int(ExitCode.INTERRUPTED), "Interrupted", text, step, commit)
    message = f"{name}: {text}" if text else name
    if isinstance(error, KeyboardInterrupt):
        return RankExit(int(ExitCode.INTERRUPTED), "Interrupted", "interrupted", step, commit)
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in text:
        return RankExit(int(ExitCode.KILLED), "OutOfMemory", message, step, commit)
    if any(part in text for part in _GPU_FAULT_TEXTS):
        return RankExit(int(ExitCode.GPU_FAULT), "GPUFault", message, step, commit)
    if name in _COMMUNICATION_ERRORS and any(part in text for part in _RENDEZVOUS_TEXTS):
        return RankExit(int(ExitCode.UNAVAILABLE), "Rendezvous", f"the ranks did not meet: {text}", step, commit)
    if name in _COMMUNICATION_ERRORS or any(part in text for part in _COMMUNICATION_TEXTS):
        return RankExit(int(ExitCode.COMMUNICATION), "Communication", message, step, commit)
    return RankExit(int(ExitCode.PROGRAM), name, message, step, commit)


def folder(run_dir: Path) -> Path:
    """Where the records of a run directory are."""
    return run_dir / "exit"


def clear(run_dir: Path) -> None:
    """Delete the records of an earlier stage or attempt."""
    shutil.rmtree(folder(run_dir), ignore_errors=True)
    folder(run_dir).mkdir(parents=True, exist_ok=True)


def write_exit(run_dir: Path, rank: int, record: RankExit) -> None:
    """Write how `rank` ended. A full disk must not hide the end itself: failures are logged."""
    try:
        write_atomically(folder(run_dir) / f"rank-{rank}.json", json.dumps(asdict(record)))
    except OSError as error:
        logger.error("the exit record of rank %d could not be written: %s", rank, error)


def read_exits(run_dir: Path) -> dict[int, RankExit]:
    """Exit records by rank; one that cannot be read counts as missing."""
    found = {}
    names = {item.name for item in fields(RankExit)}
    for path in folder(run_dir).glob("rank-*.json"):
        try:
            content = json.loads(path.read_text())
            found[int(path.stem.removeprefix("rank-"))] = RankExit(
                **{key: content[key] for key in names & content.keys()}
            )
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("%s is no exit record: %s", path, error)
    return found
