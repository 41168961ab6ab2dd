"""GenEval, DPG-Bench and depth out of domain: what is asked, which files are written, what is scored, what is not."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.benchmark_subject import subject
from tests.support.geneval_records import records, save_records
from tests.support.tiny_judges import (
    Kept,
    PlantedAnswers,
    PlantedColours,
    PlantedDetector,
    save_blip,
    save_clip,
    settings_of,
)
from tests.support.tiny_producers import DEPTH, open_one, picture, save_depth_anything
from unimrg_api.errors import UserError
from unimrg_trainer.data.decode import decode_image, encode_png
from unimrg_trainer.evaluation.benchmarks.base import BenchmarkPlace, BenchmarkResult, NeedsFiles, ReducesImages
from unimrg_trainer.evaluation.benchmarks.registry import find_benchmark
from unimrg_trainer.evaluation.geneval import CLASSES, COLOURS, TAGS
from unimrg_trainer.maps.registry import find_map
from unimrg_trainer.models.requests import GenerateRequest
from unimrg_trainer.sample import Sample


def opened(name: str, base: Path, planted: dict[str, Any] | None = None, **settings: Any) -> Any:
    place = BenchmarkPlace(f"spec.stages.evaluate.benchmarks[0].{name}", base, None, base / "cache", base.as_uri())
    benchmark = find_benchmark(name, settings, place)
    assert isinstance(benchmark, NeedsFiles)
    for attribute, judge in (planted or {}).items():
        benchmark.__dict__[attribute] = judge
    return benchmark


def run(benchmark: Any, generate: Any) -> tuple[BenchmarkResult, dict[str, bytes]]:
    """Ask a model that makes `generate(item)` of each item, reduce its images, score them."""
    assert isinstance(benchmark, ReducesImages)
    items, files = benchmark.items(subject()), Kept()
    results = []
    for index in range(len(items)):
        item = items[index]
        reduced = benchmark.reduce(item, generate(item), subject(), files)
        results.append((items[index], json.loads(json.dumps(reduced))))
    return benchmark.score(results, seed=0), files.files


def drawn(record: dict[str, Any], wrong: bool) -> np.ndarray:
    """An image in which planted judges find the last of a record's objects, in its colour, or something else."""
    clause = record["include"][-1]
    image = np.full((8, 8, 3), 100, np.uint8)
    image[0, 0] = CLASSES.index(clause["class"]) ^ wrong, COLOURS.index(clause.get("color", "red")), 0
    return image


PLANTED = {"_detector": PlantedDetector(), "_colours": PlantedColours()}


def test_geneval_asks_each_prompt_with_noise_of_its_own(tmp_path: Path) -> None:
    save_records(tmp_path)
    items = opened("genEval", tmp_path, **settings_of(imagesPerPrompt=2)).items(subject())
    assert len(items) == 2 * 553
    requests = [items[index].request for index in range(len(items))]
    assert [request.prompt for request in requests[::2]] == [record["prompt"] for record in records()]
    assert all(isinstance(one, GenerateRequest) and one.image is None for one in requests)
    keys = {(one.seed, one.row) for one in requests}
    assert len(keys) == len(requests)
    more = opened("genEval", tmp_path, **settings_of(imagesPerPrompt=4, limit=40)).items(subject())
    assert len(more) == 40
    some = [more[index].request for index in range(40)]
    known = {one.prompt: (one.seed, one.row) for one in requests[::2]}
    assert all(known[one.prompt] == (one.seed, one.row) for one in some[::4]), "as in the whole benchmark"
    assert {record["tag"] for record in records() if record["prompt"] in {one.prompt for one in some}} == set(TAGS)


