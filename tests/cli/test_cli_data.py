"""`unimrg data`: what it prepares, shows and finds damaged, in folders and in a bucket."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.command_line import Unimrg
from tests.support.faulty_stores import flip
from tests.support.local_jobs import tiny_job
from tests.support.s3_stores import Place
from tests.support.written_shards import write_split
from unimrg_api.exit_codes import ExitCode
from unimrg_cli.data_preview import Shown, write_preview
from unimrg_trainer.data.publication import Publication, folder_of, publish
from unimrg_trainer.preparation.base import SourceSample
from unimrg_trainer.preparation.make import pack
from unimrg_trainer.scenes import generate
from unimrg_trainer.storage import LocalStore, ObjectStore

RED, DIGEST = np.full((40, 60, 3), (255, 0, 0), np.uint8), "d" * 64
SAMPLES = [
    SourceSample(
        RED, {"depth": np.zeros((40, 60), np.uint8)}, "a <b>red</b> wall", [{"question": "why?", "answer": "so"}]
    ),
    SourceSample(RED[:20], {}, None, [{"question": "what else?", "answer": "so"}, {"question": "?", "answer": "no"}]),
    SourceSample(RED, {}, "red"),
]


def write(store: ObjectStore, digest: str = DIGEST) -> None:
    """Publish the samples, two to a shard."""
    files = [pack(sample).members for sample in SAMPLES]
    manifest = write_split(store, folder_of(digest), "train", len(files), files.__getitem__, samples_per_shard=2)
    publish(store, Publication(digest=digest, prefix=folder_of(digest), manifests={"train": manifest}))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(LocalStore(tmp_path))
    return tmp_path


def shown(unimrg: Unimrg, *arguments: object) -> Any:
    ended = unimrg("data", *arguments, "-o", "json")
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def test_a_job_is_prepared_once_and_shown_by_its_file_or_its_folder(unimrg: Unimrg, tmp_path: Path) -> None:
    _, file = tiny_job(tmp_path)
    unimrg("data", "inspect", file).refused(ExitCode.INPUT_MISSING, "not prepared yet", "unimrg data prepare")
    made, found = (shown(unimrg, "prepare", file) for _ in range(2))
    assert (made["reused"], found["reused"]) == (False, True)
    (report,) = shown(unimrg, "inspect", file)
    splits = {one["split"]: (one["samples"], one["shards"], "depth.png" in one["members"]) for one in report["splits"]}
    assert splits == {"train": (4, 1, True), "heldOut": (2, 1, True)}
    assert [one["maps"] for one in report["splits"]] == [{"depth": n, "segmentation": n} for n in (4, 2)]
    assert [report] == shown(unimrg, "inspect", tmp_path / "data") == shown(unimrg, "inspect", made["uri"])
    assert made["uri"] in unimrg("data", "inspect", file).out
    assert not (tmp_path / "run").exists()  # nothing but data


def test_several_data_sets_are_listed_and_one_is_chosen_by_its_folder(unimrg: Unimrg, data: Path) -> None:
    other = "e" * 64
    write(LocalStore(data), other)
    assert [one["digest"] for one in shown(unimrg, "inspect", data)] == [DIGEST, other]
    assert [Path(one["uri"]).name for one in shown(unimrg, "stats", data)] == [folder_of(DIGEST), folder_of(other)]
    assert [one["samples"] for one in shown(unimrg, "stats", data / folder_of(other))] == [3]
    assert shown(unimrg, "preview", data, "--out", data / "both.html", "--samples", 2)["samples"] == [0, 1, 0, 1]


def _member(tar: Path, name: str) -> slice:
    with tarfile.open(tar) as archive:
        info = archive.getmember(name)
    return slice(info.offset_data, info.offset_data + info.size)


def _spoil_member(folder: Path) -> None:
    tar = folder / "train-000000.tar"
    content, place = tar.read_bytes(), _member(tar, "train-00000001.png")
    tar.write_bytes(content[: place.start] + flip(content[place]) + content[place.stop :])


def _spoil_header(folder: Path) -> None:
    tar = folder / "train-000001.tar"
    tar.write_bytes(flip(tar.read_bytes()[:1]) + tar.read_bytes()[1:])


def _cut(folder: Path) -> None:
    tar = folder / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[: _member(tar, "train-00000001.png").start])


def _spoil_index(folder: Path) -> None:
    index = folder / "train-000001.tar.idx"
    index.write_bytes(flip(index.read_bytes()))


@pytest.mark.parametrize(
    ("spoil", "samples", "text"),
    [
        (_spoil_member, ["train-00000001"], "png at offset"),
        (_spoil_header, [None], "train-000001.tar does not match its sha256"),
        (_cut, [None, "train-00000001"], "bytes"),
        (_spoil_index, [None], "train-000001.tar.idx does not match"),
        (lambda folder: (folder / "train-000001.tar").unlink(), [None], "does not exist"),
        (lambda folder: (folder / "train-000001.tar.idx").unlink(), [None], "does not exist"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), [None], "manifest.json"),
    ],
)
def test_verify_names_what_is_damaged(
    unimrg: Unimrg, data: Path, spoil: Callable[[Path], object], samples: list[str | None], text: str
) -> None:
    assert shown(unimrg, "verify", data) == [{"uri": f"{data.as_uri()}/{folder_of(DIGEST)}", "damaged": []}]
    spoil(data / folder_of(DIGEST) / "train")
    ended = unimrg("data", "verify", data, "-o", "json")
    ended.refused(ExitCode.DATA_CORRUPT, "damaged", "prepare it again")
    (found,) = json.loads(ended.out)
    assert [one["sample"] for one in found["damaged"]] == samples
    assert all(text in one["problem"] for one in found["damaged"][:1])
    assert text in unimrg("data", "verify", data, "--split", "train").out


def test_stats_count_what_the_samples_hold(unimrg: Unimrg, data: Path) -> None:
    (found,) = shown(unimrg, "stats", data)
    assert (found["samples"], found["questions"], found["examined"]) == (3, 3, 3)
    members = {one["name"]: (one["samples"], round(one["share"], 2)) for one in found["members"]}
    assert members == {"json": (3, 1.0), "png": (3, 1.0), "depth.png": (1, 0.33)}
    stored = sum(len(pack(sample).members["json"]) for sample in SAMPLES)
    assert next(one["bytes"] for one in found["members"] if one["name"] == "json") == stored
    assert found["sizes"] == [{"value": "60x40", "count": 2}, {"value": "60x20", "count": 1}]
    assert found["answers"] == [{"value": "so", "count": 2}, {"value": "no", "count": 1}]
    questions = {"count": 3, "minimum": 1, "median": 4, "percentile95": 4, "maximum": 10}
    assert found["texts"]["question"] == {"characters": questions, "tokens": None}
    assert shown(unimrg, "stats", data, "--samples", "1")[0]["texts"].keys() == {"caption", "question", "answer"}
    table = unimrg("data", "stats", data).out
    assert re.search(r"depth\.png +1 +33\.3%", table) and re.search(r"2 +60x40", table)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images with maps, captions and questions, of which one cannot be read."""
    place = tmp_path / "own"
    place.mkdir()
    for number in range(5):
        scene = generate(7, number, 32)
        for ending, pixels in (("", scene.image), (".depth", scene.depth), (".segmentation", scene.segmentation)):
            Image.fromarray(pixels).save(place / f"{number}{ending}.png")
        asked = [{"question": one.question, "answer": one.answer} for one in scene.questions]
        (place / f"{number}.json").write_text(json.dumps({"caption": scene.caption, "questions": asked}))
    (place / "3.png").write_bytes(b"no image")
    return place


