"""Results of ranks: one JSON file per rank under RUN_DIR/exit, because an exit status has no room for a reason."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from unimrg_api.errors import Interrupted, JobError, Problem, UserError
from unimrg_api.exit_codes import RULES, ExitCode
from unimrg_trainer.faults import fault_of
from unimrg_trainer.files import write_atomically

logger = logging.getLogger(__name__)

MESSAGE_LIMIT = 1024
"""Characters of a message; the whole traceback is in the rank's log."""


@dataclass(frozen=True)
class ExitResult:
    """Result of a rank or a stage: exit code, reason in one CamelCase word, message (a line, or one a problem)."""

    code: ExitCode
    reason: str
    message: str = ""
    rank: int | None = None
    """The rank at fault; None for the launcher's own result."""
    occurred_at: float = field(default_factory=time.time, compare=False)
    """When it happened, Unix time in seconds; orders the failures of ranks."""


def result_from_error(error: BaseException) -> ExitResult:
    """Turn the exception that ended a rank or a stage into its result.

    Errors with an exit code keep it; memory, rendezvous, communication and GPU faults are distinguished because the
    operator treats them differently (docs/method/cluster.md); everything else is an error of the program.
    """
    name, text = type(error).__name__, _text(error)[:MESSAGE_LIMIT]
    message = f"{name}: {text}" if text else name
    if isinstance(error, UserError):
        return ExitResult(error.exit_code, RULES[error.exit_code].reason, text)
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return ExitResult(ExitCode.INTERRUPTED, "Interrupted", text or "interrupted")
    code, reason = fault_of(error) or (ExitCode.PROGRAM, name)
    if reason == "GpuOutOfMemory":
        message = f"out of GPU memory; lower spec.training.batch.microBatchRows: {text}"
    elif reason == "RendezvousFailed":
        message = f"rendezvous failed: {text}"
    return ExitResult(code, reason, message)


def _text(error: BaseException) -> str:
    """Return an error's text in one line, or a line for each of several problems.

    Where those are too long together, their remedies are left out, so that every problem is named.
    """
    if not isinstance(error, JobError) or len(error.problems) < 2:
        return " ".join(str(error).split())
    text = _lines(f"{error.message}:", error.problems)
    if len(text) > MESSAGE_LIMIT:
        bare = [replace(problem, remedy="") for problem in error.problems]
        text = _lines(f"{error.message} (the log says what to do about each):", bare)
    return text


def _lines(first: str, problems: Sequence[Problem]) -> str:
    return "\n".join([first, *(" ".join(str(problem).split()) for problem in problems)])


def clear(run_dir: Path) -> None:
    """Delete the records of an earlier stage or attempt."""
    shutil.rmtree(run_dir / "exit", ignore_errors=True)


def write_exit(run_dir: Path, rank: int, result: ExitResult) -> None:
    """Write the result of `rank`. Failures are only logged: a full disk must not hide the exit status."""
    try:
        write_atomically(run_dir / "exit" / f"rank-{rank}.json", json.dumps(asdict(result)))
    except OSError as error:
        logger.error("the exit record of rank %d could not be written: %s", rank, error)


def read_exits(run_dir: Path) -> dict[int, ExitResult]:
    """Results by rank; an exit record that cannot be read counts as missing."""
    found = {}
    for path in (run_dir / "exit").glob("rank-*.json"):
        try:
            content = json.loads(path.read_text())
            rank = int(path.stem.removeprefix("rank-"))
            found[rank] = ExitResult(**{**content, "code": ExitCode(content["code"]), "rank": rank})
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("%s cannot be read as an exit record: %s", path, error)
    return found
