"""A prepared split read back: any sample from any thread, equal to what was generated, RGB, checked."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.support.dictionary_store import DictionaryStore
from tests.support.written_shards import write_split
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_sources import SourceSpec
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.data.publication import Publication, find_publication, folder_of, publish
from unimrg_trainer.preparation import items
from unimrg_trainer.preparation.base import SourceSample
from unimrg_trainer.preparation.make import pack
from unimrg_trainer.preparation.prepare import Prepared, prepare
from unimrg_trainer.preparation.sources.scenes import HELD_OUT_START
from unimrg_trainer.sample import Wanted
from unimrg_trainer.scenes import generate

TRAIN, HELD_OUT, SIZE, SEED = 7, 3, 32, 9


def write(store: DictionaryStore, *samples: Mapping[str, bytes]) -> None:
    """Publish a data set with one split, `train`."""
    manifest = write_split(store, folder_of("d" * 64), "train", len(samples), samples.__getitem__)
    publish(store, Publication(digest="d" * 64, prefix=folder_of("d" * 64), manifests={"train": manifest}))


def prepare_scenes(store: DictionaryStore, train: int = TRAIN, held_out: int = HELD_OUT) -> Prepared:
    scenes = {"train": train, "heldOut": held_out, "imageSize": SIZE, "seed": SEED}
    return prepare([SourceSpec.model_validate({"scenes": scenes})], Path("/"), store, lambda *_: None)


@pytest.fixture
def store(dictionary_store: DictionaryStore, monkeypatch: pytest.MonkeyPatch) -> DictionaryStore:
    monkeypatch.setattr(items, "ITEMS_PER_SHARD", 3)
    prepare_scenes(dictionary_store)
    return dictionary_store


@pytest.mark.parametrize(("split", "start"), [("train", 0), ("heldOut", HELD_OUT_START)])
def test_image_samples_are_the_generated_scenes(store: DictionaryStore, split: str, start: int) -> None:
    data = Dataset.open(store, split)
    for number in data.images:
        sample, scene = data.image_sample(number), generate(SEED, start + number, SIZE)
        np.testing.assert_array_equal(sample.image, scene.image)
        np.testing.assert_array_equal(sample.maps["depth"], scene.depth)
        np.testing.assert_array_equal(sample.maps["segmentation"], scene.segmentation)
        assert sample.caption == scene.caption
        assert (sample.question, sample.answer, sample.attributes) == (None, None, {})
    assert len({data.image_sample(number).key for number in data.images}) == len(data.images)


def test_question_samples_are_all_questions_of_all_scenes(store: DictionaryStore) -> None:
    data = Dataset.open(store, "train")
    expected = [
        (asked.question, asked.answer, asked.kind, index)
        for index in range(TRAIN)
        for asked in generate(SEED, index, SIZE).questions
    ]
    assert len(data.questions) == len(expected)
    for number, (question, answer, kind, index) in enumerate(expected):
        sample = data.question_sample(number)
        assert (sample.question, sample.answer, sample.attributes) == (question, answer, {"kind": kind})
        np.testing.assert_array_equal(sample.image, generate(SEED, index, SIZE).image)


def test_a_sample_holds_only_what_was_asked_for(store: DictionaryStore) -> None:
    data = Dataset.open(store, "train")
    assert set(data.question_sample(0).maps) == {"depth", "segmentation"}
    assert set(data.question_sample(0, Wanted(("depth", "normals"))).maps) == {"depth"}
    text = data.question_sample(0, Wanted((), image=False))
    assert text.image is None and text.maps == {} and text.question is not None


def test_a_map_of_any_name_is_stored_and_read_back(dictionary_store: DictionaryStore) -> None:
    normals = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    write(dictionary_store, pack(SourceSample(np.zeros((4, 4, 3), np.uint8), {"normals": normals})).members)
    sample = Dataset.open(dictionary_store, "train").image_sample(0)
    assert list(sample.maps) == ["normals"]
    np.testing.assert_array_equal(sample.maps["normals"], normals)


def test_numbers_outside_the_split_are_refused(store: DictionaryStore) -> None:
    data = Dataset.open(store, "train")
    for number in (-1, TRAIN):
        with pytest.raises(IndexError, match="of 7"):
            data.image_sample(number)
    with pytest.raises(IndexError, match="of 28"):
        data.question_sample(4 * TRAIN)


def test_splits_are_named_and_share_the_digest_of_the_data_set(store: DictionaryStore) -> None:
    digest = Dataset.open(store, "train").digest
    assert digest == Dataset.open(store, "heldOut").digest == Dataset.open(store, "train", digest).digest
    assert store.writes[-1] == f"{digest[:16]}/PUBLISHED"
    assert list(find_publication(store).manifests) == ["train", "heldOut"]
    with pytest.raises(UserError, match="no finished data set"):
        find_publication(store, "0" * 64)


def test_threads_read_the_same_records(store: DictionaryStore) -> None:
    expected = Dataset.open(store, "train")
    data = Dataset.open(store, "train")
    numbers = [number % len(data.questions) for number in range(400)]
    with ThreadPoolExecutor(4) as pool:
        for number, record in zip(numbers, pool.map(data.question_sample, numbers), strict=True):
            other = expected.question_sample(number)
            assert record.question == other.question
            np.testing.assert_array_equal(record.image, other.image)


def test_a_sample_read_twice_costs_one_read_and_cannot_be_changed(store: DictionaryStore) -> None:
    reads: list[str] = []
    get = store.get

    def counted(key: str, offset: int = 0, length: int | None = None) -> bytes:
        reads.append(key)
        return get(key, offset, length)

    store.get = counted  # type: ignore[method-assign]
    data = Dataset.open(store, "train")
    first = data.question_sample(0)
    reads.clear()
    again = data.question_sample(1)  # the same scene
    assert reads == []
    assert again.image is first.image
    with pytest.raises(ValueError, match="read-only"):
        first.image[0] = 0


@pytest.mark.parametrize(
    ("prepared", "message"), [(True, "no split 'preview', only train"), (False, "no finished data")]
)
def test_what_is_not_there_is_refused_with_what_is(
    dictionary_store: DictionaryStore, prepared: bool, message: str
) -> None:
    if prepared:
        prepare_scenes(dictionary_store)
    with pytest.raises(UserError, match=message) as caught:
        Dataset.open(dictionary_store, "preview")
    assert caught.value.exit_code is ExitCode.INPUT_MISSING


def test_of_several_data_sets_the_source_says_which(store: DictionaryStore) -> None:
    other = prepare_scenes(store, 1, 1)
    with pytest.raises(UserError, match="several data sets") as error:
        Dataset.open(store, "train")
    assert "spec.data.sources" in error.value.remedy and "digest" not in str(error.value)
    assert len(Dataset.open(store, "train", other.digest).images) == 1


def test_what_images_lack_is_known_before_any_is_read(dictionary_store: DictionaryStore) -> None:
    grey = np.zeros((4, 4), np.uint8)
    asked = [{"question": "Which?", "answer": "None."}]
    samples = [
        SourceSample(np.zeros((4, 4, 3), np.uint8), {"depth": grey, "normals": grey}, questions=asked),
        SourceSample(np.ones((4, 4, 3), np.uint8), {"depth": grey}),
        SourceSample(caption="text alone", questions=asked),
    ]
    write(dictionary_store, *(pack(sample).members for sample in samples))
    data = Dataset.open(dictionary_store, "train")
    for name in [name for name in dictionary_store.objects if not name.endswith("PUBLISHED")]:
        del dictionary_store.objects[name]
    data.require(["depth"])
    for wanted, message in (
        ({"maps": ["depth", "normals"]}, r"1 of 2 images of split 'train' at .*/d{16} have no map 'normals'"),
        ({"questions": True}, "some images of split 'train' at .* have no question.*imageSharing"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            data.require(**wanted)  # type: ignore[arg-type]
        assert caught.value.exit_code is ExitCode.DATA_CORRUPT and caught.value.remedy
