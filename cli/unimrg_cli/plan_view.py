"""Prints the plan of a job as tables for a terminal."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rich.console import Console
from rich.filesize import decimal as size

from unimrg_api.arithmetic.memory import Memory
from unimrg_api.arithmetic.plan import Operations, Plan, Time
from unimrg_api.texts import counted, duration
from unimrg_cli.printing import Side, print_rows, print_table

TIGHT = 0.15
"""Share of the usable memory: with less to spare a process may not fit, for the arithmetic errs by as much."""


def print_plan(plan: Plan) -> None:
    """Print it, what is assumed and what to beware of last."""
    printer = _Printer(Console())
    printer.lines("Refused: training would end at its start", plan.refused)
    head = {
        "job": plan.job,
        "model": plan.model,
        "parameters": f"{_count(plan.parameters)}, of which {_count(plan.trained)} are trained",
        "frozen beside": ", ".join(f"{one.name} {_count(one.parameters)}" for one in plan.frozen_encoders),
        "training": f"{'' if plan.trains else 'none; it would be '}{counted(plan.steps, 'step')} of "
        f"{counted(plan.rows, 'row')}",
        "evaluation": ", ".join(
            name if count is None else f"{name} {count:,}" for name, count in plan.evaluation.items()
        ),
        "processes": f"{plan.processes}, each with {counted(plan.micro_steps, 'forward')} a step",
    }
    printer.rows("", head)
    groups = [[one.name, f"{one.parameters:,}", "yes" if one.trained else "no"] for one in plan.groups]
    printer.table("Parameters", ["PART", "PARAMETERS", "TRAINED"], groups)
    printer.table(
        f"FLOPs and tokens of a step (this job: {plan.composition}, recompute {plan.recompute})",
        ["ROWS", "TOKENS", "FORWARD", "BACKWARD", "ENCODERS", "NEEDED", "COMPUTED"],
        [[name, f"{one.tokens:,.0f}", *_operations(one)] for name, one in plan.operations.items()],
    )
    components = [field.name for field in fields(Memory)] + ["total"]
    printer.table(
        f"Memory of a process, GB (this job: {plan.strategy})",
        ["", *(f"{name} *" if name == plan.strategy else name for name in plan.memory)],
        [[name, *(f"{getattr(one, name) / 1e9:.2f}" for one in plan.memory.values())] for name in components],
    )
    if plan.times:
        ordered = sorted(plan.times.items(), key=lambda item: item[0] != plan.device)
        columns = ["DEVICE", "STEP", "TRAINING", "HFU", "ENCODERS", f"{plan.strategy} FITS"]
        printer.table(
            f"Time at {plan.mfu:.0%} MFU",
            columns,
            [[name, *_time(one, plan.memory[plan.strategy].total)] for name, one in ordered],
        )
    kept, reads = plan.checkpoints, plan.reads
    epoch = "an epoch: see --images" if reads.epoch is None else f"{size(round(reads.epoch))} an epoch"
    store = {
        "commits": f"{kept.commits} of {size(kept.commit)}: {size(kept.written)} written, {size(kept.kept)} kept",
        "while one is written": f"{size(kept.copy_bytes)} more of the host's memory for each process",
        "data": f"{size(round(reads.step))} read a step, {size(round(reads.training))} in all, {epoch}",
    }
    printer.rows("Object store", store)
    printer.lines("Licence", [plan.licence] if plan.licence else [])
    printer.lines("Assumed; all else is arithmetic", plan.assumptions)
    printer.lines("Warnings", plan.warnings)


def _operations(one: Operations) -> list[str]:
    needed = one.needed
    counts = needed.forward, needed.backward, needed.frozen, needed.useful, one.computed.total
    return [_flops(number) for number in counts]


def _time(one: Time, needed: float) -> list[str]:
    tight = one.spare < TIGHT * (needed + one.spare)
    fits = "no" if not one.fits else f"tight, {one.spare / 1e9:.0f} GB left" if tight else "yes"
    shares = [f"{share:.0%}" for share in (one.hfu, one.encoders)]
    return [duration(one.step_seconds), duration(3600 * one.hours), *shares, fits]


@dataclass
class _Printer:
    console: Console

    def _title(self, title: str) -> None:
        if title:
            self.console.print(f"\n{title}", style="bold", markup=False, highlight=False)

    def rows(self, title: str, rows: dict[str, str]) -> None:
        self._title(title)
        print_rows(self.console, rows.items())

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        self._title(title)
        first, *others = columns
        sides: dict[str, Side] = {first: "left"}
        print_table(self.console, sides | dict.fromkeys(others, "right"), rows)

    def lines(self, title: str, lines: list[str]) -> None:
        if lines:
            self._title(title)
        for line in lines:
            self.console.print(f"- {line}", markup=False, highlight=False, soft_wrap=True)


def _count(number: int) -> str:
    for limit, unit in ((10**9, "B"), (10**6, "M")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:,}"


def _flops(number: float) -> str:
    for exponent, unit in ((15, "P"), (12, "T"), (9, "G")):
        if number >= 10**exponent:
            return f"{number / 10**exponent:.3g} {unit}"
    return f"{number:.3g}"
