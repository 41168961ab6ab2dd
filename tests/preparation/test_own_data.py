"""Data that exists becomes samples: folders, LLaVA's conversations, WebDataset's tars, in folders and in buckets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.dictionary_store import DictionaryStore
from tests.support.own_data import (
    Json,
    conversation,
    everything,
    grey,
    issues,
    manifests,
    picture,
    questions,
    run,
    shades,
    tar_of,
)
from tests.support.s3_stores import Place
from unimrg_api.errors import JobError, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.preparation.base import Source, SourcePlace
from unimrg_trainer.preparation.sources import beside
from unimrg_trainer.preparation.sources.folder import Folder
from unimrg_trainer.preparation.sources.llava import Llava, records_in
from unimrg_trainer.preparation.sources.web_dataset import WebDataset
from unimrg_trainer.sample import Wanted

RECORDS = [
    {
        "id": "a",
        "image": "coco/ä 1.png",
        "conversations": conversation("<image>\nWhat is it?", "Red.", "And?", "Flat."),
    },
    {"id": "t", "conversations": conversation("Say yes.", "Yes.")},
    {"id": "b", "image": "gqa/2.png", "conversations": conversation("Which colour?\n<image>", "Dark red.")},
    {"id": "a2", "image": "coco/ä 1.png", "conversations": conversation("<image>\nHow large?", "Small.")},
    {"id": "odd", "image": "gqa/2.png", "conversations": "none"},
    {"id": "gone", "image": "gqa/gone.png", "conversations": conversation("<image>\nWhere?", "Nowhere.")},
    {"id": "u", "conversations": conversation("Say no.", "No.")},
]


LLAVA = {
    "llava.json": json.dumps(RECORDS, ensure_ascii=False).encode(),
    "images/coco/ä 1.png": picture(200),
    "images/gqa/2.png": picture(90),
    "depth/coco/ä 1.png": grey(10),
    "depth/gqa/2.png": grey(20),
}


FOLDER = {
    "own/one.jpg": picture(100, "JPEG"),
    "own/one.txt": b"\xef\xbb\xbf A red picture. ",
    "own/one.depth.png": grey(7),
    "own/deep/two.png": picture(150),
    "own/deep/two.json": json.dumps(
        {"questions": [{"question": "Which?", "answer": "Red.", "kind": "colour"}]}
    ).encode(),
    "own/three.png": picture(30),
    "own/.hidden.png": b"never looked at",
    "own/notes.txt": b"of no image",
}


TARS = {
    "tars/part-00.tar": tar_of(
        {"one.jpg": FOLDER["own/one.jpg"], "one.txt": b"A red picture.", "one.depth.png": grey(7)}
    ),
    "tars/part-01.tar": tar_of({"d/two.json": FOLDER["own/deep/two.json"], "d/two.png": picture(150), "x.cls": b"3"})
    + b"",
    "tars/part-02.tar": tar_of({"three.png": picture(30)}),
}


Put = Callable[[dict[str, bytes]], str]


@pytest.fixture(params=["file", "s3"])
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Put:
    """Stores files, and returns the URI that their names count from."""

    def in_folder(files: dict[str, bytes]) -> str:
        for name, content in files.items():
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return "file://in"

    def in_bucket(files: dict[str, bytes]) -> str:
        place: Place = request.getfixturevalue("s3_place")
        request.getfixturevalue("monkeypatch").setenv("AWS_ENDPOINT_URL", place.storage.endpoint)
        store = place.store("in")
        for name, content in files.items():
            store.put(name, content)
        return store.uri

    return in_folder if request.param == "file" else in_bucket


@pytest.mark.parametrize("kind", ["folder", "webDataset", "webDataset by number"])
def test_images_come_with_what_lies_beside_them(
    put: Put, kind: str, dictionary_store: DictionaryStore, tmp_path: Path
) -> None:
    base = put({**FOLDER, **TARS})
    place = {"folder": "own", "webDataset": "tars", "webDataset by number": "tars/part-{00..02}.tar"}[kind]
    digest = run(
        dictionary_store, tmp_path, {kind.split()[0]: {"uri": f"{base}/{place}", "heldOut": 1, "licence": "CC0-1.0"}}
    )
    found = shades(dictionary_store, digest)
    one = next(sample for shade, sample in found.items() if 98 <= shade <= 102)
    assert one.caption == "A red picture." and (one.maps["depth"] == 7).all()
    assert found[30].caption is None and found[30].maps == {}
    assert questions(dictionary_store, digest) == [(True, "Which?", "Red.", {"kind": "colour"})]
    sizes = {split: manifest.samples for split, manifest in manifests(dictionary_store, digest).items()}
    provenance = manifests(dictionary_store, digest)["train"].provenance
    assert provenance["sources"] == [{kind.split()[0]: {"uri": f"{base}/{place}", "heldOut": 1, "licence": "CC0-1.0"}}]
    assert provenance["versions"]["numpy"] == np.__version__
    with_depth = sum(manifest.maps.get("depth", 0) for manifest in manifests(dictionary_store, digest).values())
    assert with_depth == sum("depth" in sample.maps for sample in everything(dictionary_store, digest).values()) > 0
    assert sizes["heldOut"] == 1 and sum(sizes.values()) == 3 + (kind != "folder") - len(
        issues(dictionary_store, digest)
    )


def test_images_whose_names_have_a_dot_are_images(dictionary_store: DictionaryStore, tmp_path: Path) -> None:
    names = ["photo.jpg", "photo.edited.jpg", "photo.1.png", "photo.depth.jpg", "photo.pixel.png"]
    (tmp_path / "own").mkdir()
    for number, name in enumerate(names):
        (tmp_path / "own" / name).write_bytes(picture(number * 40, "JPEG" if name.endswith("jpg") else "PNG"))
    (tmp_path / "own/photo.edited.segmentation.PNG").write_bytes(grey(9))
    digest = run(dictionary_store, tmp_path, {"folder": {"uri": "file://own", "heldOut": 1}})
    found = shades(dictionary_store, digest)
    assert len(found) == len(names) and issues(dictionary_store, digest) == {}
    assert [shade for shade, sample in found.items() if sample.maps.keys() == {"segmentation"}] == [40]


def test_only_what_a_sample_needs_is_read_of_a_tar(s3_place: Place, tmp_path: Path) -> None:
    store = s3_place.store("tars")
    store.put(
        "0.tar", tar_of({"a.mp4": bytes(1 << 17), "a.png": picture(1), "a.txt": b"A.", "a.npy": b"", "b.png": b""})
    )
    source = WebDataset({"uri": store.uri, "heldOut": 1}, SourcePlace("source", tmp_path, s3_place.storage))
    assert source.splits == {"train": 1, "heldOut": 1}
    with s3_place.counted() as reading:
        samples = [source.sample(split, 0) for split in source.splits]
    assert {sample.caption for sample in samples} == {"A.", None} and reading.methods == {"GET": 3}


def test_all_that_is_said_of_an_image_is_one_sample(
    put: Put, dictionary_store: DictionaryStore, tmp_path: Path
) -> None:
    base = put(LLAVA)
    source = {
        "annotations": f"{base}/llava.json",
        "images": f"{base}/images",
        "maps": {"depth": f"{base}/depth"},
        "heldOut": 1,
    }
    digest = run(dictionary_store, tmp_path, {"llava": source})
    assert run(dictionary_store, tmp_path, {"llava": source}) == digest
    asked = questions(dictionary_store, digest)
    further = {"further": [{"question": "And?", "answer": "Flat."}]}
    assert asked == sorted(
        [
            (True, "What is it?", "Red.", further),
            (True, "How large?", "Small.", {}),
            (True, "Which colour?", "Dark red.", {}),
            (False, "Say yes.", "Yes.", {}),
            (False, "Say no.", "No.", {}),
        ],
        key=str,
    )
    found = shades(dictionary_store, digest)
    assert set(found) == {200, 90} and (found[200].maps["depth"] == 10).all() and (found[90].maps["depth"] == 20).all()
    assert issues(dictionary_store, digest) == {
        "its image does not exist": (1, 1, ["gqa/gone.png"]),
        "a record has no conversation of questions and answers in UTF-8": (1, 0, ["gqa/2.png"]),
    }


def test_a_text_is_read_without_encodings(dictionary_store: DictionaryStore, tmp_path: Path) -> None:
    for name, content in LLAVA.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    source = {"annotations": "file://llava.json", "images": "file://images", "heldOut": 1}
    digest = run(dictionary_store, tmp_path, {"llava": source})
    data = Dataset.open(dictionary_store, "train", digest)
    texts = [
        data.question_sample(number, Wanted(image=False, encodings=("x",))) for number in list(data.questions)[-1:]
    ]
    assert [sample.encodings for sample in texts] == [{}] and len(data.images) < manifests(dictionary_store, digest)[
        "train"
    ].samples


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"folder": {"uri": "file://own", "heldOut": 3}}, "all of its 3 items would be held out"),
        ({"webDataset": {"uri": "file://own", "heldOut": 1}}, "there is no tar"),
        ({"webDataset": {"uri": "file://tars/part-{00..04}.tar", "heldOut": 1}}, "the first is part-03.tar"),
        (
            {"llava": {"annotations": "file://no.json", "images": "file://own", "heldOut": 1}},
            "annotations: there is no such file",
        ),
        ({"llava": {"annotations": "file://own/one.jpg", "images": "file://own", "heldOut": 1}}, "byte 0"),
        (
            {"llava": {"annotations": "file://other.json", "images": "file://own", "heldOut": 1}},
            "none of its 1 records has `conversations`",
        ),
        ({"llava": {"annotations": "file://cut.json", "images": "file://own", "heldOut": 1}}, "byte 322"),
    ],
)
def test_what_is_no_data_is_refused_with_its_field(
    source: Json, message: str, dictionary_store: DictionaryStore, tmp_path: Path
) -> None:
    wrong = {"cut.json": LLAVA["llava.json"][:400], "other.json": b'{"a": 1}'}
    for name, content in {**FOLDER, **TARS, **wrong}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(JobError, match=message) as caught:
        run(dictionary_store, tmp_path, source)
    assert caught.value.problems[0].path.startswith(f"spec.data.sources[0].{next(iter(source))}.")


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("lines", [False, True])
def test_records_are_found_where_they_lie(chunk: int, lines: bool, tmp_path: Path) -> None:
    one_each = "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS)
    file = tmp_path / "records"
    mark = "\ufeff" if chunk == 7 else ""
    file.write_text(mark + (one_each if lines else json.dumps(RECORDS, ensure_ascii=False, indent=1)))
    content = file.read_bytes()
    found = list(records_in(file, chunk))
    assert [json.loads(content[start:end]) for start, end, _ in found] == RECORDS
    assert [record.get("image") for _, _, record in found] == [record.get("image") for record in RECORDS]


def test_an_error_at_the_beginning_is_told_before_all_is_read(tmp_path: Path) -> None:
    with (tmp_path / "records").open("wb") as file:
        file.write(b'[{"id": 1}, {"id" 2}')
        file.truncate(8 << 30)  # no room is taken, and reading all of it would take that much memory
    with pytest.raises(ValueError, match="byte 12"):
        list(records_in(tmp_path / "records"))
    (tmp_path / "nested").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="byte 1: it is nested too deeply"):
        list(records_in(tmp_path / "nested"))


@pytest.mark.parametrize("kind", [Folder, WebDataset, Llava])
def test_another_version_of_a_source_makes_other_data(
    kind: type[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.tar").write_bytes(TARS["tars/part-00.tar"])
    here: Json = {"uri": "file://.", "annotations": "file://own.tar", "images": "file://.", "heldOut": 1}
    fields = ("annotations", "images", "heldOut") if kind is Llava else ("uri", "heldOut")
    source: Any = kind
    made = source({name: here[name] for name in fields}, SourcePlace("source", tmp_path))
    before = made.identity()
    monkeypatch.setattr(f"{kind.__module__}.VERSION", beside.VERSION + 1)
    assert made.identity() == {**before, "version": beside.VERSION + 1} != before


def test_an_image_that_changes_meanwhile_is_not_taken_in(
    put: Put, dictionary_store: DictionaryStore, tmp_path: Path
) -> None:
    base = put(FOLDER)

    class Changing(DictionaryStore):
        def list(self, prefix: str = "") -> list[tuple[str, int]]:
            put({"own/three.png": picture(31)})
            return super().list(prefix)

    with pytest.raises(UserError, match="changed since it was listed") as caught:
        run(Changing(), tmp_path, {"folder": {"uri": f"{base}/own", "heldOut": 1}})
    assert caught.value.exit_code is ExitCode.DATA_CORRUPT
