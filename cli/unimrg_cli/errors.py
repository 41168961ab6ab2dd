"""Shows errors on standard error: place, problem, remedy, as compilers do; no traceback for a user's mistake."""

from __future__ import annotations

import traceback

from rich.console import Console
from rich.text import Text

from unimrg_api.errors import Interrupted, JobError, Problem, UserError
from unimrg_api.exit_codes import ExitCode

BUG = "this is a bug in unimrg; please report it with the lines above"


def show_error(error: Exception) -> ExitCode:
    """Write what is wrong and what to do about it, for a bug with a traceback; return the exit code."""
    console = Console(stderr=True)
    if isinstance(error, JobError):
        for problem in error.problems:
            _print(console, _problem_text(problem, error.source))
            _print(console, Text(f"    {problem.remedy}", style="green") if problem.remedy else None)
        if len(error.problems) > 1:
            _print(console, Text(f"{error.message}.", style="bold"))
    elif isinstance(error, UserError):
        _print(console, Text.assemble(("error: ", "bold red"), error.message))
        _print(console, Text(f"    {error.remedy}", style="green") if error.remedy else None)
    elif isinstance(error, Interrupted):
        _print(console, Text(error.message))
    else:
        _print(console, Text("".join(traceback.format_exception(error)).rstrip()))
        _print(console, Text(f"{type(error).__name__}: {BUG}", style="bold red"))
        return ExitCode.PROGRAM
    return error.exit_code


def _problem_text(problem: Problem, source: str) -> Text:
    place = source
    if problem.line is not None:
        place = f"{source}:{problem.line}:{problem.column}"
    text = Text(f"{place}: " if place else "", style="bold")
    if problem.path:
        text.append(f"{problem.path}: ", style="cyan")
    text.append(problem.message, style="red")
    if problem.value:
        text.append(f" (got {problem.value})", style="default")
    return text


def _print(console: Console, text: Text | None) -> None:
    if text is not None:
        # soft wrap: a line stays one line where the output goes to a file or to grep
        console.print(text, soft_wrap=True)