def test_geneval_writes_the_layout_that_its_scripts_read_and_scores_it(tmp_path: Path) -> None:
    save_records(tmp_path)
    listed = records()

    def generate(item: Any) -> np.ndarray:
        record = listed[item.attributes["prompt"]]
        return drawn(record, wrong=item.attributes["image"] == 1)

    result, files = run(opened("genEval", tmp_path, PLANTED, **settings_of(imagesPerPrompt=2)), generate)
    for number, record in enumerate(listed):
        assert json.loads(files[f"{number:05d}/metadata.jsonl"]) == record
    names = {name for name in files if name.startswith("00007/")}
    assert names == {"00007/metadata.jsonl", "00007/samples/0000.png", "00007/samples/0001.png"}
    np.testing.assert_array_equal(decode_image(files["00007/samples/0000.png"]), drawn(listed[7], wrong=False))
    # one object is there, so that prompts of two, of several and of a place fail; half of the images show another one
    halves = {"single_object": 50.0, "colors": 50.0}
    assert {tag: result.metrics[tag] for tag in TAGS} == {tag: halves.get(tag, 0.0) for tag in TAGS}
    assert result.metrics["overall"] == pytest.approx(100 / 6) and result.headline == ("overall",)
    assert result.metrics["correct_prompts"] == pytest.approx(100 * (80 + 94) / 553)
    content = (tmp_path / "geneval" / "evaluation_metadata.jsonl").read_bytes()
    assert result.provenance["data_md5"] == hashlib.md5(content).hexdigest()
    assert result.provenance["image_size"] == "8×8" and result.provenance["detector"] == "planted"
    assert not result.warnings
    check_items(result)
    lines = [json.loads(line) for line in result.files["results.jsonl"].splitlines()]
    assert len(lines) == 2 * 553 and set(lines[0]) == {
        "filename", "tag", "prompt", "correct", "reason", "metadata", "details",
    }  # fmt: skip
    assert json.loads(lines[0]["details"]) == {CLASSES[0]: [[4, 4, 8, 8, 0.95]]}


def check_items(result: BenchmarkResult) -> None:
    """Every metric that items have is 100 × their mean, or the mean of the categories' means."""
    assert len({one.item for one in result.items}) == len(result.items)
    for metric in {name for one in result.items for name in one.scores}:
        found = [(one.category, one.scores[metric]) for one in result.items if metric in one.scores]
        if metric in result.means_of_categories:
            groups = {name: [value for category, value in found if category == name] for name, _ in found}
            mean = float(np.mean([np.mean(values) for values in groups.values()]))
        else:
            mean = float(np.mean([value for _, value in found]))
        assert result.metrics[metric] == pytest.approx(100 * mean)


def test_geneval_counts_only_what_it_is_certain_of(tmp_path: Path) -> None:
    save_records(tmp_path)
    listed = records()
    benchmark = opened(
        "genEval", tmp_path, {**PLANTED, "_detector": PlantedDetector(score=0.3)}, **settings_of(limit=60)
    )
    result, _ = run(benchmark, lambda item: drawn(listed[item.attributes["prompt"]], wrong=False))
    assert result.metrics["overall"] == 0
    (warning,) = result.warnings
    assert "found nothing in 60 of 60 images" in warning


def test_geneval_without_a_detector_writes_images_and_says_so(tmp_path: Path) -> None:
    save_records(tmp_path)
    result, files = run(opened("genEval", tmp_path, **settings_of(limit=8)), lambda item: np.zeros((8, 8, 3), np.uint8))
    assert result.metrics == {"images": 8.0} and not result.items and not result.files
    assert result.warnings == ("8 images were written and not scored: genEval.detector names no weights",)
    assert Counter(name.rpartition(".")[2] for name in files) == {"png": 8, "jsonl": 2}
    assert {row[-1] for row in result.table.rows} == {"not scored"}


def test_geneval_without_a_judge_of_colours_scores_the_other_tags(tmp_path: Path) -> None:
    save_records(tmp_path)
    listed = records()
    benchmark = opened("genEval", tmp_path, {"_detector": PlantedDetector()}, **settings_of(imagesPerPrompt=1))
    result, _ = run(benchmark, lambda item: drawn(listed[item.attributes["prompt"]], wrong=False))
    assert set(result.metrics) == {"images", *TAGS} - {"colors", "color_attr"}
    assert result.metrics["single_object"] == 100
    assert result.warnings == ("194 images of prompts about colours were not scored: genEval.colours names no weights",)
    check_items(result)


