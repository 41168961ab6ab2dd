"""Cross-entropy over a large vocabulary without holding the scores of all tokens at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from unimrg_api.arithmetic.flops import SCORED_AT_ONCE


def cross_entropies(score: Callable[[Tensor], Tensor], states: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each label [M], in float32 at least; `score` maps states [..., D] to scores [..., vocabulary].

    More than SCORED_AT_ONCE are scored in parts, and again when going backward.
    """

    def of_part(part: Tensor, part_labels: Tensor) -> Tensor:
        scores = score(part)
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return functional.cross_entropy(wide, part_labels, reduction="none")

    parts = list(zip(torch.split(states, SCORED_AT_ONCE), torch.split(labels, SCORED_AT_ONCE), strict=True))
    if len(parts) == 1 or not torch.is_grad_enabled():
        return torch.cat([of_part(*part) for part in parts])
    recomputed = [checkpoint(of_part, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.cat(recomputed)
