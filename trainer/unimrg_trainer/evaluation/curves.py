"""The picture of a training run: losses per objective, gradient norm and learning rate."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

History = Mapping[str, Sequence[tuple[int, float]]]
"""Metric name → points (step, value) in the order in which they were measured."""

TOTAL = "train/loss"
OBJECTIVES = "train/loss/"
"""Prefix of the losses of single objectives."""
GRAD_NORM = "train/grad_norm"
LEARNING_RATE = "optim/lr"

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
_LINES = ("-", "--", "-.", ":")
"""Okabe and Ito's colours, told apart by the colour-blind; the kinds of line tell them apart in print."""
_GREY = "#555555"

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.edgecolor": _GREY,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "text.color": "#222222",
    "axes.labelcolor": "#222222",
    "legend.frameon": False,
    "path.simplify": False,
}


def curves_png(
    history: History,
    *,
    objectives: Sequence[str] = (),
    title: str = "",
    note: str = "",
    resumes: Sequence[int] = (),
) -> bytes:
    """Draw the metrics that `history` has; the same arguments give the same bytes on one installation.

    `objectives` lists all that are known, for the order of the curves and their colours; others come behind.
    `resumes` are steps from which a later attempt went on. `note` stands below: number of rows, seed, date. A
    step measured twice counts with its last value; values that are not finite are left out. Raises ValueError
    if there is no loss to draw.
    """
    series = {name: _clean(points) for name, points in history.items()}
    found = [name.removeprefix(OBJECTIVES) for name in series if name.startswith(OBJECTIVES) and len(series[name][0])]
    listed = [name.lower() for name in objectives]
    order = [*listed, *sorted(set(found) - set(listed))]
    losses = {name: series[OBJECTIVES + name] for name in sorted(found, key=order.index)}
    total = series.get(TOTAL)
    if not losses and (total is None or not len(total[0])):
        raise ValueError(f"no finite value of {TOTAL} or {OBJECTIVES}… to draw")
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(8.6, 6.2), dpi=110, facecolor="white")
        FigureCanvasAgg(figure)
        main = figure.add_axes((0.075, 0.435, 0.7, 0.475 if title else 0.52))
        norm = figure.add_axes((0.075, 0.135, 0.395, 0.185), sharex=main)
        rate = figure.add_axes((0.58, 0.135, 0.395, 0.185), sharex=main)
        _draw_losses(main, losses, total, order)
        _draw_small(norm, series.get(GRAD_NORM), "gradient norm")
        _draw_small(rate, series.get(LEARNING_RATE), "learning rate")
        for axes in figure.axes:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8 if axes is main else 5))
            for step in resumes:
                axes.axvline(step, color=_GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        for step in sorted(set(resumes)):
            main.annotate(
                f"resumed at {step}",
                (step, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(2, -2),
                textcoords="offset points",
                rotation=90,
                ha="left",
                va="top",
                fontsize=7,
                color=_GREY,
            )
        if title:
            figure.suptitle(title, x=0.075, y=0.982, ha="left", fontsize=11, fontweight="bold")
        figure.text(0.075, 0.02, note, ha="left", fontsize=7.5, color=_GREY)
        buffer = io.BytesIO()
        # Without this matplotlib writes its own version into the file.
        figure.savefig(buffer, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})
    return buffer.getvalue()


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean over `window` points around each value [n].

    At the start the window shrinks on both sides, so that a curve begins at its first value however steeply it
    falls; at the end it loses what would lie behind the last value, so that one noisy step does not end it.
    """
    half = window // 2
    sums = np.concatenate(([0.0], np.cumsum(values)))
    index = np.arange(len(values))
    reach = np.minimum(index, half)
    low, high = index - reach, np.minimum(index + reach + 1, len(values))
    return np.asarray((sums[high] - sums[low]) / (high - low))


def window_for(points: int) -> int:
    """Return the odd width of the running mean for a curve of `points`: a thirtieth, 1 if it is short."""
    return 2 * (points // 60) + 1


def _draw_losses(
    axes: Axes,
    losses: Mapping[str, tuple[np.ndarray, np.ndarray]],
    total: tuple[np.ndarray, np.ndarray] | None,
    order: Sequence[str],
) -> None:
    curves = []
    for name, points in losses.items():
        index = order.index(name)
        curves.append((name, points, _COLOURS[index % len(_COLOURS)], _LINES[index % len(_LINES)], 1.8))
    if total is not None and len(total[0]) and len(losses) != 1:
        curves.append(("weighted mean", total, "#000000", "-", 1.1))
    window = window_for(max(len(steps) for _, (steps, _), *_ in curves))
    everything = []
    for name, (steps, values), colour, line, width in curves:
        smoothed = smooth(values, window)
        if window > 1:
            axes.plot(steps, values, color=colour, linewidth=0.5, alpha=0.35)
        label = f"{name}  {smoothed[-1]:.3g}"
        marker = "o" if len(steps) == 1 else ""
        axes.plot(steps, smoothed, color=colour, linewidth=width, linestyle=line, marker=marker, label=label)
        everything.append(smoothed)
    shown = np.concatenate(everything)
    if shown.min() > 0 and shown.max() / shown.min() > 10:
        _logarithmic(axes)
    smoothing = f" (bold: running mean of {window} steps, thin: every step)" if window > 1 else ""
    axes.set_title(f"loss per objective{smoothing}", loc="left", fontsize=9)
    axes.set_xlabel("optimiser step")
    heading = f"mean of the last {window // 2 + 1} steps" if window > 1 else "last step"
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1.03),
        borderaxespad=0.0,
        fontsize=8,
        handlelength=2.6,
        labelspacing=0.7,
        title=heading,
        title_fontsize=7.5,
        alignment="left",
    )


def _draw_small(axes: Axes, points: tuple[np.ndarray, np.ndarray] | None, name: str) -> None:
    axes.set_title(name, loc="left", fontsize=9)
    axes.set_xlabel("optimiser step")
    if points is None or not len(points[0]):
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=_GREY)
        axes.set_yticks([])
        return
    steps, values = points
    axes.plot(steps, values, color="#222222", linewidth=0.9, marker="o" if len(steps) == 1 else "")
    if name == "gradient norm" and values.min() > 0 and values.max() / values.min() > 20:
        _logarithmic(axes)
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(_short))


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _clean(points: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return (steps, values) in the order of steps, one point per step, the last one measured."""
    latest = {int(step): float(value) for step, value in points}
    kept = sorted((step, value) for step, value in latest.items() if math.isfinite(value))
    return np.array([step for step, _ in kept], dtype=np.int64), np.array([value for _, value in kept])


def _short(value: float, _position: int) -> str:
    return f"{value:g}"
