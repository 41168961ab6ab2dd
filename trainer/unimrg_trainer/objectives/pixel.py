"""Pixel: the image itself, generated again from what the model understood of it."""

from __future__ import annotations

from unimrg_trainer.objectives.generation import Generation


class Pixel(Generation):
    """Generate the input image; a tenth of the requests name nothing, for guidance (method.md §1.5)."""

    name = "Pixel"
    representation: str | None = "pixel"
    canonical = "Describe the image in detail."
    needs = frozenset({"image"})
    default_unconditional = 0.1