def test_missing_and_other_files_are_told_with_where_they_come_from(tmp_path: Path) -> None:
    for name, origin in (("genEval", "djghosh13/geneval"), ("dpgBench", "TencentQQGYLab/ELLA")):
        with pytest.raises(UserError) as caught:
            opened(name, tmp_path, **settings_of()).check_files()
        assert caught.value.exit_code == 66 and origin in str(caught.value.remedy)
    save_records(tmp_path)
    path = tmp_path / "geneval" / "evaluation_metadata.jsonl"
    path.write_text(path.read_text().replace("a photo of", "In the sun,"))
    with pytest.raises(UserError, match="rewritten prompts are another benchmark") as caught:
        opened("genEval", tmp_path, **settings_of()).check_files()
    assert caught.value.exit_code == 65 and "djghosh13/geneval" in str(caught.value.remedy)
    save_table(tmp_path, 1064)
    with pytest.raises(UserError, match="it has 1064 prompts, not 1065"):
        opened("dpgBench", tmp_path, **settings_of()).check_files()


def test_the_check_opens_the_judges(tmp_path: Path) -> None:
    save_records(tmp_path)
    save_clip(tmp_path / "clip")
    opened("genEval", tmp_path, **settings_of(colours="file://clip")).check_files()
    with pytest.raises(UserError, match=r"genEval.detector: there is no config.json"):
        opened("genEval", tmp_path, **settings_of(detector="file://none", colours="file://clip")).check_files()


def save_table(folder: Path, prompts: int) -> None:
    """Write a dpg_bench.csv with two questions for each prompt, the second of which depends on the first."""
    path = folder / "dpg_bench" / "dpg_bench.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language"])
        for number in range(prompts):
            for key, dependency, name, question in (
                (1, "0", "entity - whole (cup)", "is there a cup"),
                (2, "1", "attribute - color (cup, red)", "is it red?"),
            ):
                writer.writerow([f"item{number}", f"A red cup, {number} times", key, dependency, name, question])


def shade(item: Any) -> np.ndarray:
    """Bright for even images."""
    return np.full((8, 8, 3), 200 if item.attributes["image"] % 2 == 0 else 50, np.uint8)


def test_dpg_bench_names_its_score_after_the_judge(tmp_path: Path) -> None:
    save_table(tmp_path, 1065)
    result, files = run(opened("dpgBench", tmp_path, {"_judge": PlantedAnswers()}, **settings_of(limit=80)), shade)
    assert len(files) == 80 and {"item0_0.png", "item0_3.png"} <= set(files)
    # two of four images are bright, where both answers are yes
    assert result.metrics == {
        "images": 80.0,
        "dpg_planted": 50.0,
        "unparsed_rate": 0.0,
        **{f"dpg_planted/{name}": 50.0 for name in ("entity", "entity - whole", "attribute", "attribute - color")},
    }
    assert result.headline == ("dpg_planted",) and result.provenance["judge"] == "planted"
    assert any("mPLUG" in warning for warning in result.warnings) and len(result.warnings) == 1
    assert len(result.items) == 20 and result.items[0].prediction == "item0_0.png"
    assert len(result.files["answers.jsonl"].splitlines()) == 80
    check_items(result)


def test_dpg_bench_repeats_the_references_defects_when_asked(tmp_path: Path) -> None:
    save_table(tmp_path, 1065)
    judge = PlantedAnswers()
    settings = settings_of(limit=80, referenceCompat=True)
    result, _ = run(opened("dpgBench", tmp_path, {"_judge": judge}, **settings), shade)
    # item0 has lost its first question, on which the second depends: it is dropped
    assert "1 prompts were dropped, as by the reference, e.g. item0" in result.warnings
    assert result.metrics["dpg_planted_reference"] == 50 and len(result.items) == 19
    assert result.provenance["rule_set"] == "dpg-reference"
    assert len(judge.asked) == 80 * 2 - 4, "each question about each image, less the lost one"
    assert {result.metrics[f"dpg_planted_reference/{name}"] for name in ("entity", "attribute")} == {0.0}, (
        "the last image"
    )


