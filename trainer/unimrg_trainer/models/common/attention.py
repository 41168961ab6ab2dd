"""Attention between the tokens of packed rows, for the language models of transformers.

`packed_attention` turns the chunks of `packing/packed.py` into tensors on the host. A language model that was built
with `IMPLEMENTATION` takes them as the argument `rows` of its forward; without that argument it computes plain
attention under the mask that it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from unimrg_api.arithmetic.rows import BLOCK
from unimrg_trainer.models.common.batches import TensorBatch
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.packing.packed import Chunk, PackedRows, visible_intervals

IMPLEMENTATION = "packed_rows"
"""Name of this attention in a configuration of transformers."""

LEAST_FILLED = 0.75
"""Chunks attend together only if the shortest has at least this share of the longest's tokens."""


@dataclass(frozen=True, eq=False)
class GroupedAttention(TensorBatch):
    """Groups of N chunks of up to n tokens that see prefixes of p tokens."""

    queries: tuple[Tensor, ...]
    """Of each group, int [N, n]: places of the chunks' tokens; shorter chunks repeat their first."""
    keys: tuple[Tensor, ...]
    """Of each group, int [N, p + n]: places of the prefixes, then `queries`."""
    masks: tuple[Tensor | None, ...]
    """Of each group, bool [N or 1, 1, n, p + n], True where the query sees the key; None: causal, without a prefix."""
    returns: Tensor
    """int [T]: which of all groups' outputs, one after the other, stands at each place; any at the padding."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """query [1, H, T, D], key and value [1, h, T, D] → [1, T, H, D]."""
        heads, shared = query.shape[1], query.shape[1] // key.shape[1]
        # on CUDA, a mask and fewer heads of keys together would choose the kernel that holds all scores
        repeated = shared > 1 and query.is_cuda
        flat_query, flat_key, flat_value = (part[0].transpose(0, 1).flatten(1) for part in (query, key, value))
        outputs = []
        for queries, keys, mask in zip(self.queries, self.keys, self.masks, strict=True):
            own_keys, own_values = (_gather(keys, flat, key.shape[1]) for flat in (flat_key, flat_value))
            if repeated:
                own_keys, own_values = (part.repeat_interleave(shared, dim=1) for part in (own_keys, own_values))
            mixed = functional.scaled_dot_product_attention(
                _gather(queries, flat_query, heads),
                own_keys,
                own_values,
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=shared > 1 and not repeated,
            )
            outputs.append(mixed.transpose(1, 2).flatten(2).flatten(0, 1))
        return functional.embedding(self.returns, torch.cat(outputs)).view(1, query.shape[2], heads, -1)


@dataclass(frozen=True, eq=False)
class FlexAttention(TensorBatch):
    """A block mask of FlexAttention over T places in blocks of BLOCK; the mask is exact within a block."""

    intervals: Tensor
    """int [T, K, 2]: see `visible_intervals`."""
    partial_counts: Tensor
    """int32 [1, 1, T/B]: how many key blocks each query block sees in part."""
    partial_blocks: Tensor
    """int32 [1, 1, T/B, T/B]: which, first."""
    full_counts: Tensor
    """int32 [1, 1, T/B]: how many key blocks each query block sees in whole."""
    full_blocks: Tensor
    """int32 [1, 1, T/B, T/B]: which, first."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """query [1, H, T, D], key and value [1, h, T, D] → [1, T, H, D]."""
        compute = _compiled_flex_attention() if query.is_cuda else flex_attention
        mixed: Tensor = compute(
            query, key, value, block_mask=self._block_mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
        return mixed.transpose(1, 2)

    @cached_property  # one for all layers, and for their recomputation
    def _block_mask(self) -> BlockMask:
        starts, ends = self.intervals[..., 0], self.intervals[..., 1]
        runs = self.intervals.shape[1]

        def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            seen = (starts[query, 0] <= key) & (key < ends[query, 0])
            for run in range(1, runs):
                seen = seen | ((starts[query, run] <= key) & (key < ends[query, run]))
            return seen

        return BlockMask.from_kv_blocks(
            self.partial_counts,
            self.partial_blocks,
            self.full_counts,
            self.full_blocks,
            BLOCK_SIZE=BLOCK,
            mask_mod=sees,
        )


PackedAttention = GroupedAttention | FlexAttention

Attention = Tensor | PackedAttention | None
"""What a language model is given about visibility: a mask, bool [B or 1, 1, L, cached + L], True where the query sees
the key; packed rows; or None for plain causal attention."""


def packed_attention(packed: PackedRows, composition: Composition) -> PackedAttention:
    """Build on the host what attention between packed rows needs."""
    return _flex(packed) if composition is Composition.FLEX else _grouped(packed)


def _grouped(packed: PackedRows) -> GroupedAttention:
    queries, keys, masks = [], [], []
    returns = np.zeros(len(packed.positions), dtype=np.int64)
    outputs = 0
    for group in _groups(packed.chunks):
        longest = max(chunk.length for chunk in group)
        places = np.stack([_padded_places(chunk, longest) for chunk in group])
        prefixes = np.stack([chunk.prefix_start + np.arange(chunk.prefix_length) for chunk in group])
        for index, chunk in enumerate(group):
            first = outputs + index * longest
            returns[chunk.start : chunk.start + chunk.length] = np.arange(first, first + chunk.length)
        outputs += places.size
        queries.append(torch.from_numpy(places))
        keys.append(torch.from_numpy(np.concatenate([prefixes, places], axis=1)))
        masks.append(_group_mask(group, longest))
    return GroupedAttention(tuple(queries), tuple(keys), tuple(masks), torch.from_numpy(returns))


def _groups(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Chunks with prefixes of one length, all causal or none, and of similar length."""
    groups: list[list[Chunk]] = []
    for chunk in sorted(chunks, key=lambda one: (one.prefix_length, one.visibility is None, -one.length)):
        first = groups[-1][0] if groups else None
        if (
            first is not None
            and first.prefix_length == chunk.prefix_length
            and (first.visibility is None) == (chunk.visibility is None)
            and chunk.length >= LEAST_FILLED * first.length
        ):
            groups[-1].append(chunk)
        else:
            groups.append([chunk])
    return groups