def test_a_first_job_for_ones_own_images_prepares_them(unimrg: Unimrg, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    assert json.loads(unimrg("init", file, "--images", folder, "-o", "json").out)["notes"] == []
    assert '{uri: "file://own", heldOut: 1}' in file.read_text()
    assert unimrg("validate", file).code == 0
    unimrg("data", "prepare", file).refused(ExitCode.DATA_CORRUPT, "1 of 5 items cannot be used", "3.png")
    file.write_text(file.read_text().replace("  data:\n", '  data:\n    preparation: {maxBadFraction: "0.5"}\n'))
    shown(unimrg, "prepare", file, "-p", 2)
    (report,) = shown(unimrg, "inspect", file)
    splits = {one["split"]: one for one in report["splits"]}
    assert sum(one["images"] for one in splits.values()) == 4 and splits["heldOut"]["samples"] <= 1
    (left_out,) = (issue for one in splits.values() for issue in one["issues"].values())
    assert left_out == {"count": 1, "left_out": 1, "names": ["3.png"]}
    assert "3.png" in unimrg("data", "inspect", file).out
    for path in folder.glob("*.depth.png"):
        path.unlink()
    (note,) = json.loads(unimrg("init", file, "--images", folder, "--force", "-o", "json").out)["notes"]
    assert "NAME.depth.png" in note and "spec.data.maps" in note
    unimrg("init", file, "--images", tmp_path / "nowhere", "--force").refused(64, "nowhere is not a folder")


def test_images_annotations_and_tars_are_packed_without_a_job(unimrg: Unimrg, folder: Path, tmp_path: Path) -> None:
    unimrg("data", "pack", folder, "--out", tmp_path / "a").refused(ExitCode.INPUT_MISSING, "held out")
    shown(unimrg, "pack", folder, "--out", tmp_path / "bad", "--held-out", 1, "--max-bad-fraction", "0.2")
    for path in folder.glob("3.*"):
        path.unlink()
    folder = folder.rename(folder.with_name(os.fsdecode(b"own\xff")))
    packed = shown(unimrg, "pack", folder, "--out", tmp_path / "a", "--held-out", 1, "--licence", "CC0")
    (report,) = shown(unimrg, "inspect", packed["uri"])
    assert [(one["split"], one["samples"]) for one in report["splits"]] == [("train", 3), ("heldOut", 1)]
    turns = [{"from": who, "value": text} for who, text in (("human", "<image>\nWhat?"), ("gpt", "This."))] * 2
    records = [{"image": f"{number}.png", "conversations": turns} for number in (0, 1, 2)]
    (tmp_path / "mix.json").write_text(json.dumps([*records, {"conversations": turns}]))
    unimrg("data", "pack", tmp_path / "mix.json", "--out", tmp_path / "b").refused(64, "--images")
    shown(unimrg, "pack", tmp_path / "mix.json", "--images", folder, "--out", tmp_path / "b", "--held-out", 1)
    (report,) = shown(unimrg, "inspect", tmp_path / "b")
    assert sum(one["samples"] for one in report["splits"]) == 4
    assert sum(one["images"] for one in report["splits"]) == 3
    (found,) = shown(unimrg, "stats", tmp_path / "b", "--split", "train")
    assert found["texts"]["question"]["characters"]["count"] == 2 * found["questions"]  # of two turns each
    shown(unimrg, "preview", tmp_path / "b", "--out", tmp_path / "b.html")
    assert (tmp_path / "b.html").read_text().count("What?<br>→ This.") == 2 * found["questions"]
    tars = tmp_path / "tars"
    tars.mkdir()
    for number in range(2):
        with tarfile.open(tars / f"part-{number}.tar", "w") as tar:
            for path in sorted(folder.glob(f"[{2 * number}{2 * number + 1}].*")):
                tar.add(path, path.name)
    for source in (tars / "part-{0..1}.tar", tars):
        shown(unimrg, "pack", source, "--out", tmp_path / "c", "--held-out", 1)
        (report,) = shown(unimrg, "inspect", tmp_path / "c")
        assert sum(one["samples"] for one in report["splits"]) == 3
        assert "depth.png" in report["splits"][0]["members"]
        shutil.rmtree(tmp_path / "c")
    shutil.copy(folder / "0.png", tars)
    unimrg("data", "pack", tars, "--out", tmp_path / "c").refused(64, "part-0.tar and 0.png")


def test_stats_of_a_job_count_tokens(unimrg: Unimrg, tmp_path: Path) -> None:
    _, file = tiny_job(tmp_path)
    shown(unimrg, "prepare", file)
    answers = shown(unimrg, "stats", file)[0]["texts"]["answer"]
    assert answers["tokens"]["maximum"] == 1 < answers["characters"]["maximum"]  # the small tokenizer has these words


def test_a_preview_shows_images_maps_and_texts(unimrg: Unimrg, data: Path) -> None:
    page, picture = data / "page.html", data / "picture.png"
    assert shown(unimrg, "preview", data, "--out", page, "--number", 0)["samples"] == [0]
    text = page.read_text()
    assert all(part in text for part in ("a &lt;b&gt;red&lt;/b&gt; wall", "why?<br>→ so", "train-00000000"))
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in re.findall(r'base64,([^"]+)', text)]
    np.testing.assert_array_equal(images[0], RED)
    np.testing.assert_array_equal(images[1], np.zeros((40, 60), np.uint8))
    assert shown(unimrg, "preview", data, "--out", picture, "--samples", 2)["samples"] == [0, 1]
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert (pixels == (255, 0, 0)).all(axis=-1).sum() > 10_000