def test_dpg_bench_without_a_judge_writes_images_and_says_so(tmp_path: Path) -> None:
    save_table(tmp_path, 1065)
    result, files = run(opened("dpgBench", tmp_path, **settings_of(limit=8)), shade)
    assert result.metrics == {"images": 8.0} and len(files) == 8
    assert result.warnings == ("8 images were written and not scored: dpgBench.judge names no weights",)


def test_dpg_bench_with_a_real_judge_records_its_answers(tmp_path: Path) -> None:
    save_table(tmp_path, 1065)
    save_blip(tmp_path / "blip")
    result, _ = run(opened("dpgBench", tmp_path, **settings_of(limit=4, judge="file://blip")), shade)
    assert result.metrics["dpg_blip"] == 0 and result.metrics["unparsed_rate"] == 100
    assert result.provenance["judge"] == "blip" and len(result.provenance["judge_sha256"]) == 64


def depth_benchmark(base: Path, **settings: Any) -> Any:
    return opened("outOfDomainDepth", base, images="file://images", weights="file://depth", **settings)


def test_depth_out_of_domain_is_compared_with_the_producers_map(tmp_path: Path) -> None:
    save_depth_anything(tmp_path / "depth")
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.png").write_bytes(encode_png(picture(40, 40, number)))
    depth = find_map("depth")
    benchmark = depth_benchmark(tmp_path)
    benchmark.check_files()
    items = benchmark.items(subject(maps=[depth]))
    asked = [items[index] for index in range(len(items))]
    assert [(item.key, item.request.prompt) for item in asked] == [
        (f"{n}.png", depth.canonical_prompt) for n in range(4)
    ]
    np.testing.assert_array_equal(asked[2].request.image, picture(40, 40, 2))
    maps = open_one(DEPTH, tmp_path).produce([item.request.image for item in asked])
    truths = [depth.target(Sample("", maps={"depth": map}), 32) for map in maps]

    def scored(images: list[np.ndarray]) -> BenchmarkResult:
        files = Kept()
        reduced = [
            benchmark.reduce(item, image, subject(maps=[depth]), files)
            for item, image in zip(asked, images, strict=True)
        ]
        np.testing.assert_array_equal(decode_image(files.files["00003-truth.png"]), truths[3])
        np.testing.assert_array_equal(decode_image(files.files["00003-generated.png"]), images[3])
        return benchmark.score(zip(asked, json.loads(json.dumps(reduced)), strict=True), seed=0)

    perfect = scored(truths)
    assert perfect.metrics["depth/absrel"] == 0 and perfect.metrics["depth/rho"] == pytest.approx(1)
    assert perfect.metrics["depth/absrel_n"] == 4 and "depth/object_error" not in perfect.metrics
    shifted = scored([*truths[1:], truths[0]])
    assert shifted.metrics["depth/absrel"] > 0.01 and shifted.metrics["depth/rho"] < 0.99
    assert perfect.provenance == shifted.provenance and len(perfect.provenance["data_md5"]) == 32
    assert len(depth_benchmark(tmp_path, limit=2).items(subject(maps=[depth]))) == 2


def test_depth_out_of_domain_needs_images_weights_and_a_job_that_trains_depth(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(Exception, match="there is no image"):
        depth_benchmark(tmp_path).check_files()
    (tmp_path / "images" / "broken.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"outOfDomainDepth.weights: there is no config.json"):
        depth_benchmark(tmp_path).check_files()
    assert not depth_benchmark(tmp_path).items(subject(maps=[find_map("pixel")]))
    items = depth_benchmark(tmp_path).items(subject(maps=[find_map("depth")]))
    with pytest.raises(UserError, match=r"images: 'broken.png' .* is no image") as caught:
        items[0]
    assert caught.value.exit_code == 65