def _padded_places(chunk: Chunk, length: int) -> np.ndarray:
    places = np.full(length, chunk.start)
    places[: chunk.length] += np.arange(chunk.length)
    return places


def _group_mask(group: Sequence[Chunk], length: int) -> Tensor | None:
    """The mask of a group, see `GroupedAttention.masks`. Behind a chunk's end a query sees itself at least."""
    prefix = group[0].prefix_length
    if group[0].visibility is None:
        return None if prefix == 0 else torch.ones(1, 1, length, prefix + length, dtype=torch.bool).tril(prefix)
    mask = torch.ones(len(group), 1, length, prefix + length, dtype=torch.bool)
    own = mask[..., prefix:]
    own.copy_(torch.eye(length, dtype=torch.bool))
    for index, chunk in enumerate(group):
        assert chunk.visibility is not None
        own[index, 0, : chunk.length, : chunk.length] = torch.from_numpy(chunk.visibility)
    return mask


def _flex(packed: PackedRows) -> FlexAttention:
    intervals = visible_intervals(packed)
    # a token touches the key blocks from floor(start / B) up to ceil(end / B), and sees those within in whole; its
    # intervals are disjoint, so no block is counted twice for it
    starts, ends = intervals[..., 0], intervals[..., 1]
    empty = starts == ends
    some = _covering_tokens(starts // BLOCK, np.where(empty, 0, -(-ends // BLOCK))) > 0
    every = _covering_tokens(-(-starts // BLOCK), ends // BLOCK) == BLOCK
    partial_counts, partial_blocks = _block_lists(some & ~every)
    full_counts, full_blocks = _block_lists(every)
    return FlexAttention(torch.from_numpy(intervals), partial_counts, partial_blocks, full_counts, full_blocks)


def _covering_tokens(first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """int [T/B, T/B]: how many tokens of each query block have each key block among theirs, first … end − 1 [T, K]."""
    count = len(first) // BLOCK
    edges = np.zeros((count, count + 1), dtype=np.int32)
    block = np.broadcast_to(np.arange(len(first))[:, None] // BLOCK, first.shape)
    some = first < end
    np.add.at(edges, (block[some], first[some]), 1)
    np.add.at(edges, (block[some], end[some]), -1)
    return edges[:, :-1].cumsum(axis=1)


def _block_lists(seen: np.ndarray) -> tuple[Tensor, Tensor]:
    """Counts and indices of the key blocks of each query block, as BlockMask wants them."""
    counts = seen.sum(axis=1, dtype=np.int32)
    order = np.argsort(~seen, axis=1, kind="stable").astype(np.int32)
    return torch.from_numpy(counts)[None, None], torch.from_numpy(order)[None, None]


def _gather(places: Tensor, flat: Tensor, heads: int) -> Tensor:
    """Tokens at `places` int [N, n] of [T, heads · D] → [N, heads, n, D]."""
    return functional.embedding(places, flat).view(*places.shape, heads, -1).transpose(1, 2)


@cache
def _compiled_flex_attention() -> Any:
    """FlexAttention is a fused kernel only when it is compiled; once per process."""
    return torch.compile(flex_attention)


def _attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    rows: PackedAttention | None = None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    if rows is not None:
        return rows.attend(query, key, value, scaling), None
    mixed: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)[0]
    return mixed, None


AttentionInterface.register(IMPLEMENTATION, _attention_forward)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
