"""Writes docs/reference/commands.md: every command with its arguments and options, from the command line itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import typer
from pydantic import BaseModel

from unimrg_api.arithmetic.plan import Plan
from unimrg_api.errors import Problem
from unimrg_cli.cluster_view import ClusterJob
from unimrg_cli.data_prepare import PreparedReport
from unimrg_cli.data_stats import Spread, StatsReport
from unimrg_cli.data_view import DatasetReport, SplitReport
from unimrg_cli.eval_doctor import TableReport
from unimrg_cli.eval_images import JudgedReport
from unimrg_cli.eval_scores import ScoreReport
from unimrg_cli.main import app
from unimrg_cli.run_view import RunDescription
from unimrg_cli.sweep_results import JobResult, MeanResult, SweepResult
from unimrg_trainer.checkpoint.reader import CommitReport
from unimrg_trainer.data.verify import Finding
from unimrg_trainer.evaluation.over_seeds import Mean

_INTRODUCTION = """# Commands

<!-- Written by `python -m tools.generate` from the command line; edit the help texts there. -->

`unimrg --install-completion` sets up completion for bash, zsh, fish and PowerShell; names of jobs come from
the kubeconfig's namespace. [Exit codes]({codes}) says what an exit code means; wrong usage ends with 64.

`-o json` prints one JSON document on standard output, and nothing else there. Its keys are stable:

| Command | Keys |
|---|---|
| `init` | `file`, `job`, `family`, `method`, `place`, `notes`, `next` |
| `validate` | `file`, `valid`, `notes`, `problems`, and `job`, or `sweep` and `jobs` |
| a problem | {problem} |
| `plan` | {plan} |
| `status` of a run | {run} |
| `status` of a job, `submit`, `wait`, `suspend`, `resume` | {job}; `status` is that of the custom resource |
| `cancel` | the same, as it was before |
| `sweep` | {sweep} |
| a job of a sweep | {swept} |
| a mean of a sweep | {means}; each loss and score has {mean} |
| `sweep --dry-run` | a list of jobs |
| `ckpt ls`, `ckpt verify` | a list: {commit} |
| `ckpt prune` | `uri`, `deleted`, `checkpoints`: `step`, `why`, `bytes`, `folder` |
| `data prepare`, `data pack` | {prepared} |
| `data inspect` | a list: {dataset}; a split has {split} |
| `data verify` | a list: `uri`, `damaged`: {damage} |
| `data stats` | a list: {stats}; a distribution has {spread} |
| `data preview` | `file`, `samples` |
| `eval doctor` | a list: {questions} |
| `eval score` | {scores} |
| `eval judge` | {judged} |
| `selfcheck` | a list: `strategy`, `case`, `error`, `passed` |

What is not known is `null` or left out.
"""


def commands_page() -> str:
    """Return the page as Markdown."""
    keys = {
        "codes": "docs/reference/exit_codes.md".rpartition("/")[2],
        "problem": _listed(Problem("", "", "").to_json()),
        "plan": _keys(Plan),
        "run": _keys(RunDescription),
        "job": _keys(ClusterJob),
        "sweep": _keys(SweepResult),
        "swept": _keys(JobResult),
        "means": _keys(MeanResult),
        "mean": _keys(Mean),
        "commit": _keys(CommitReport),
        "prepared": _keys(PreparedReport),
        "dataset": _keys(DatasetReport),
        "split": _keys(SplitReport),
        "damage": _keys(Finding),
        "stats": _keys(StatsReport),
        "spread": _keys(Spread),
        "questions": _keys(TableReport),
        "scores": _keys(ScoreReport),
        "judged": _keys(JudgedReport),
    }
    return _INTRODUCTION.format(**keys) + "\n".join(_sections(typer.main.get_command(app), "unimrg")) + "\n"


def _keys(model: type[BaseModel]) -> str:
    shown = [field.alias or name for name, field in model.model_fields.items() if not field.exclude]
    return _listed([*shown, *(field.alias or name for name, field in model.model_computed_fields.items())])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _sections(command: Any, name: str) -> Iterator[str]:
    """Yield the lines about a command, or about each of a group's."""
    if hasattr(command, "commands"):
        for inner, found in command.commands.items():
            yield from _sections(found, f"{name} {inner}")
        return
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and not param.hidden]
    placed = " ".join(_placeholder(param) for param in arguments)
    yield f"\n## `{name}{f' {placed}' if placed else ''}`\n"
    yield " ".join(command.help.split())
    if arguments or options:
        yield "\n| Argument or option | Meaning |\n|---|---|"
    for param in arguments:
        yield f"| `{_placeholder(param)}` | {_cell(param.help)} |"
    for param in options:
        yield f"| {', '.join(f'`{text}`' for text in [*param.opts, *param.secondary_opts])} | {_cell(param.help)} |"


def _placeholder(param: Any) -> str:
    text = str(param.metavar or param.name.upper())
    return text if param.required or text.startswith("[") else f"[{text}]"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")
