"""Activation recomputation: what a backward needs of a block is computed again instead of being held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from unimrg_api.spec_training import Recompute

FEED_FORWARD = ("mlp", "ff")
"""Names that blocks give to their feed-forward network, whose activations are the widest."""


def recompute_activations(module: nn.Module, policy: Recompute) -> None:
    """Change the blocks of `module` in place; names of parameters stay, losses and gradients too, dropout included."""
    if policy == "Nothing":
        return
    for block in blocks(module):
        feed_forward = [child for name, child in block.named_children() if name in FEED_FORWARD]
        for part in [block] if policy == "Blocks" else feed_forward:
            part.forward = partial(checkpoint, part.forward, use_reentrant=False)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the repeated blocks: elements of lists whose elements are all of one class, without those within them."""
    for child in module.children():
        elements = list(child.children())
        if isinstance(child, nn.ModuleList) and len({type(element) for element in elements}) == 1:
            yield from elements
        else:
            yield from blocks(child)
