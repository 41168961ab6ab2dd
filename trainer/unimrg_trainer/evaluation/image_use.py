"""What a trained model's loss owes to the image: held-out rows with their own image, and with another row's."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from unimrg_trainer.evaluation.held_out import PairedLoss, compare


@dataclass(frozen=True, kw_only=True)
class ImageUse(PairedLoss):
    """After training; a positive difference shows that the model uses the image."""

    own: float
    """Loss with the row's own image."""
    other: float
    """Loss with another row's image."""


def compare_images(
    own: Mapping[str, ArrayLike],
    other: Mapping[str, ArrayLike],
    *,
    seed: int,
    clusters: Mapping[str, Sequence[Hashable]] | None = None,
) -> dict[str, ImageUse]:
    """Compare per-row losses [rows] of each objective; row i is the same row and noise in both.

    `clusters` as in `held_out.compare`. Raises UserError (exit code 82) if a loss is not finite.
    """
    when = ("after training", "with another image")
    pairs = compare(own, other, seed=seed, clusters=clusters, when=when)
    return {
        objective: ImageUse(
            n=pair.n,
            units=pair.units,
            own=pair.before,
            other=pair.after,
            difference=pair.difference,
            interval=pair.interval,
            relative_change=pair.relative_change,
        )
        for objective, pair in pairs.items()
    }
