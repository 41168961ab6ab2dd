"""The pictures of a run and of its data, as PNG: curves, samples, what the model generates beside the truth.

The same arguments give the same bytes on one installation.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unimrg_trainer.maps.base import ImageMap

LOSS = "train/loss"


def curves_png(
    history: Mapping[str, Mapping[int, float]],
    *,
    objectives: Sequence[str] = (),
    title: str = "",
    note: str = "",
    resumes: Sequence[int] = (),
) -> bytes:
    """Draw losses, gradient norm and learning rate from `history` (metric → step → value; not finite: left out).

    `objectives` gives their order and by it their colours, those without a curve included. `resumes` are steps from
    which a later attempt went on. `note` stands below: number of rows, seed, date.
    """
    figure = Figure(figsize=(9, 6.5), dpi=110, layout="constrained")
    panels: dict[str, Axes] = figure.subplot_mosaic([["loss", "loss"], ["norm", "rate"]], height_ratios=(2, 1))
    losses = [name for name in history if name.startswith(LOSS)]
    listed = [f"{LOSS}/{name.lower()}" for name in objectives]
    names = [*listed, *sorted(set(losses) - {LOSS, *listed})]
    curves = [("loss", name, f"C{index}") for index, name in enumerate(names)]
    curves += [("loss", LOSS, "black"), ("norm", "train/grad_norm", "black"), ("rate", "optim/lr", "black")]
    for panel, name, colour in curves:
        points = [(step, value) for step, value in sorted(history.get(name, {}).items()) if math.isfinite(value)]
        if not points:
            continue
        steps, values = np.array(points).T
        if panel == "loss":
            panels[panel].plot(steps, values, color=colour, linewidth=0.5, alpha=0.35)
            values = running_mean(values, max(1, len(values) // 30))
        label = f"{name.removeprefix(LOSS).strip('/') or 'weighted mean'}: {values[-1]:.3g}"
        panels[panel].plot(steps, values, color=colour, marker="o" if len(steps) == 1 else "", label=label)
    for panel, heading in (("loss", "loss (thin: every step)"), ("norm", "gradient norm"), ("rate", "learning rate")):
        panels[panel].set(xlabel="optimiser step", ylabel=heading)
        panels[panel].grid(alpha=0.3)
        for step in resumes:
            panels[panel].axvline(step, color="grey", linestyle=":")
    panels["loss"].set_yscale("log")
    panels["loss"].legend(title="last value" + (", dotted: resumed" if resumes else ""))
    figure.suptitle(title)
    return _png(figure, note)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return for each value [n] the mean of the last `window` values up to it, fewer at the start."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


@dataclass(frozen=True)
class GridRow:
    """One row of the grid: what was generated for one image. All images are uint8 [H, W, 3]."""

    label: str
    """Short: `held-out 12`, `preview 3`."""
    input: np.ndarray
    generated: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Map name → what the model generated."""
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Map name → what it should have generated, where that is known and is not the input itself."""


def grid_png(rows: Sequence[GridRow], maps: Sequence[ImageMap], *, note: str = "") -> bytes:
    """Draw each row's input, and for each map what was generated, with the truth beside it where data can have one."""
    captions = ["input"]
    for map in maps:
        captions += [f"{map.title},\ngenerated", f"{map.title},\ntrue"] if map.stored else [map.title]
    size = (1.5 * len(captions) + 0.3, 1.5 * len(rows) + 0.9)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    tiles = figure.subplots(len(rows), len(captions), squeeze=False)
    for row, line in zip(rows, tiles, strict=True):
        images: list[np.ndarray | None] = [row.input]
        for map in maps:
            images += [row.generated.get(map.name), *([row.truth.get(map.name)] if map.stored else [])]
        for image, tile in zip(images, line, strict=True):
            tile.set(xticks=[], yticks=[])
            if image is None:
                tile.text(0.5, 0.5, "none", color="grey", ha="center", va="center", transform=tile.transAxes)
            else:
                tile.imshow(image)
        line[0].set_ylabel(row.label, fontsize=8)
    for caption, tile in zip(captions, tiles[0], strict=True):
        tile.set_title(caption, fontsize=8)
    return _png(figure, note)


Preview = tuple[np.ndarray | None, np.ndarray | None]
"""What one training row reads and what it learns to generate: uint8 [H, W, 3] each; None where it has none."""


def contact_sheet_png(objectives: Mapping[str, Sequence[Preview]], *, title: str = "") -> bytes:
    """Draw for each objective two lines: the images that its first rows read, and their targets below."""
    lines = [
        (name, what, [pair[side] for pair in pairs])
        for name, pairs in objectives.items()
        for side, what in enumerate(("reads", "learns"))
        if any(pair[side] is not None for pair in pairs)
    ]
    columns = max(len(images) for _, _, images in lines)
    figure = Figure(figsize=(1.5 * columns + 0.8, 1.5 * len(lines) + 0.6), dpi=110, layout="constrained")
    tiles = figure.subplots(len(lines), columns, squeeze=False)
    for (name, what, images), line in zip(lines, tiles, strict=True):
        for tile, image in zip_longest(line, images):
            tile.set(xticks=[], yticks=[])
            tile.set_frame_on(image is not None)
            if image is not None:
                tile.imshow(image)
        line[0].set_ylabel(f"{name}\n{what}", fontsize=8)
    figure.suptitle(title, fontsize=9)
    return _png(figure, "")


def samples_png(rows: Sequence[tuple[str, Mapping[str, np.ndarray], str]], *, title: str = "") -> bytes:
    """Draw each row (label, pictures by name, text) on a line; pictures are uint8 [H, W] or [H, W, 3]."""
    names = list(dict.fromkeys(name for _, pictures, _ in rows for name in pictures))
    widths = [1.0] * len(names) + [2.4]
    figure = Figure(figsize=(1.9 * sum(widths), 1.9 * len(rows) + 0.5), dpi=110, layout="constrained")
    tiles = figure.subplots(len(rows), len(widths), squeeze=False, width_ratios=widths)
    for (label, pictures, text), line in zip(rows, tiles, strict=True):
        for name, tile in zip(names, line, strict=False):
            tile.set(xticks=[], yticks=[])
            tile.set_frame_on(name in pictures)
            if name in pictures:
                tile.imshow(pictures[name], cmap="gray", vmin=0, vmax=255)
        line[-1].axis("off")
        line[-1].text(0, 1, f"{label}\n{text}", fontsize=7, va="top", parse_math=False, transform=line[-1].transAxes)
    for name, tile in zip(names, tiles[0], strict=False):
        tile.set_title(name, fontsize=8)
    figure.suptitle(title, fontsize=9)
    return _png(figure, "")


def _png(figure: Figure, note: str) -> bytes:
    figure.supxlabel(note, fontsize=8, color="grey")
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})  # else matplotlib writes its version into it
    return buffer.getvalue()
