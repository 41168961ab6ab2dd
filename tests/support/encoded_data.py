"""A data set of pictures that are no squares, with and without what a family's encoder makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tests.models.rows import SIDE, picture
from tests.support.dictionary_store import DictionaryStore
from tests.support.one_step import OBJECTIVES
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.data.publication import Publication, publish
from unimrg_trainer.data.shards import Manifest, ShardIndex
from unimrg_trainer.engine.encoding import FamilyEncoder
from unimrg_trainer.models.base import Family
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.preparation.base import SourceSample
from unimrg_trainer.preparation.items import Items
from unimrg_trainer.preparation.make import Maker
from unimrg_trainer.preparation.write import put_manifest, put_shard, read_indices

COUNT = 5
PREFIX, DIGEST = "d" * 16, "d" * 64


class Pictures:
    """A source of samples with two questions each."""

    splits: ClassVar[dict[str, int]] = {"train": COUNT}
    texts: ClassVar[dict[str, int]] = {}

    def identity(self) -> Any: ...

    def sample(self, split: str, number: int) -> SourceSample:
        maps = {name: picture((number, name), *SIDE) for name in ("depth", "segmentation")}
        questions = [{"question": f"Where is number {n}?", "answer": "left " * (1 + n)} for n in (number, number + 1)]
        return SourceSample(picture(number), maps, "A picture.", questions)


@dataclass
class EncodedData:
    """One split, `train`; `square`: its samples are read, and were encoded, padded to squares."""

    store: DictionaryStore
    square: bool

    @classmethod
    def write(cls, encoder: FamilyEncoder, *, square: bool = False) -> EncodedData:
        store = DictionaryStore()
        items = Items([Pictures()], "train")
        (part,) = items.parts()
        put_shard(store, PREFIX, part, Maker(encoder=encoder).make(items, part))
        manifest = put_manifest(store, PREFIX, "train", read_indices(store, PREFIX, [part]), {})
        publish(store, Publication(digest=DIGEST, prefix=PREFIX, manifests={"train": manifest}))
        return cls(store, square)

    @classmethod
    def of(cls, family: Family, *, square: bool = False) -> EncodedData:
        return cls.write(FamilyEncoder(family, [objective(name) for name in OBJECTIVES], square=square), square=square)

    def open(self) -> Dataset:
        return Dataset.open(self.store, "train", square=self.square)

    def index(self) -> ShardIndex:
        (shard,) = Manifest.model_validate_json(self.store.objects[f"{PREFIX}/train/manifest.json"]).shards
        return ShardIndex.model_validate_json(self.store.objects[f"{PREFIX}/train/{shard.name}.idx"])

    def without(self, *endings: str) -> EncodedData:
        """Return the data with every file destroyed whose name ends so: who reads one fails."""
        store = DictionaryStore()
        store.objects = dict(self.store.objects)
        (key,) = (key for key in store.objects if key.endswith(".tar"))
        tar = bytearray(store.objects[key])
        for sample in self.index().samples:
            for member, place in sample.members.items():
                if member.endswith(endings):
                    tar[place.offset : place.end] = bytes(place.length)
        store.objects[key] = bytes(tar)
        return EncodedData(store, self.square)
