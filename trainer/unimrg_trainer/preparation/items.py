"""The items of a split, those of all sources in one row of numbers: first what has an image, then text alone.

A shard holds a fixed number of items, so which items are in it follows from its number, and any number of writers may
make shards at once. An item that is no sample leaves a gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unimrg_trainer.data.publication import SPLITS
from unimrg_trainer.preparation.base import Source, SourceSample

ITEMS_PER_SHARD = 256
"""A writer that is killed loses one shard, and holds one in memory: with maps and encodings at 512 pixels 100 MiB."""


@dataclass(frozen=True)
class Part:
    """One shard to be: items `numbers` of a split."""

    split: str
    index: int
    numbers: range

    @property
    def name(self) -> str:
        """File name of the tar."""
        return f"{self.split}-{self.index:06d}.tar"


class Items:
    """The items of one split."""

    def __init__(self, sources: Sequence[Source], split: str) -> None:
        self.split = split
        counts = [(source, source.splits.get(split, 0), source.texts.get(split, 0)) for source in sources]
        with_image = [(source, 0, count - texts) for source, count, texts in counts]
        self._runs = [*with_image, *((source, count - texts, texts) for source, count, texts in counts)]

    def __len__(self) -> int:
        return sum(count for _, _, count in self._runs)

    def sample(self, number: int) -> SourceSample:
        """Return an item. Raises as `Source.sample` does."""
        for source, first, count in self._runs:
            if number < count:
                return source.sample(self.split, first + number)
            number -= count
        raise IndexError(f"{self.split} has {len(self)} items")

    def parts(self) -> Iterator[Part]:
        """Yield the shards that hold these items."""
        for index, first in enumerate(range(0, len(self), ITEMS_PER_SHARD)):
            yield Part(self.split, index, range(first, min(first + ITEMS_PER_SHARD, len(self))))


def splits_of(sources: Sequence[Source]) -> list[Items]:
    """Return the items of every split that has any."""
    return [items for split in SPLITS if len(items := Items(sources, split))]
