"""Shows errors on standard error: the place first, as compilers do, then the way out; no traceback for user
errors."""

from __future__ import annotations

import traceback

from rich.console import Console
from rich.text import Text

from unimrg_api.errors import JobError, Problem, UserError

BUG = "this is a bug in unimrg; please report it with the lines above"


def show_user_error(error: UserError) -> None:
    """Write what is wrong and what to do about it."""
    console = Console(stderr=True)
    if isinstance(error, JobError):
        for problem in error.problems:
            _print(console, _problem_text(problem, error.source))
            _print(console, Text(f"    {problem.remedy}", style="green") if problem.remedy else None)
        if len(error.problems) > 1:
            _print(console, Text(f"{error.message}.", style="bold"))
        return
    _print(console, Text.assemble(("error: ", "bold red"), error.message))
    _print(console, Text(f"    {error.remedy}", style="green") if error.remedy else None)


def show_bug(error: BaseException) -> None:
    """Write a traceback and say that it is not the user's fault."""
    console = Console(stderr=True)
    _print(console, Text("".join(traceback.format_exception(error)).rstrip()))
    _print(console, Text(f"{type(error).__name__}: {BUG}", style="bold red"))


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
