"""What an encoder makes of the samples to train on lies in their shards, whoever writes them and however often."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.dictionary_store import DictionaryStore
from tests.support.faulty_stores import WrappedStore, raising
from unimrg_api.spec_sources import SourceSpec
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.data.members import decode_member, encode_array, encoding_member
from unimrg_trainer.data.shards import CorruptDataError
from unimrg_trainer.preparation import items
from unimrg_trainer.preparation.prepare import Prepared, prepare
from unimrg_trainer.sample import Sample, Wanted
from unimrg_trainer.storage import ObjectStore

TRAIN = 21
SOURCES = [SourceSpec.model_validate({"scenes": {"train": TRAIN, "heldOut": 2, "imageSize": 32, "seed": 1}})]
NAME = "toy-32.image.whole"


class MeanColour:
    """An encoder whose codes are the mean colour of the image and the mean of its depth map."""

    def __init__(self, name: str = "weights") -> None:
        self.name, self.samples_of_calls = name, list[int]()

    def identity(self) -> str:
        return self.name

    def encode(self, samples: Sequence[Sample]) -> list[Mapping[str, np.ndarray]]:
        self.samples_of_calls.append(len(samples))
        return [{encoding_member(NAME, square=False): mean_colour(sample)} for sample in samples]


def mean_colour(sample: Sample) -> np.ndarray:
    assert sample.image is not None
    return np.array([*sample.image.mean(axis=(0, 1)), sample.maps["depth"].mean()], dtype=np.float16)


def run(store: ObjectStore, encoder: MeanColour | None = None) -> Prepared:
    return prepare(SOURCES, Path("/"), store, lambda *_: None, encoder or MeanColour())


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "ITEMS_PER_SHARD", 5)


def test_arrays_are_those_of_the_stored_pictures(dictionary_store: DictionaryStore) -> None:
    run(dictionary_store)
    data = Dataset.open(dictionary_store, "train")
    for number in range(TRAIN):
        sample = data.image_sample(number, Wanted(encodings=(NAME,)))
        assert sample.encodings[NAME].dtype == np.float16 and not sample.encodings[NAME].flags.writeable
        np.testing.assert_array_equal(sample.encodings[NAME], mean_colour(sample))
    plain = DictionaryStore()
    prepare(SOURCES, Path("/"), plain, lambda *_: None)
    for split in ("train", "heldOut"):
        without, found = Dataset.open(plain, split).image_sample(1), Dataset.open(dictionary_store, split)
        np.testing.assert_array_equal(without.image, found.image_sample(1).image)
        assert without.maps.keys() == found.image_sample(1).maps.keys()


def test_a_row_without_pictures_reads_one_short_piece(dictionary_store: DictionaryStore) -> None:
    run(dictionary_store)
    read: list[int] = []

    class Counting(WrappedStore):
        def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
            read.append(length or 0)
            return super().get(key, offset, length)

    data = Dataset.open(Counting(dictionary_store), "train")
    sample = data.image_sample(3, Wanted((), image=False, encodings=(NAME,)))
    whole = len(next(content for key, content in dictionary_store.objects.items() if key.endswith("train-000000.tar")))
    assert sample.image is None and sample.maps == {} and 0 < read[-1] < 3 * 512 + 1024 < whole / 5


def test_only_what_is_trained_on_is_encoded_a_few_samples_together(dictionary_store: DictionaryStore) -> None:
    encoder = MeanColour()
    run(dictionary_store, encoder)
    assert encoder.samples_of_calls == [5, 5, 5, 5, 1]
    with pytest.raises(CorruptDataError, match=r"heldOut-00000000 in heldOut-000000.tar has no toy-32.image.whole.npy"):
        Dataset.open(dictionary_store, "heldOut").image_sample(0, Wanted(encodings=(NAME,)))


def test_another_encoder_prepares_another_data_set(dictionary_store: DictionaryStore) -> None:
    one, other = run(dictionary_store), run(dictionary_store, MeanColour("other weights"))
    without = prepare(SOURCES, Path("/"), dictionary_store, lambda *_: None)
    assert len({one.digest, other.digest, without.digest}) == 3 and not without.reused
    assert run(dictionary_store).reused


@pytest.mark.parametrize("shard", range(5))
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_writer_that_was_interrupted_goes_on_behind_its_shards(
    dictionary_store: DictionaryStore, shard: int, where: str
) -> None:
    whole, encoder = DictionaryStore(), MeanColour()
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(WrappedStore(dictionary_store, **{where: raising(KeyboardInterrupt, rf"train-00000{shard}\.tar\.idx$")}))
    assert not run(dictionary_store, encoder).reused
    assert dictionary_store.objects == whole.objects
    assert sum(encoder.samples_of_calls) == max(TRAIN - 5 * (shard + 1), 0)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", encode_array(np.zeros(9))[:-1]])
def test_what_is_no_array_is_damage_with_a_name(content: bytes) -> None:
    with pytest.raises(CorruptDataError, match=r"a\.npy of sample train-3 in x\.tar cannot be decoded"):
        decode_member("a.npy", content, "train-3 in x.tar")


def test_an_array_with_objects_is_not_read() -> None:
    """Reading one would run code of whoever wrote it."""
    with pytest.raises(ValueError, match="pickle"):
        encode_array(np.array([{}]))


def test_arrays_come_back_whatever_their_type_and_order() -> None:
    grid = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for array in (grid, np.asfortranarray(grid), grid.astype(">f4"), np.float16(3), np.zeros((0, 4))):
        found, size = decode_member("a.npy", encode_array(np.asanyarray(array)), "here")
        np.testing.assert_array_equal(found, array)
        assert (found.dtype, size) == (np.asanyarray(array).dtype, found.nbytes) and not found.flags.writeable
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CorruptDataError, match="objects"):
        decode_member("a.npy", pickled.getvalue(), "here")