def test_names_of_maps_are_texts_in_a_preview(tmp_path: Path) -> None:
    write_preview(tmp_path / "p.html", [Shown(0, "k", "n", {"<script>": RED}, "", ())], "title")
    assert "<td>&lt;script&gt;<br>" in (tmp_path / "p.html").read_text()


def test_a_wrong_request_is_answered_with_what_to_do(unimrg: Unimrg, data: Path, tmp_path: Path) -> None:
    _, file = tiny_job(tmp_path, data__sources=None)
    for arguments, code, text in (
        (["inspect", data / "nowhere"], ExitCode.INPUT_MISSING, "neither a job's file nor a folder"),
        (["inspect", data / folder_of(DIGEST) / "train"], ExitCode.INPUT_MISSING, "no finished data set"),
        (["inspect", "ftp://data"], ExitCode.CONFIGURATION, "s3://BUCKET"),
        (["verify", data, "--split", "test"], ExitCode.INPUT_MISSING, "choose one of train"),
        (["stats", data, "--split", "test"], ExitCode.INPUT_MISSING, "choose one of train"),
        (["preview", data, "--out", "p.png", "--number", 3], ExitCode.CONFIGURATION, "0 to 2"),
        (["preview", data, "--out", "p.gif"], ExitCode.CONFIGURATION, "neither a PNG nor an HTML"),
        (["preview", data, "--out", "nowhere/p.png"], ExitCode.CONFIGURATION, "nowhere does not exist"),
        (["prepare", file], ExitCode.INPUT_MISSING, "spec.data.shards[0]"),
    ):
        unimrg("data", *arguments).refused(code, text)


def test_images_in_a_bucket_are_packed_and_verified_there(
    s3_place: Place, unimrg: Unimrg, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(s3_place.storage.endpoint))
    for path in (*folder.glob("0.*"), *folder.glob("1.*")):
        s3_place.store("own").put(path.name, path)
    store, uri = s3_place.store("data"), f"{s3_place.uri}/data"
    packed = shown(unimrg, "pack", f"{s3_place.uri}/own", "--out", uri, "--held-out", 1)
    (report,) = shown(unimrg, "inspect", uri)
    assert [(one["split"], one["samples"]) for one in report["splits"]] == [("train", 1), ("heldOut", 1)]
    assert shown(unimrg, "verify", uri)[0] == {"uri": packed["uri"], "damaged": []}
    key = f"{folder_of(packed['digest'])}/train/train-000000.tar"
    content = store.get(key)
    store.put(key, content[:520] + flip(content[520:521]) + content[521:])
    ended = unimrg("data", "verify", uri)
    ended.refused(ExitCode.DATA_CORRUPT, "damaged: 1 object, 1 sample")
    assert f"{uri}/{key}" in ended.out and "'train-00000000'" in ended.out
