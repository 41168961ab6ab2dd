"""The part of a job that says what is trained on: where it is from, how it is prepared, mixed and read."""

from __future__ import annotations

from fractions import Fraction as Ratio
from typing import Annotated, Literal

from pydantic import Field

from unimrg_api.fields import FieldRule, Share, ShortUri, Spec, Weight
from unimrg_api.spec_maps import MapsSpec
from unimrg_api.spec_sources import SourceSpec
from unimrg_api.unions import each_once

MAXIMUM_WORKERS = 64


class PreparationSpec(Spec):
    """How data is prepared; nothing of it changes what is prepared."""

    pods: Annotated[int, Field(ge=1, le=MAXIMUM_WORKERS)] = 1
    """On a cluster, pods that prepare, each some of the shards."""
    processes: Annotated[int, Field(ge=1, le=MAXIMUM_WORKERS)] = 1
    """Processes of each pod; they take its GPUs in turn, where there are any."""
    max_bad_fraction: Share = "0.01"
    """Part of all items that may be left out because they cannot be read. Each is counted and named in the manifest;
    above this the stage fails."""


class ReadingSpec(Spec):
    """How shards are read while training and evaluation run."""

    patience_seconds: Annotated[int, Field(ge=0, le=86_400)] = 600
    """Seconds without an answer from the storage after which reading gives up, and the attempt ends. Until then the
    processes wait where they are, and say so."""
    cache_gib: Annotated[int, Field(ge=0, le=65_536, alias="cacheGiB")] = 0
    """Disk space of each node, in GiB, that keeps what is read of shards in a bucket for later epochs. Other data sets
    that nobody reads make room; of one that is larger, the rest is read from the bucket in every epoch. A pod has it as
    a volume of its own."""
    max_substituted_fraction: Share = "0.001"
    """Largest fraction of samples, of those read or of the data set, that may turn out damaged. In the place of each
    stands the next one that is whole, always the same; it is counted and logged. Beyond it training ends."""


class DataSpec(Spec):
    """What is trained on."""

    sources: Annotated[list[SourceSpec], Field(min_length=1, max_length=4)] | None = None
    """What the prepare stage turns into shards under `shards`, each source once. Absent: the shards exist."""
    maps: MapsSpec | None = None
    """Models that make depth and segmentation of the images to train on and to evaluate with whose source brings none.
    They run in the prepare stage. Absent: only maps that the sources bring."""
    shards: Annotated[list[ShortUri], Field(max_length=16)] = Field(default=[])
    """The prefixes that hold the shards, one data set in each; several are mixed. What `sources` describe is prepared
    under the first. Only a job that does not train (`stages.train.mode: Never`) may have none: then no held-out losses
    are measured, and nothing is asked about held-out images."""
    weights: Annotated[list[Weight], Field(min_length=1, max_length=16)] | None = None
    """How much of what is read comes from each of `shards`, in any unit: of any stretch of rows each has its share.
    Absent: as much as it has."""
    preparation: PreparationSpec = PreparationSpec.model_construct()
    """How the prepare stage works."""
    reading: ReadingSpec = ReadingSpec.model_construct()
    """How shards are read."""
    image_encoding: Literal["Online", "Prepared"] = "Online"
    """When the model's image codec (its autoencoder or image tokenizer, which is not trained) encodes the images and
    maps to train on. Online: in every step that reads them. Prepared: once, when the data is prepared; the results lie
    in the shards, and training reads these instead of pixels. Losses are the same."""

    def proportions(self) -> list[Ratio] | None:
        """Return the weights as numbers; None: in proportion to size."""
        return None if self.weights is None else [Ratio(weight) for weight in self.weights]

    def generated(self) -> tuple[int, int] | None:
        """Return how many images the job generates to train on, and their side in pixels; None for other data."""
        scenes = next((source.scenes for source in self.sources or () if source.scenes is not None), None)
        return None if scenes is None else (scenes.train, scenes.image_size)

    rules = (
        each_once("sources", SourceSpec, "!has(self.sources) || {}"),
        FieldRule(
            "maps",
            "maps are made only of data that the job prepares itself",
            "set data.sources, or leave maps out",
            lambda data: data.maps is None or data.sources is not None,
            "!has(self.maps) || has(self.sources)",
        ),
        FieldRule(
            "weights",
            "each of data.shards needs a weight, and one of them has to be above zero",
            "write as many as there are shards, or leave weights out",
            lambda data: (
                data.weights is None or (len(data.weights) == len(data.shards) and any(map(float, data.weights)))
            ),
            "!has(self.weights) || (size(self.weights) == size(self.shards) && "
            "!self.weights.all(weight, weight.matches('^[0.]+$')))",
        ),
        FieldRule(
            "shards",
            "a prefix is named twice",
            "name each once; data.weights says how much is read of it",
            lambda data: len(set(data.shards)) == len(data.shards),
            "self.shards.all(uri, self.shards.exists_one(other, other == uri))",
        ),
        FieldRule(
            "shards",
            "the codec's results are prepared with the first of the shards, and the others lack them",
            "name one prefix, or use imageEncoding: Online",
            lambda data: data.image_encoding != "Prepared" or len(data.shards) == 1,
            "self.imageEncoding != 'Prepared' || size(self.shards) == 1",
        ),
        FieldRule(
            "imageEncoding",
            "only data that the job prepares itself can be encoded then",
            "set data.sources, or use imageEncoding: Online",
            lambda data: data.image_encoding != "Prepared" or data.sources is not None,
            "self.imageEncoding != 'Prepared' || has(self.sources)",
        ),
        FieldRule(
            "sources",
            "images are for sample grids, and no source is trained on",
            "add a source to train on, e.g. scenes",
            lambda data: [source.key for source in data.sources or ()] != ["images"],
            "!has(self.sources) || size(self.sources) != 1 || !has(self.sources[0].images)",
        ),
    )
