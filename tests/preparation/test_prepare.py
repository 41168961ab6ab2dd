"""Preparing data: once per content, all or nothing, every bad input named before anything is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.support.dictionary_store import DictionaryStore
from unimrg_api.errors import JobError, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.job import SourceSpec, resolve_uri
from unimrg_trainer import scenes
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.preparation import registry
from unimrg_trainer.preparation.base import SourceSample
from unimrg_trainer.preparation.prepare import Prepared, prepare
from unimrg_trainer.storage import ObjectStore, open_store

BAD_MAP = SourceSample(np.zeros((2, 2, 3), np.uint8), {"a.b": np.zeros((2, 2), np.uint8)})
PHOTOGRAPHS = Path(__file__).parents[2] / "examples" / "photographs"


def source(train: int = 4, seed: int = 1, size: int = 32, photographs: str | None = None) -> list[SourceSpec]:
    wanted: list[Any] = [{"scenes": {"train": train, "heldOut": 2, "imageSize": size, "seed": seed}}]
    if photographs is not None:
        wanted.append({"images": {"uri": photographs}})
    return [SourceSpec.model_validate(item) for item in wanted]


def run(
    store: ObjectStore,
    wanted: list[SourceSpec] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    base: Path = Path("/"),
) -> Prepared:
    return prepare(wanted or source(), base, store, progress)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(PHOTOGRAPHS, tmp_path / "photographs")
    return tmp_path / "photographs"


def test_scenes_and_photographs_become_splits(dictionary_store: DictionaryStore, folder: Path) -> None:
    wanted = source(photographs="file://photographs")
    prepared = run(dictionary_store, wanted, base=folder.parent)
    assert not prepared.reused
    sizes = {
        split: (len(data.images), len(data.questions))
        for split in ("train", "heldOut", "preview")
        for data in [Dataset.open(dictionary_store, split, prepared.digest)]
    }
    assert sizes == {"train": (4, 16), "heldOut": (2, 8), "preview": (3, 0)}
    assert all(key.startswith(prepared.digest[:16] + "/") for key in dictionary_store.objects)


def test_the_marker_is_written_last(dictionary_store: DictionaryStore) -> None:
    prepared = run(dictionary_store)
    assert dictionary_store.writes[-1] == f"{prepared.digest[:16]}/PUBLISHED"


def test_preparing_twice_reuses_what_is_there(dictionary_store: DictionaryStore) -> None:
    first = run(dictionary_store)
    written = list(dictionary_store.writes)
    second = run(dictionary_store)
    assert second == Prepared(first.digest, first.prefix, reused=True)
    assert dictionary_store.writes == written


def test_the_same_source_gives_the_same_bytes_anywhere(dictionary_store: DictionaryStore, folder: Path) -> None:
    other = DictionaryStore()
    for store in (dictionary_store, other):
        run(store, source(photographs="file://photographs"), base=folder.parent)
    assert dictionary_store.objects == other.objects


def test_whatever_changes_the_content_changes_the_digest(folder: Path) -> None:
    def digest(wanted: list[SourceSpec]) -> str:
        return run(DictionaryStore(), wanted, base=folder.parent).digest

    with_photographs = source(photographs="file://photographs")
    digests = [digest(source()), digest(source(train=5)), digest(source(seed=2)), digest(source(size=33))]
    digests.append(digest(with_photographs))
    (folder / "cat.jpg").rename(folder / "zebra.jpg")  # another place in the order
    digests.append(digest(with_photographs))
    shutil.copy(folder / "zebra.jpg", folder / "rocket.jpg")
    digests.append(digest(with_photographs))
    assert len(set(digests)) == len(digests)
    moved = folder.rename(folder.parent / "elsewhere")
    assert digest(source(photographs=moved.as_uri())) == digests[-1]
    (moved / "zebra.jpg").rename(moved / "zoo.jpg")  # a name is not content
    assert digest(source(photographs=moved.as_uri())) == digests[-1]


def test_held_out_scenes_are_never_trained_on(dictionary_store: DictionaryStore) -> None:
    digest = run(dictionary_store, source(train=40)).digest
    train = Dataset.open(dictionary_store, "train", digest)
    held_out = Dataset.open(dictionary_store, "heldOut", digest)
    seen = {train.image_sample(index).image.tobytes() for index in train.images}
    assert len(seen) == 40
    assert not seen & {held_out.image_sample(index).image.tobytes() for index in held_out.images}


def test_progress_counts_every_sample(dictionary_store: DictionaryStore, folder: Path) -> None:
    told: list[tuple[int, int]] = []
    run(
        dictionary_store,
        source(photographs="file://photographs"),
        lambda done, total: told.append((done, total)),
        folder.parent,
    )
    assert told == [(done, 9) for done in range(10)]


def test_a_published_shard_that_lost_bytes_is_found_before_training(
    dictionary_store: DictionaryStore,
) -> None:
    run(dictionary_store)
    key = next(key for key in dictionary_store.objects if key.endswith("heldOut-000000.tar"))
    dictionary_store.objects[key] = dictionary_store.objects[key][:-1]
    with pytest.raises(UserError, match=r"heldOut-000000\.tar has \d+ instead of \d+ bytes") as caught:
        run(dictionary_store)
    assert caught.value.exit_code is ExitCode.DATA_CORRUPT


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "holds no image"),
        (lambda folder: folder.write_text("x"), "is not a folder"),
    ],
)
def test_a_missing_or_empty_folder_is_refused_with_its_field_and_a_way_out(
    dictionary_store: DictionaryStore, tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "mine")
    with pytest.raises(JobError, match=message) as caught:
        run(dictionary_store, source(photographs="file://mine"), base=tmp_path)
    problem = caught.value.problems[0]
    assert problem.path == "spec.data.sources[1].images.uri"
    assert problem.value == "'file://mine'"
    assert str(tmp_path / "mine") in problem.message
    assert problem.remedy
    assert caught.value.exit_code is ExitCode.INPUT_MISSING
    assert dictionary_store.objects == {}


def test_a_folder_of_photographs_that_cannot_be_read_is_named(
    dictionary_store: DictionaryStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(JobError, match=r"the folder .* cannot be read: Permission denied"):
        run(dictionary_store, source(photographs="file://photographs"), base=folder.parent)


def test_all_unreadable_photographs_are_named_and_nothing_is_written(
    dictionary_store: DictionaryStore, folder: Path
) -> None:
    cut = folder / "cut.jpg"
    cut.write_bytes((folder / "cat.jpg").read_bytes()[:4000])
    text = folder / "text.png"
    text.write_text("not a picture")
    with pytest.raises(JobError) as caught:
        run(dictionary_store, source(photographs="file://photographs"), base=folder.parent)
    assert [problem.value for problem in caught.value.problems] == [repr(str(cut)), repr(str(text))]
    assert caught.value.exit_code is ExitCode.DATA_CORRUPT
    assert dictionary_store.objects == {}
    cut.unlink()
    text.unlink()
    assert not run(dictionary_store, source(photographs="file://photographs"), base=folder.parent).reused


def test_photographs_are_kept_byte_for_byte_and_in_order(dictionary_store: DictionaryStore, folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "zebra.PNG"), pixels[:, :, ::-1])
    (folder / "misnamed.jpeg").write_bytes((folder / "zebra.PNG").read_bytes())
    (folder / ".hidden.png").write_text("no picture, and not looked at")
    (folder / "notes.txt").write_text("neither")
    prepared = run(dictionary_store, source(photographs="file://photographs"), base=folder.parent)
    tar = next(value for key, value in dictionary_store.objects.items() if key.endswith("preview-000000.tar"))
    for name in ("cat.jpg", "coffee.jpg", "misnamed.jpeg", "rocket.jpg", "zebra.PNG"):
        assert (folder / name).read_bytes() in tar
    data = Dataset.open(dictionary_store, "preview", prepared.digest)
    assert len(data.images) == 5
    first = data.image_sample(0)
    expected = np.asarray(Image.open(folder / "cat.jpg"))
    assert first.image.shape == expected.shape
    assert np.abs(first.image.astype(int) - expected).max() <= 3  # two decoders of the same JPEG
    for number in (2, 4):
        np.testing.assert_array_equal(data.image_sample(number).image, pixels)


class Stripes:
    """A source of a package: images to train on, with a map of its own."""

    splits: ClassVar[dict[str, int]] = {"train": 2}

    def __init__(self, settings: Mapping[str, Any], base: Path, field: str) -> None:
        self.width = settings["width"]

    def identity(self) -> Any:
        return self.width

    def check(self) -> None: ...

    def sample(self, split: str, number: int) -> SourceSample:
        image = np.full((8, self.width, 3), number, np.uint8)
        question = {"question": "Which?", "answer": str(number), "hard": True}
        return SourceSample(image, {"normals": 255 - image}, questions=[question])


def test_a_package_brings_a_source(dictionary_store: DictionaryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.SOURCES, "stripes", f"{__name__}:Stripes")
    custom = {"custom": {"name": "stripes", "settings": {"width": 5}}}
    digest = run(dictionary_store, [*source(), SourceSpec.model_validate(custom)]).digest
    data = Dataset.open(dictionary_store, "train", digest)
    assert (len(data.images), len(data.questions)) == (4 + 2, 16 + 2)
    sample = data.question_sample(17)
    assert (sample.answer, sample.attributes) == ("1", {"hard": True})
    np.testing.assert_array_equal(sample.image, np.full((8, 5, 3), 1, np.uint8))
    np.testing.assert_array_equal(sample.maps["normals"], np.full((8, 5, 3), 254, np.uint8))


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [("splits", {"test": 1}, "has a split 'test'"), ("sample", lambda *_: BAD_MAP, "map named 'a.b'")],
)
def test_what_a_package_does_wrong_is_named(
    dictionary_store: DictionaryStore, monkeypatch: pytest.MonkeyPatch, attribute: str, value: Any, message: str
) -> None:
    monkeypatch.setitem(registry.SOURCES, "stripes", f"{__name__}:Stripes")
    monkeypatch.setattr(Stripes, attribute, value)
    with pytest.raises(UserError, match=message):
        run(dictionary_store, [SourceSpec.model_validate({"custom": {"name": "stripes", "settings": {"width": 5}}})])


def test_the_job_refuses_sizes_at_which_scenes_cannot_be_told_apart() -> None:
    assert source(size=scenes.MINIMUM_SIZE)
    with pytest.raises(ValueError, match="greater than or equal to 32"):
        source(size=scenes.MINIMUM_SIZE - 1)


def test_a_photograph_that_changes_meanwhile_is_not_taken_in(dictionary_store: DictionaryStore, folder: Path) -> None:
    def swap(done: int, total: int) -> None:
        if done == 1:
            shutil.copy(folder / "cat.jpg", folder / "coffee.jpg")

    with pytest.raises(UserError, match=r"coffee\.jpg' changed") as caught:
        run(dictionary_store, source(photographs="file://photographs"), swap, folder.parent)
    assert caught.value.exit_code is ExitCode.DATA_CORRUPT
    assert not [key for key in dictionary_store.objects if key.endswith("PUBLISHED")]


@pytest.mark.parametrize("name", [b"caf\xe9.jpg", b"line\nbreak.jpg", b"100%?#'\".jpg", "ü.jpg".encode()])
def test_a_file_name_may_be_any_bytes(dictionary_store: DictionaryStore, folder: Path, name: bytes) -> None:
    (folder / "cat.jpg").rename(folder / os.fsdecode(name))
    prepared = run(dictionary_store, source(photographs="file://photographs"), base=folder.parent)
    assert len(Dataset.open(dictionary_store, "preview", prepared.digest).images) == 3
    (folder / os.fsdecode(name)).write_bytes(b"no image")
    with pytest.raises(JobError) as caught:
        run(dictionary_store, source(photographs="file://photographs"), base=folder.parent)
    problem = str(caught.value.problems[0]).encode()  # can be written to any file or terminal
    assert b"the image cannot be used" in problem and b"\n" not in problem


def test_a_folder_whose_name_is_not_utf8_is_found(dictionary_store: DictionaryStore, folder: Path) -> None:
    base = folder.parent / os.fsdecode(b"caf\xe9 #1%3F")
    base.mkdir()
    folder.rename(base / "photographs")
    store = open_store(resolve_uri("file://data", base))
    prepared = run(store, source(photographs="file://photographs"), base=base)
    assert (base / "data" / prepared.prefix / "PUBLISHED").exists()
    with pytest.raises(JobError) as caught:
        run(dictionary_store, source(photographs="file://nowhere"), base=base)
    assert b"udce9" in str(caught.value).encode()
