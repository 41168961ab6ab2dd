"""The representations that a model can be asked to generate, by name: from a record to the target image.

A further representation (pose, sketch, normals) is one function here and one objective in `objectives/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from unimrg_trainer.targets.canonical import depth_target, segmentation_target, squash

REPRESENTATIONS: dict[str, Callable[[Mapping[str, Any], int], np.ndarray]] = {
    "pixel": lambda record, size: squash(record["image"], size),
    "depth": lambda record, size: depth_target(record["depth"], size),
    "segmentation": lambda record, size: segmentation_target(record["segmentation"], size),
}


def target_image(representation: str, record: Mapping[str, Any], size: int) -> np.ndarray:
    """Return the target as the model is to generate it: uint8 [size, size, 3] (method.md §1.6)."""
    return REPRESENTATIONS[representation](record, size)
