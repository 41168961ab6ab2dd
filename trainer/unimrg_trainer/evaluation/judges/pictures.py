"""How CLIP and BLIP are shown pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def standardised(image: np.ndarray) -> Tensor:
    """Return an image, uint8 [H, W, 3], less CLIP's mean in units of its deviation: float32 [3, H, W]."""
    values = (image.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))
