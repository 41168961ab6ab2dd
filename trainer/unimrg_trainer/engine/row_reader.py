"""From a global row to the sample that objectives learn from there: the order, what is read of it, and what stands in.

Everything here is a function of (job, data, row), whichever rank reads it and whenever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, cast

from unimrg_trainer.data.dataset import Source
from unimrg_trainer.data.order import Order
from unimrg_trainer.data.shards import DamagedSample, Extent
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.models.common.encodings import Reading
from unimrg_trainer.objectives.base import Objective
from unimrg_trainer.rng import generator
from unimrg_trainer.sample import ALL, Sample, Wanted


class ReadSample(Protocol):
    """Reads a sample with what is wanted of it; `read` brings its extent."""

    def __call__(
        self, sample_index: int, /, wanted: Wanted = ALL, read: Callable[[Extent], bytes] | None = None
    ) -> Sample: ...


class SampleSource(Protocol):
    """The part of a data set (`data/dataset.py`) that the planner uses."""

    @property
    def images(self) -> Sized: ...

    @property
    def questions(self) -> Sized: ...

    @property
    def image_sample(self) -> ReadSample: ...

    @property
    def question_sample(self) -> ReadSample: ...

    def questions_about(self, image: int, /) -> range: ...

    def order(self, source: Source, seed: int | None) -> Order: ...


class ExtentSource(SampleSource, Protocol):
    """A data set that can say beforehand what has to be read."""

    def extent(self, source: Source, number: int, /, wanted: Wanted = ALL) -> Extent: ...


Samples = Mapping[tuple[Source, int], Sample]
"""(source, global row) → the sample that all objectives with that source have there."""


@dataclass(frozen=True)
class RowReader:
    """Reads the sample of a global row, in shuffled order by `seed`, or in stored order (None: evaluation).

    With `same_images` a question is about the image that other objectives have at the same global row. With `reading`,
    the family's, what rows read encoded is read so, and the image only where they need its pixels too.
    """

    dataset: SampleSource
    seed: int | None
    same_images: bool = False
    reading: Callable[[ImageMap | None], Reading] | None = None

    def __call__(self, objective: Objective, global_row: int) -> Sample:
        """The sample with what the objective learns from."""
        return self._read(self.source(objective), global_row, self._wanted([objective]))

    def source(self, objective: Objective) -> Source:
        """Return the order that an objective follows."""
        return "images" if self.same_images else objective.source

    def read_together(
        self,
        objectives: Sequence[Objective],
        rows: Sequence[int],
        read: Callable[[Extent], bytes] | None = None,
        spread: Callable[..., Iterable[Sample]] = map,
    ) -> Samples:
        """Read the samples of these rows once for all objectives, with what any of them learns from.

        `read` brings what `extents` has named; `spread` is a `map` that may use threads.
        """
        wanted = self._wanted_by_source(objectives)
        asked = any(objective.source == "questions" for objective in objectives)
        places = [(source, row) for row in rows for source in wanted]
        samples = spread(lambda place: self._read(place[0], place[1], wanted[place[0]], asked, read), places)
        return dict(zip(places, samples, strict=True))

    def extents(self, objectives: Sequence[Objective], rows: Sequence[int]) -> list[Extent]:
        """Return what `read_together` will read of a data set that can say so beforehand."""
        data = cast(ExtentSource, self.dataset)
        return [
            data.extent(source, self._orders[source].record(row), wanted)
            for source, wanted in self._wanted_by_source(objectives).items()
            for row in rows
        ]

    @cached_property
    def _orders(self) -> dict[Source, Order]:
        sizes: dict[Source, int] = {"images": len(self.dataset.images), "questions": len(self.dataset.questions)}
        return {source: self.dataset.order(source, self.seed) for source, size in sizes.items() if size}

    def _wanted_by_source(self, objectives: Sequence[Objective]) -> dict[Source, Wanted]:
        sources = dict.fromkeys(self.source(objective) for objective in objectives)
        return {
            source: self._wanted([objective for objective in objectives if self.source(objective) == source])
            for source in sources
        }

    def _wanted(self, objectives: Sequence[Objective]) -> Wanted:
        """What a data set is asked for, of a sample that these objectives learn from."""
        maps = [objective.map for objective in objectives]
        if self.reading is None:
            return Wanted(tuple(map.name for map in maps if map is not None))
        readings = [self.reading(map) for map in maps]
        encodings = {encoding.name for reading in readings for encoding in reading.encodings}
        return Wanted((), any(reading.image for reading in readings), encodings)

    def _read(
        self,
        source: Source,
        row: int,
        wanted: Wanted,
        asked: bool = True,
        read: Callable[[Extent], bytes] | None = None,
    ) -> Sample:
        """Read the sample of a row; a damaged one is replaced by the next of its window that is whole."""
        order = self._orders[source]
        try:
            return self._record(source, row, order.record(row), wanted, asked, read)
        except DamagedSample as error:
            for record in order.substitutes(row):
                try:
                    sample = self._record(source, row, record, wanted, asked, None)
                except DamagedSample:
                    continue
                return replace(sample, replaces=error.message)
            raise

    def _record(
        self, source: Source, row: int, record: int, wanted: Wanted, asked: bool, read: Callable[[Extent], bytes] | None
    ) -> Sample:
        """Read a record; with `same_images` and if it is `asked` about, with a question drawn for the row."""
        if source == "questions":
            return self.dataset.question_sample(record, wanted, read)
        if not self.same_images or not asked:
            return self.dataset.image_sample(record, wanted, read)
        questions = self.dataset.questions_about(record)
        drawn = int(generator("question", self.seed or 0, row).integers(len(questions)))
        return self.dataset.question_sample(questions[drawn], wanted, read)
