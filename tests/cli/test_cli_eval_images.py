"""`unimrg eval judge`: images in the layouts of the benchmarks, with what does not belong there passed over."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.command_line import Unimrg
from tests.support.tiny_judges import save_blip, save_mask2former
from tests.support.tiny_producers import picture
from unimrg_trainer.data.decode import encode_png

RECORD = {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat", "pid": 7}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two prompts with two images each in GenEval's layout, and other things beside them."""
    folder = tmp_path / "images"
    for name in ("00000", "00010", "notes"):
        (folder / name / "samples").mkdir(parents=True)
        (folder / name / "metadata.jsonl").write_text(json.dumps(RECORD))
        for image in ("0000.png", "1.png", "grid.png", "0002.jpg"):
            (folder / name / "samples" / image).write_bytes(encode_png(picture(40, 40, len(image))))
    (folder / "overview.png").write_bytes(b"")
    return folder


def test_images_in_genevals_layout_are_judged(unimrg: Unimrg, images: Path, tmp_path: Path) -> None:
    save_mask2former(tmp_path / "detector")
    out = tmp_path / "out"
    ended = unimrg("eval", "judge", images, "--detector", (tmp_path / "detector").as_uri(), "--out", out, "-o", "json")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["images"] == 4 and report["metrics"]["single_object"] == 0 and "overall" not in report["metrics"]
    assert report["provenance"]["image_size"] == "40×40" and report["provenance"]["images_per_prompt"] == "2"
    assert "there are images of 2 prompts, not of 553" in report["warnings"]
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["filename"] for line in lines] == [
        f"{prompt}/samples/{image}.png" for prompt in ("00000", "00010") for image in ("0000", "1")
    ]
    assert json.loads(lines[0]["metadata"]) == RECORD and lines[0]["correct"] is False


def test_without_a_detector_it_says_what_it_did_not_score(unimrg: Unimrg, images: Path) -> None:
    ended = unimrg("eval", "judge", images)
    assert ended.code == 0 and "not scored" in ended.out and "genEval.detector names no weights" in ended.out


def test_what_cannot_be_judged_is_told(unimrg: Unimrg, images: Path, tmp_path: Path) -> None:
    unimrg("eval", "judge", tmp_path / "none").refused(66, "there is no folder")
    unimrg("eval", "judge", tmp_path).refused(66, "no image in the layout of genEval")
    unimrg("eval", "judge", images, "--detector", "file:///nowhere").refused(
        66, "genEval.detector: there is no config.json"
    )
    unimrg("eval", "judge", images, "-b", "dpgBench").refused(66, "dpg_bench/dpg_bench.csv")
    (images / "00010" / "samples" / "1.png").write_bytes(b"half")
    unimrg("eval", "judge", images).refused(65, "1.png is no image")
    (images / "00010" / "metadata.jsonl").write_text("{}")
    unimrg("eval", "judge", images).refused(65, "00010", "is no record of GenEval: KeyError")


def test_images_of_dpg_bench_are_judged_and_missing_ones_counted(unimrg: Unimrg, tmp_path: Path) -> None:
    (tmp_path / "dpg_bench").mkdir()
    with (tmp_path / "dpg_bench" / "dpg_bench.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language"])
        writer.writerows([f"item_{n}", "A cup.", 1, "0", "entity - whole (cup)", "is it a cup?"] for n in range(1065))
    save_blip(tmp_path / "blip")
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("item_3_0", "item_3_1", "item_3", "other_0"):
        (folder / f"{name}.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    judged_by = ("--judge", (tmp_path / "blip").as_uri(), "--files", tmp_path.as_uri())
    ended = unimrg("eval", "judge", folder, "-b", "dpgBench", *judged_by, "--images-per-prompt", "2", "-o", "json")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["images"] == 2 and report["metrics"]["dpg_blip"] == 0 and report["provenance"]["judge"] == "blip"
    assert "2128 images are missing" in report["warnings"]
