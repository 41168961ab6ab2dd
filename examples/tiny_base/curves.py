"""Held-out losses of the tiny base while it learns, as lines, as a table and as a picture."""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt

logger = logging.getLogger(__name__)


@dataclass
class Curves:
    """Held-out numbers over both stages: to the terminal now, to a table and a picture at the end."""

    rows: list[dict[str, float | str]] = field(default_factory=list)

    def add(self, stage: str, step: int, **numbers: float) -> None:
        self.rows.append({"stage": stage, "step": step, **{name: round(value, 4) for name, value in numbers.items()}})
        logger.info("%s", ", ".join(f"{name} {value}" for name, value in self.rows[-1].items()))

    def write(self, folder: Path) -> None:
        """Write tiny-base-curves.csv and tiny-base-curves.png."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with (folder / "tiny-base-curves.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), constrained_layout=True)
        for axis, stage in zip(axes, ("autoencoder", "whole model"), strict=True):
            rows = [row for row in self.rows if row["stage"] == stage]
            for name in list(rows[0])[2:]:
                axis.plot([row["step"] for row in rows], [row[name] for row in rows], label=name.replace("_", " "))
            axis.set(title=stage, xlabel="step", ylabel="held-out loss", yscale="log")
            axis.legend(frameon=False)
        figure.savefig(folder / "tiny-base-curves.png", dpi=110, metadata={"Software": ""})
