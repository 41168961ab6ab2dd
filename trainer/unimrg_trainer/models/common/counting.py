"""Counts what a collated batch computes, on the host: tokens of the language model, and pairs of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unimrg_api.arithmetic.layers import Counts
from unimrg_trainer.models.common.attention import Attention, GroupedAttention


def language_counts(positions: Tensor, attention: Attention, scored: int) -> Counts:
    """Count from position ids int [B, L], which are 0 behind a row's last token and nowhere else but at its first."""
    lengths = ((positions != 0) * torch.arange(1, positions.shape[1] + 1)).amax(dim=1)
    tokens = int(lengths.sum())
    query_copies = key_copies = mask = 0
    if attention is None:
        pairs = int((lengths * (lengths + 1) // 2).sum())
        computed = len(positions) * positions.shape[1] * (positions.shape[1] + 1) // 2
    elif isinstance(attention, Tensor):
        real = torch.arange(positions.shape[1]) < lengths[:, None]
        pairs = int((attention & real[:, None, :, None] & real[:, None, None, :]).sum())
        computed = mask = positions.numel() * positions.shape[1]
    elif isinstance(attention, GroupedAttention):
        pairs, computed = _grouped_pairs(attention)
        queries, keys = (sum(one.numel() for one in of) for of in (attention.queries, attention.keys))
        query_copies, key_copies = 2 * queries - positions.numel(), keys - positions.numel()
        mask = sum(one.numel() for one in attention.masks if one is not None)
    else:
        starts, ends = attention.intervals.unbind(-1)
        computed = int((ends - starts).sum())
        pairs = computed - (positions.numel() - tokens)  # the padding sees itself
        query_copies = positions.numel()  # outputs are brought into the order of the heads
    counted = Counts(tokens, pairs, positions.numel(), computed, scored)
    return replace(counted, query_copies=query_copies, key_copies=key_copies, mask=mask)


def _grouped_pairs(attention: GroupedAttention) -> tuple[int, int]:
    """Pairs that are seen, each once, and pairs that are computed."""
    pairs = computed = 0
    for queries, keys, mask in zip(attention.queries, attention.keys, attention.masks, strict=True):
        chunks, n, m = len(queries), queries.shape[1], keys.shape[1]
        causal = torch.ones(n, m, dtype=torch.bool).tril(m - n)
        shown = (causal if mask is None else mask[:, 0]).expand(chunks, n, m)
        # a shorter chunk repeats its first token
        real = torch.cat([torch.ones(chunks, 1, dtype=torch.bool), queries[:, 1:] != queries[:, :1]], dim=1)
        real_keys = torch.cat([torch.ones(chunks, m - n, dtype=torch.bool), real], dim=1)
        pairs += int((shown & real[:, :, None] & real_keys[:, None, :]).sum())
        computed += int(causal.sum()) * chunks if mask is None else chunks * n * m
    return pairs, computed
