"""How frozen encoders compute: in float32 whatever the training computes in, and on a GPU without TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Run the block outside autocast. Convolutions of cuDNN keep all bits of float32: with TF32, torch's default, some
    codes of an image change, and latents depend on the algorithm that is chosen for a batch's size.
    """
    with ExitStack() as stack:
        if torch.amp.is_autocast_available(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        yield
