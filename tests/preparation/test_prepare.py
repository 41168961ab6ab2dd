"""Preparing data: sources become splits, once per content, and every bad input is named before anything is written."""

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
from unimrg_api.fields import resolve_uri
from unimrg_api.spec_sources import SourceSpec
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.preparation import registry
from unimrg_trainer.preparation.base import SourcePlace, SourceSample
from unimrg_trainer.preparation.prepare import Prepared, prepare
from unimrg_trainer.storage import ObjectStore, open_store

EXAMPLES = Path(__file__).parents[2] / "examples" / "photographs"
Json = dict[str, Any]


def scenes_of(train: int = 4, seed: int = 1, size: int = 32) -> Json:
    return {"scenes": {"train": train, "heldOut": 2, "imageSize": size, "seed": seed}}


def images_of(uri: str = "file://images") -> Json:
    return {"images": {"uri": uri}}


def run(
    store: ObjectStore, *sources: Json, base: Path = Path("/"), progress: Callable[[int, int], None] = lambda *_: None
) -> Prepared:
    specs = [SourceSpec.model_validate(source) for source in sources or (scenes_of(),)]
    return prepare(specs, base, store, progress)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photographs."""
    shutil.copytree(EXAMPLES, tmp_path / "images")
    return tmp_path / "images"


def test_sources_become_splits_and_every_sample_is_counted(dictionary_store: DictionaryStore, folder: Path) -> None:
    reported: list[tuple[int, int]] = []
    prepared = run(
        dictionary_store,
        scenes_of(),
        images_of(),
        base=folder.parent,
        progress=lambda done, total: reported.append((done, total)),
    )
    assert not prepared.reused
    sizes = {
        split: (len(data.images), len(data.questions))
        for split in ("train", "heldOut", "preview")
        for data in [Dataset.open(dictionary_store, split, prepared.digest)]
    }
    assert sizes == {"train": (4, 16), "heldOut": (2, 8), "preview": (3, 0)}
    assert all(key.startswith(prepared.digest[:16] + "/") for key in dictionary_store.objects)
    assert reported == [(done, 9) for done in range(10)]


def test_preparing_twice_reuses_what_is_there(dictionary_store: DictionaryStore) -> None:
    first = run(dictionary_store)
    written = list(dictionary_store.writes)
    assert run(dictionary_store) == Prepared(first.digest, first.prefix, reused=True)
    assert dictionary_store.writes == written


def test_whatever_changes_the_content_changes_the_digest(folder: Path) -> None:
    def digest(*sources: Json) -> str:
        return run(DictionaryStore(), *sources, base=folder.parent).digest

    digests = [digest(source) for source in (scenes_of(), scenes_of(train=5), scenes_of(seed=2), scenes_of(size=33))]
    digests.append(digest(scenes_of(), images_of()))
    (folder / "cat.jpg").rename(folder / "zebra.jpg")
    digests.append(digest(scenes_of(), images_of()))
    shutil.copy(folder / "zebra.jpg", folder / "rocket.jpg")
    digests.append(digest(scenes_of(), images_of()))
    os.utime(folder / "rocket.jpg", ns=(1, 1))  # it may have been written anew
    digests.append(digest(scenes_of(), images_of()))
    digests.append(digest({"folder": {"uri": "file://images", "heldOut": 1}}))
    digests.append(digest({"folder": {"uri": "file://images", "heldOut": 2}}))
    assert len(set(digests)) == len(digests)
    moved = folder.rename(folder.parent / "elsewhere")
    assert digest({"folder": {"uri": moved.as_uri(), "heldOut": 2, "licence": "CC0"}}) == digests[-1]


def test_a_published_shard_that_lost_bytes_is_found_before_training(dictionary_store: DictionaryStore) -> None:
    run(dictionary_store)
    key = next(key for key in dictionary_store.objects if key.endswith("heldOut-000000.tar"))
    dictionary_store.objects[key] = dictionary_store.objects[key][:-1]
    with pytest.raises(UserError, match=r"heldOut-000000\.tar has \d+ instead of \d+ bytes") as caught:
        run(dictionary_store)
    assert caught.value.exit_code is ExitCode.DATA_CORRUPT


def refuse(self: Path) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder, patch: None, "does not exist"),
        (lambda folder, patch: folder.mkdir(), "there is no image"),
        (lambda folder, patch: folder.write_text("x"), "is not a folder"),
        (lambda folder, patch: folder.mkdir() or patch.setattr(os, "scandir", refuse), "read: Permission denied"),
    ],
)
def test_a_folder_without_images_is_refused_with_field_and_remedy(
    dictionary_store: DictionaryStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path, pytest.MonkeyPatch], None],
    message: str,
) -> None:
    make(tmp_path / "mine", monkeypatch)
    with pytest.raises(JobError, match=message) as caught:
        run(dictionary_store, scenes_of(), images_of("file://mine"), base=tmp_path)
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("spec.data.sources[1].images.uri", "'file://mine'")
    assert problem.remedy
    assert caught.value.exit_code is ExitCode.INPUT_MISSING
    assert dictionary_store.objects == {}


def test_images_are_kept_byte_for_byte_and_in_order(dictionary_store: DictionaryStore, folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "zebra.PNG"), pixels[:, :, ::-1])
    shutil.copy(folder / "zebra.PNG", folder / "misnamed.jpeg")
    (folder / ".hidden.png").write_text("no picture, and not looked at")
    (folder / "notes.txt").write_text("neither")
    prepared = run(dictionary_store, scenes_of(), images_of(), base=folder.parent)
    tar = next(value for key, value in dictionary_store.objects.items() if key.endswith("preview-000000.tar"))
    for name in ("cat.jpg", "coffee.jpg", "misnamed.jpeg", "rocket.jpg", "zebra.PNG"):
        assert (folder / name).read_bytes() in tar
    data = Dataset.open(dictionary_store, "preview", prepared.digest)
    assert len(data.images) == 5
    expected = np.asarray(Image.open(folder / "cat.jpg"))
    np.testing.assert_allclose(data.image_sample(0).image, expected, atol=3)  # two decoders of the same JPEG
    for number in (2, 4):
        np.testing.assert_array_equal(data.image_sample(number).image, pixels)


def test_an_image_that_changes_meanwhile_is_not_taken_in(dictionary_store: DictionaryStore, folder: Path) -> None:
    def swap(done: int, total: int) -> None:
        if done == 0:
            shutil.copy(folder / "cat.jpg", folder / "coffee.jpg")

    with pytest.raises(UserError, match=r"coffee\.jpg' changed") as caught:
        run(dictionary_store, scenes_of(), images_of(), base=folder.parent, progress=swap)
    assert caught.value.exit_code is ExitCode.DATA_CORRUPT
    assert not [key for key in dictionary_store.objects if key.endswith("PUBLISHED")]


@pytest.mark.parametrize("name", [b"caf\xe9.jpg", b"line\nbreak.jpg", b"100%?#'\".jpg", "ü.jpg".encode()])
def test_a_file_name_may_be_any_bytes(dictionary_store: DictionaryStore, folder: Path, name: bytes) -> None:
    file = (folder / "cat.jpg").rename(folder / os.fsdecode(name))
    prepared = run(dictionary_store, scenes_of(), images_of(), base=folder.parent)
    assert len(Dataset.open(dictionary_store, "preview", prepared.digest).images) == 3
    file.write_bytes(b"no image")
    with pytest.raises(UserError, match="it is no image") as caught:
        run(dictionary_store, scenes_of(), images_of(), base=folder.parent)
    shown = str(caught.value).encode()  # can be written to any file or terminal
    assert b"1 of 9 items cannot be used" in shown and b"\n" not in shown


def test_a_folder_whose_name_is_not_utf8_is_found(dictionary_store: DictionaryStore, folder: Path) -> None:
    base = folder.parent / os.fsdecode(b"caf\xe9 #1%3F")
    base.mkdir()
    folder.rename(base / "images")
    prepared = run(open_store(resolve_uri("file://data", base)), scenes_of(), images_of(), base=base)
    assert (base / "data" / prepared.prefix / "PUBLISHED").exists()
    with pytest.raises(JobError) as caught:
        run(dictionary_store, scenes_of(), images_of("file://nowhere"), base=base)
    assert b"udce9" in str(caught.value).encode()


class Stripes:
    """A source of a package: images to train on, with a map of its own."""

    splits: ClassVar[dict[str, int]] = {"train": 2}
    texts: ClassVar[dict[str, int]] = {}

    def __init__(self, settings: Mapping[str, Any], place: SourcePlace) -> None:
        self.width = settings["width"]

    def identity(self) -> Any:
        return self.width

    def sample(self, split: str, number: int) -> SourceSample:
        image = np.full((8, self.width, 3), number, np.uint8)
        question = {"question": "Which?", "answer": str(number), "hard": True}
        return SourceSample(image, {"normals": 255 - image}, questions=[question])


STRIPES = {"custom": {"name": "stripes", "settings": {"width": 5}}}
TEXT_FIRST = {0: SourceSample(caption="text alone"), 1: SourceSample(np.zeros((2, 2, 3), np.uint8))}
BAD_MAP = SourceSample(np.zeros((2, 2, 3), np.uint8), {"a.b": np.zeros((2, 2), np.uint8)})


def test_a_package_brings_a_source(dictionary_store: DictionaryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.SOURCES, "stripes", f"{__name__}:Stripes")
    digest = run(dictionary_store, scenes_of(), STRIPES).digest
    data = Dataset.open(dictionary_store, "train", digest)
    assert (len(data.images), len(data.questions)) == (4 + 2, 16 + 2)
    sample = data.question_sample(17)
    assert (sample.answer, sample.attributes) == ("1", {"hard": True})
    np.testing.assert_array_equal(sample.image, np.full((8, 5, 3), 1, np.uint8))
    np.testing.assert_array_equal(sample.maps["normals"], np.full((8, 5, 3), 254, np.uint8))


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("splits", {"test": 1}, "has a split 'test'"),
        ("sample", lambda *_: BAD_MAP, "map named 'a.b'"),
        (
            "sample",
            lambda self, split, number: TEXT_FIRST[number],
            "train-00000000 is text alone and stands before train-00000001",
        ),
    ],
)
def test_what_a_package_does_wrong_is_named(
    dictionary_store: DictionaryStore, monkeypatch: pytest.MonkeyPatch, attribute: str, value: Any, message: str
) -> None:
    monkeypatch.setitem(registry.SOURCES, "stripes", f"{__name__}:Stripes")
    monkeypatch.setattr(Stripes, attribute, value)
    with pytest.raises(UserError, match=message):
        run(dictionary_store, STRIPES)
