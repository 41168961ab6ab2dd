"""The end of a run in one file: what was trained, what it did, and what is needed to repeat it.

Nothing here reads a clock: whoever builds a summary passes the times.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from rich import box
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from unimrg_api.texts import counted, duration
from unimrg_trainer.evaluation.held_out import HeldOutLoss, PairedLoss
from unimrg_trainer.evaluation.image_use import ImageUse
from unimrg_trainer.evaluation.intervals import interval_text
from unimrg_trainer.evaluation.result import BenchmarkResult, Table, prefix_of


class Summary(BaseModel):
    """Results of a run as written to `RUN/results/summary.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    schema_version: Literal[2] = 2
    job: str
    """metadata.name."""
    uid: str
    """The job's identity under its checkpoint prefix (docs/method/checkpoints.md)."""
    model: str
    """Family and variant, `Harmon Tiny`."""
    method: str
    steps: int
    """Optimiser steps of the weights that were evaluated."""
    seconds: float
    """Wall time of training, all attempts."""
    finished: str = ""
    """Date and time (ISO 8601, UTC); figures state its date."""
    processes: int
    attempts: int = 1
    weights: Literal["checkpoint", "initial"] = "checkpoint"
    """What was evaluated: a checkpoint, or the weights that training would start from."""
    checkpoint: str = ""
    """Key of the evaluated checkpoint; empty for the initial weights."""
    checkpoint_sha256: str = ""
    """SHA-256 of its manifest; of initial weights, of all parameters."""
    data_digest: str = ""
    training: dict[str, Any] = Field(default_factory=dict)
    """What makes two jobs the same training, by field (`UniMRGJob.trained_values`)."""
    seeds: dict[str, int] = Field(default_factory=dict)
    """What a seed is for → seed: training (and the bootstrap of the intervals), scenes."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Package → version."""
    held_out: dict[str, HeldOutLoss] = Field(default_factory=dict)
    """Objective → losses before and after."""
    image_use: dict[str, ImageUse] = Field(default_factory=dict)
    """Objective → losses after training with the rows' own images and with others; empty where there is one image."""
    benchmarks: dict[str, BenchmarkResult] = Field(default_factory=dict)
    """Benchmark → its scores and its table."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Benchmark that the job names and that was not asked → why."""
    files: dict[str, str] = Field(default_factory=dict)
    """What a file is → its key under RUN: curves, grid."""

    def to_json(self) -> str:
        """Return readable JSON that ends with a line break; the same summary gives the same text."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Summary:
        """Parse `to_json`'s text. Raises pydantic.ValidationError, a ValueError, if it is not one."""
        return cls.model_validate_json(text)

    def metrics(self) -> dict[str, float]:
        """Return every number by a flat name: `eval/<benchmark>/<metric>`, `eval/heldout/<objective>/after`, …; `dev/…`
        of a benchmark of which a part was asked.

        `relative_change` is a fraction (−0.25: a quarter less). An interval of a single row is unknown and left out.
        """
        flat: dict[str, float] = {}
        for objective, loss in self.held_out.items():
            values = {"n": loss.n, "before": loss.before, "after": loss.after, "difference": loss.difference}
            if loss.interval:
                values |= {"difference_low": loss.interval.low, "difference_high": loss.interval.high}
            if loss.relative_change is not None:
                values["relative_change"] = loss.relative_change
            flat |= {f"eval/heldout/{objective.lower()}/{name}": float(value) for name, value in values.items()}
        for objective, use in self.image_use.items():
            values = {"other_image": use.other, "other_image_difference": use.difference}
            if use.interval:
                values |= {
                    "other_image_difference_low": use.interval.low,
                    "other_image_difference_high": use.interval.high,
                }
            if use.relative_change is not None:
                values["other_image_relative_change"] = use.relative_change
            flat |= {f"eval/heldout/{objective.lower()}/{name}": float(value) for name, value in values.items()}
        for benchmark, result in self.benchmarks.items():
            flat |= {f"{prefix_of(result.limit)}/{benchmark}/{name}": value for name, value in result.metrics.items()}
        return flat

    def headline(self) -> dict[str, float]:
        """Return the few metrics that fit a termination record."""
        names = [f"eval/heldout/{objective.lower()}/relative_change" for objective in self.held_out]
        for benchmark, one in self.benchmarks.items():
            names += [f"{prefix_of(one.limit)}/{benchmark}/{name}" for name in one.headline]
        metrics = self.metrics()
        return {name: metrics[name] for name in names if name in metrics}

    def curves(self) -> dict[str, float]:
        """Return the metrics to draw beside those of training: the headline, the held-out losses, and every score of a
        benchmark as a whole; those of its categories and the ends of intervals are in the tables."""
        losses = {f"eval/heldout/{name.lower()}/after": loss.after for name, loss in self.held_out.items()}
        scores = {
            f"{prefix_of(result.limit)}/{benchmark}/{name}": value
            for benchmark, result in self.benchmarks.items()
            for name, value in result.metrics.items()
            if "/" not in name and not name.endswith(("_low", "_high"))
        }
        return self.headline() | losses | scores

    def tables(self) -> dict[str, Table]:
        """Return what `render` shows, intervals and counts included, by names that fit a file."""
        found = {"heldout": _loss_table(self.held_out)} if self.held_out else {}
        if self.image_use:
            found["image_use"] = _image_table(self.image_use)
        return found | {name: result.table for name, result in self.benchmarks.items()}


def render(summary: Summary) -> Group:
    """Return the table that a run ends with, for `rich.print`; readable without colour."""
    steps = f"weights after {counted(summary.steps, 'step')}; training took {duration(summary.seconds)}"
    if summary.weights == "initial":
        steps = "the initial weights"
    parts: list[RichTable | Text] = [
        Text(f"{summary.job}: {summary.model}, {summary.method}", style="bold"),
        Text(f"{steps}, processes: {summary.processes}, attempts: {summary.attempts}"),
    ]
    for table in summary.tables().values():
        parts += titled(table)
    parts += [Text(f"{name}: {text}") for name, result in summary.benchmarks.items() for text in result.warnings]
    parts += [Text(f"{name}: left out, for {why}.") for name, why in summary.left_out.items()]
    parts.append(Text())
    parts.extend(Text(f"{what}: {where}") for what, where in summary.files.items())
    return Group(*parts)


def _loss_table(losses: dict[str, HeldOutLoss]) -> Table:
    rows = [[name, str(loss.n), *_pair_cells(loss, loss.before, loss.after)] for name, loss in losses.items()]
    title = "held-out loss: the same rows and noise before and after training"
    return Table(title, ["objective", "n", "before", "after", "change", "difference, 95 %", "verdict"], rows)


def _image_table(uses: dict[str, ImageUse]) -> Table:
    rows = [[name, str(use.n), *_pair_cells(use, use.own, use.other)] for name, use in uses.items()]
    title = "held-out loss after training: each row with its own image and with another"
    return Table(title, ["objective", "n", "own", "another", "change", "difference, 95 %", "verdict"], rows)


def _pair_cells(pair: PairedLoss, first: float, second: float) -> list[str]:
    change = "unknown" if pair.relative_change is None else f"{100 * pair.relative_change:+.1f} %"
    verdict = ("lower" if pair.difference < 0 else "higher") if pair.excludes_zero else "unclear"
    return [f"{first:.4f}", f"{second:.4f}", change, interval_text(pair.interval, "+.4f"), verdict]


def titled(table: Table) -> list[RichTable | Text]:
    """Return an open table under its title, which rich would fold to the table's width."""
    shown = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(table.columns):
        shown.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))  # in a plain string brackets would be markup
    return [Text(), Text(table.title, style="italic"), shown]
