"""Several data sets read as one, in fixed proportions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise

from unimrg_api.digests import sha256_of
from unimrg_api.errors import UserError
from unimrg_trainer.data.dataset import Dataset, Source
from unimrg_trainer.data.order import MixedOrder, Order, StoredOrder
from unimrg_trainer.data.shards import Extent
from unimrg_trainer.sample import ALL, Sample, Wanted


class Mixture:
    """The same split of several data sets. Samples are numbered through, one data set after the other.

    Training reads by `weights`, evaluation, and training without them, in proportion to what each has. A data set that
    has nothing in an order (e.g. no questions) leaves its share of it to the others.
    """

    def __init__(self, parts: Sequence[Dataset], weights: Sequence[Fraction] | None = None) -> None:
        self.split = parts[0].split
        self._parts = parts
        self._weights = weights
        self._starts: dict[Source, list[int]] = {
            "images": [0, *accumulate(len(part.images) for part in parts)],
            "questions": [0, *accumulate(len(part.questions) for part in parts)],
        }
        self.images = range(self._starts["images"][-1])
        self.questions = range(self._starts["questions"][-1])

    def order(self, source: Source, seed: int | None) -> Order:
        """Return the order in which training with `seed` reads, or, without one, evaluation. Raises UserError."""
        starts = self._starts[source]
        sizes = [end - start for start, end in pairwise(starts)]
        weights = [Fraction(size) for size in sizes]
        if seed is not None and self._weights is not None:
            weights = [weight if size else Fraction() for weight, size in zip(self._weights, sizes, strict=True)]
        if not any(weights):
            raise UserError(
                f"none of spec.data.shards with a weight above zero has {source}",
                remedy="raise the weight of one that has, or leave out the objectives that learn from them",
            )
        orders = [
            part.order(source, seed) if size else StoredOrder(1) for part, size in zip(self._parts, sizes, strict=True)
        ]
        return MixedOrder(list(zip(orders, starts, strict=False)), weights)

    def image_sample(
        self, number: int, /, wanted: Wanted = ALL, read: Callable[[Extent], bytes] | None = None
    ) -> Sample:
        """As of one data set (`Dataset.image_sample`)."""
        part, own = self._find("images", number)
        return self._named(part, self._parts[part].image_sample(own, wanted, read))

    def question_sample(
        self, number: int, /, wanted: Wanted = ALL, read: Callable[[Extent], bytes] | None = None
    ) -> Sample:
        """As of one data set (`Dataset.question_sample`)."""
        part, own = self._find("questions", number)
        return self._named(part, self._parts[part].question_sample(own, wanted, read))

    def extent(self, source: Source, number: int, /, wanted: Wanted = ALL) -> Extent:
        """As of one data set (`Dataset.extent`)."""
        part, own = self._find(source, number)
        return self._parts[part].extent(source, own, wanted)

    def questions_about(self, image: int, /) -> range:
        """Return the numbers of the question samples about image sample `image`."""
        part, own = self._find("images", image)
        found, first = self._parts[part].questions_about(own), self._starts["questions"][part]
        return range(first + found.start, first + found.stop)

    def _named(self, part: int, sample: Sample) -> Sample:
        """Return a sample with a key that is its own among all data sets."""
        return replace(sample, key=f"{part}/{sample.key}")

    def _find(self, source: Source, number: int) -> tuple[int, int]:
        starts = self._starts[source]
        if not 0 <= number < starts[-1]:
            raise IndexError(f"sample {number} of {starts[-1]} in split {self.split!r}")
        part = bisect_right(starts, number) - 1
        return part, number - starts[part]


Data = Dataset | Mixture
"""What a job reads of one split."""


def mixture_digest(digests: Sequence[str], weights: Sequence[Fraction] | None) -> str:
    """Return the digest of a mix of data sets: of one data set its own; only the proportion of weights counts."""
    if len(digests) == 1:
        return digests[0]
    shares = None if weights is None else [str(weight / sum(weights)) for weight in weights]
    return sha256_of({"digests": list(digests), "weights": shares})
