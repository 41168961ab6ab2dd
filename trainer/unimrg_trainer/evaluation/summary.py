"""The end of a run in one file: what was trained, what it did, and what is needed to repeat it.

`summary.json` holds shares between 0 and 1; `metrics()` gives the tracker the same scores in percent, as the
paper prints them. Nothing here reads a clock: whoever builds a summary passes the times.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from unimrg_api.texts import duration
from unimrg_trainer.evaluation.held_out import HeldOutLoss
from unimrg_trainer.evaluation.intervals import Interval
from unimrg_trainer.evaluation.spatial import Score, SpatialScores

FILE_NAME = "summary.json"


class Summary(BaseModel):
    """Results of a run as written to `RUN/results/summary.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    schema_version: int = 1
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
    checkpoint: str = ""
    """Key of the evaluated checkpoint."""
    data_digest: str = ""
    seeds: dict[str, int] = Field(default_factory=dict)
    """What a seed is for → seed: training (and the bootstrap of the intervals), scenes."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Package → version."""
    held_out: dict[str, HeldOutLoss] = Field(default_factory=dict)
    """Objective → losses before and after."""
    spatial: SpatialScores | None = None
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
        """Return flat names for the tracker: `eval/spatial/acc` (percent), `eval/heldout/depth/after`, ….

        Accuracies, their intervals and unparsed rates are in percent; `relative_change` is a fraction (−0.25:
        a quarter less). What is unknown (an interval of a single row) is left out.
        """
        flat: dict[str, float] = {}
        for objective, loss in self.held_out.items():
            _put(flat, f"eval/heldout/{objective.lower()}", _loss_metrics(loss))
        if self.spatial is not None:
            _put(flat, "eval/spatial", _score_metrics(self.spatial.overall))
            for family, score in self.spatial.families.items():
                _put(flat, f"eval/spatial/{family}", _score_metrics(score))
        return flat

    def headline(self) -> dict[str, float]:
        """Return the few metrics that fit a termination record."""
        chosen = ("relative_change", "spatial/acc", "spatial/majority_acc", "spatial/n")
        return {name: value for name, value in self.metrics().items() if name.endswith(chosen)}


def render(summary: Summary) -> Group:
    """Return the table that a run ends with, for `rich.print`; readable without colour."""
    processes = _count(summary.processes, "process", "es")
    attempts = _count(summary.attempts, "attempt", "s")
    parts: list[Table | Text] = [
        Text(f"{summary.job}: {summary.model}, {summary.method}", style="bold"),
        Text(f"{summary.steps} steps in {duration(summary.seconds)}, {processes}, {attempts}"),
    ]
    if summary.held_out:
        parts.append(Text())
        parts.append(_loss_table(summary.held_out))
    if summary.spatial is not None:
        parts.append(Text())
        parts.append(_score_table(summary.spatial))
    parts.append(Text())
    parts.extend(Text(f"{what}: {where}") for what, where in summary.files.items())
    return Group(*parts)


def _loss_table(losses: dict[str, HeldOutLoss]) -> Table:
    table = _table(
        "held-out loss: the same rows and noise before and after training",
        ("objective", "n", "before", "after", "change", "difference, 95 %", "verdict"),
    )
    for objective, loss in losses.items():
        change = "unknown" if loss.relative_change is None else f"{100 * loss.relative_change:+.1f} %"
        verdict = ("lower" if loss.difference < 0 else "higher") if loss.excludes_zero else "unclear"
        _add(
            table,
            objective,
            str(loss.n),
            f"{loss.before:.4f}",
            f"{loss.after:.4f}",
            change,
            _range(loss.interval, "+.4f"),
            verdict,
        )
    return table


def _score_table(scores: SpatialScores) -> Table:
    table = _table(
        "spatial questions, % [95 %]; majority: the best constant answer",
        ("family", "n", "right", "majority", "gain", "unparsed"),
    )
    for family, score in scores.families.items():
        _add(table, family, *_score_cells(score))
    table.add_section()
    _add(table, "all", *_score_cells(scores.overall), style="bold")
    return table


def _score_cells(score: Score) -> list[str]:
    return [
        str(score.n),
        f"{100 * score.accuracy:.1f} {_range(score.interval, '.1f', 100)}",
        f"{100 * score.majority_accuracy:.1f}",
        f"{100 * score.difference:+.1f} {_range(score.difference_interval, '+.1f', 100)}",
        str(score.unparsed),
    ]


def _table(title: str, columns: Sequence[str]) -> Table:
    """An open table that fits 80 columns; text to the left, numbers to the right."""
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _add(table: Table, *cells: str, style: str = "") -> None:
    """Add a row as it stands: rich would take brackets in a plain string for markup and drop them."""
    table.add_row(*(Text(cell) for cell in cells), style=style)


def _range(interval: Interval | None, form: str, factor: float = 1.0) -> str:
    if interval is None:
        return "[unknown]"
    return f"[{factor * interval.low:{form}}, {factor * interval.high:{form}}]"


def _loss_metrics(loss: HeldOutLoss) -> dict[str, float | None]:
    return {
        "n": loss.n,
        "before": loss.before,
        "after": loss.after,
        "difference": loss.difference,
        "difference_low": loss.interval.low if loss.interval else None,
        "difference_high": loss.interval.high if loss.interval else None,
        "relative_change": loss.relative_change,
    }


def _score_metrics(score: Score) -> dict[str, float | None]:
    gain = score.difference_interval
    return {
        "n": score.n,
        "acc": 100 * score.accuracy,
        "acc_low": 100 * score.interval.low,
        "acc_high": 100 * score.interval.high,
        "majority_acc": 100 * score.majority_accuracy,
        "gain": 100 * score.difference,
        "gain_low": 100 * gain.low if gain else None,
        "gain_high": 100 * gain.high if gain else None,
        "unparsed_rate": 100 * score.unparsed / score.n,
    }


def _put(flat: dict[str, float], prefix: str, values: dict[str, float | None]) -> None:
    flat |= {f"{prefix}/{name}": float(value) for name, value in values.items() if value is not None}


def _count(number: int, noun: str, plural: str) -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"
