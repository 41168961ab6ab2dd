"""Depth: the distance of every pixel as grey, nearer is brighter."""

from __future__ import annotations

from unimrg_trainer.objectives.generation import Generation


class Depth(Generation):
    """Generate the image's depth map."""

    name = "Depth"
    representation: str | None = "depth"
    canonical = "Generate the depth map of this image."
    needs = frozenset({"image", "depth"})
