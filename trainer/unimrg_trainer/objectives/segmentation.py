"""Segmentation: the outlines of all regions, white on black."""

from __future__ import annotations

from unimrg_trainer.objectives.generation import Generation


class Segmentation(Generation):
    """Generate the contours of the image's segments."""

    name = "Segmentation"
    representation: str | None = "segmentation"
    canonical = "Generate the segmentation mask of this image."
    needs = frozenset({"image", "segmentation"})
