"""Errors that are meant for the person who wrote the job: what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unimrg_api.exit_codes import ExitCode


class UserError(ValueError):
    """Something that the user can put right. It is shown without a traceback.

    `message` says what is wrong in plain English, `remedy` what to do (may be empty), `exit_code` how the process ends.
    """

    default_exit_code = ExitCode.CONFIGURATION

    def __init__(self, message: str, *, remedy: str = "", exit_code: ExitCode | None = None) -> None:
        self.message = _unicode(message)
        super().__init__(self.message)
        self.remedy = _unicode(remedy)
        self.exit_code = self.default_exit_code if exit_code is None else exit_code

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


def _unicode(text: str) -> str:
    """Return text that every file and terminal takes: bytes of a file's name that are not UTF-8 appear as `\\udce9`."""
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a job."""

    path: str
    """Where in the job, as written there: `spec.objectives[1].weight`. Empty for the file as a whole."""
    value: str
    """The offending value as Python shows it, cut to a line; empty where there is none."""
    message: str
    """What is wrong, in plain English."""
    remedy: str = ""
    """What to write instead."""
    line: int | None = None
    """Line in the file, from 1; None where the job did not come from a file."""
    column: int | None = None
    """Column in the file, from 1."""
    exit_code: ExitCode = ExitCode.CONFIGURATION
    """How a process ends that meets this problem alone."""

    def __post_init__(self) -> None:
        for name in ("value", "message", "remedy"):
            object.__setattr__(self, name, _unicode(getattr(self, name)))

    def to_json(self) -> dict[str, str | int | None]:
        """Return it for programs: path, value, message, remedy, line, column and exitCode."""
        texts = {"path": self.path, "value": self.value, "message": self.message, "remedy": self.remedy}
        return {**texts, "line": self.line, "column": self.column, "exitCode": int(self.exit_code)}

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.column}: " if self.line is not None else ""
        path = f"{self.path}: " if self.path else ""
        value = f" (got {self.value})" if self.value else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{where}{path}{self.message}{value}{remedy}"


def by_place(problem: Problem) -> tuple[int, int]:
    """Return what problems are sorted by: their place in the file."""
    return problem.line or 0, problem.column or 0


class JobError(UserError):
    """Everything that is wrong with a job, all at once; `source` names the file, if there was one.

    The exit code is that of the problems where they agree, else `CONFIGURATION`: a file that is wrong in
    itself is to be put right before its inputs.
    """

    def __init__(self, problems: Sequence[Problem], *, source: str = "") -> None:
        assert problems, "an error without a problem"
        codes = {problem.exit_code for problem in problems}
        code = codes.pop() if len(codes) == 1 else ExitCode.CONFIGURATION
        name = source or "the job"
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{name} has {count}", exit_code=code)
        self.problems = list(problems)
        self.source = source

    def __str__(self) -> str:
        return "\n".join([f"{self.message}:", *(f"  {problem}" for problem in self.problems)])


class Interrupted(Exception):  # noqa: N818 - an end that was asked for, not an error
    """The process was asked to stop (SIGTERM or SIGINT) and did so in order; the last checkpoint is kept."""

    exit_code = ExitCode.INTERRUPTED

    def __init__(self, message: str = "interrupted; the last checkpoint is kept") -> None:
        super().__init__(message)
        self.message = message
