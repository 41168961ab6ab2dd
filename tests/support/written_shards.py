"""A split of given files, written as the prepare stage writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from unittest.mock import patch

from unimrg_trainer.data.shards import TAR_END, tar_entry
from unimrg_trainer.preparation import items
from unimrg_trainer.preparation.items import Items, Part
from unimrg_trainer.preparation.write import put_manifest, put_shard, read_indices, sample_key
from unimrg_trainer.storage import ObjectStore


class _Counted:
    """A source that is only counted."""

    def __init__(self, split: str, count: int) -> None:
        self.splits, self.texts = {split: count}, dict[str, int]()


def parts_of(split: str, count: int, samples_per_shard: int) -> list[Part]:
    """The shards of a split."""
    with patch.object(items, "ITEMS_PER_SHARD", samples_per_shard):
        return list(Items([_Counted(split, count)], split).parts())  # type: ignore[list-item]


def write_split(
    store: ObjectStore,
    prefix: str,
    split: str,
    count: int,
    members: Callable[[int], Mapping[str, bytes]],
    *,
    samples_per_shard: int = items.ITEMS_PER_SHARD,
) -> str:
    """Write the files `members(0)` … `members(count − 1)`; return the sha256 of the split's manifest."""
    parts = parts_of(split, count, samples_per_shard)
    for part in parts:
        entries = [
            tar_entry(f"{sample_key(split, number)}.{member}", content)
            for number in part.numbers
            for member, content in members(number).items()
        ]
        put_shard(store, prefix, part, b"".join(entries) + TAR_END)
    return put_manifest(store, prefix, split, read_indices(store, prefix, parts), {})
