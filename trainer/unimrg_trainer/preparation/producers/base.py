"""What a producer of maps is: something that makes one map of each image, by a model that is not trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class MapProducer(Protocol):
    """Makes one map, for images of any sizes. `registry.py` opens those that a job names."""

    map: str
    """Name of the map that it makes, as in `maps/`, e.g. `depth`."""

    def identity(self) -> Any:
        """Return, as JSON, all that its results depend on besides the image: model, weights' digest, settings.

        Raises UserError (66) where its weights are missing.
        """
        ...

    def produce(self, images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Return the map of each image: uint8 [H, W, 3] (RGB) → uint8 [H, W] of the same size, in the same order.

        The model is loaded by the first call. A map depends on its image alone, not on those beside it. Raises
        UserError for weights that do not fit.
        """
        ...
