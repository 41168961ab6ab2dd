"""The summary goes to disk and back, has lawful metric names, and prints without colour."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from tests.support.benchmark_subject import PLACE, subject
from tests.support.scene_records import SceneRecords
from unimrg_trainer.evaluation.benchmarks.base import BenchmarkResult, Item, ItemScore, Table
from unimrg_trainer.evaluation.benchmarks.generated_maps import GeneratedMaps
from unimrg_trainer.evaluation.benchmarks.spatial import Spatial
from unimrg_trainer.evaluation.held_out import compare
from unimrg_trainer.evaluation.image_use import compare_images
from unimrg_trainer.evaluation.summary import Summary, render
from unimrg_trainer.maps.registry import MAPS, find_map
from unimrg_trainer.models.requests import AnswerRequest

TOY = BenchmarkResult(
    {"acc": 66.7, "acc_low": 60.0, "side/n": 12.0},
    ("acc",),
    Table("toy questions, % [95 %]", ["kind", "right"], [["side", "50.0 [40.0, 60.0]"], ["all", "66.7 [60.0, 73.0]"]]),
)


def summary(**changes: object) -> Summary:
    fields: dict[str, object] = {
        "job": "quickstart",
        "uid": "0f3a",
        "model": "Harmon Tiny",
        "method": "UniMRG",
        "steps": 120,
        "seconds": 754.2,
        "finished": "2026-01-02T03:04:05Z",
        "processes": 2,
        "seeds": {"training": 42, "scenes": 7},
        "versions": {"torch": "2.13.0"},
        "held_out": compare(
            {"Understanding": [2.0, 2.2, 1.8], "Depth": [1.0, 1.1, 0.9]},
            {"Understanding": [1.0, 1.2, 0.7], "Depth": [0.8, 1.2, 0.9]},
            seed=0,
        ),
        "image_use": compare_images({"Depth": [0.8, 1.2, 0.9]}, {"Depth": [1.8, 2.4, 1.8]}, seed=0),
        "benchmarks": {"toy": TOY},
        "files": {"curves": "results/curves.png", "grid": "results/grid.png"},
    }
    return Summary.model_validate({**fields, **changes})


def printed(value: Summary, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render(value))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_summary_comes_back_from_its_json_unchanged() -> None:
    original = summary()
    text = original.to_json()
    assert Summary.from_json(text) == original
    assert Summary.from_json(text.encode()).to_json() == text
    assert text.endswith("}\n")
    plain = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert Summary.model_validate(plain) == original


def test_a_benchmark_that_was_not_asked_is_named_with_the_reason() -> None:
    assert "spatial: left out, for there is no data." in printed(summary(left_out={"spatial": "there is no data"}))


def test_intervals_that_do_not_exist_come_back_as_none() -> None:
    single = summary(held_out=compare({"Depth": [1.0]}, {"Depth": [0.5]}, seed=0))
    back = Summary.from_json(single.to_json())
    assert back.held_out["Depth"].interval is None
    assert "eval/heldout/depth/difference_low" not in back.metrics()
    assert "[unknown]" in printed(back)


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": float("nan")},
        {"benchmarks": {"toy": {"metrics": {"acc": float("inf")}, "headline": [], "table": vars(TOY.table)}}},
        {"surprise": 1},
        {"schema_version": 1},
    ],
)
def test_what_no_summary_holds_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        summary(**changes)


def test_metrics_carry_the_agreed_names_and_units() -> None:
    metrics = summary().metrics()
    names = ("eval/toy/acc", *(f"eval/heldout/{name}/relative_change" for name in ("understanding", "depth")))
    assert summary().headline() == {name: metrics[name] for name in names}
    assert (metrics["eval/toy/acc"], metrics["eval/toy/side/n"]) == (66.7, 12.0)
    assert metrics["eval/heldout/understanding/before"] == pytest.approx(2.0)
    assert metrics["eval/heldout/understanding/after"] == pytest.approx(2.9 / 3)
    assert metrics["eval/heldout/depth/other_image"] == pytest.approx(2.0)
    assert metrics["eval/heldout/depth/other_image_difference"] == pytest.approx(3.1 / 3)
    assert metrics["eval/heldout/depth/other_image_relative_change"] == pytest.approx(3.1 / 2.9)
    assert metrics["eval/heldout/understanding/relative_change"] == pytest.approx(2.9 / 6 - 1)
    assert all(re.fullmatch(r"[A-Za-z0-9_\-. :/]{1,250}", name) for name in metrics)
    assert all(isinstance(value, float) for value in metrics.values())


def test_every_table_is_printed_without_colour() -> None:
    text = printed(summary())
    for words in (
        "weights after 120 steps; training took 12m34s",
        "processes: 2",
        "Understanding",
        "-51.7 %",
        "66.7 [60.0, 73.0]",
    ):
        assert words in text
    depth, with_other_image = (line for line in text.splitlines() if "Depth" in line)
    assert depth.rstrip().endswith("unclear")
    assert "+106.9 %" in with_other_image and with_other_image.rstrip().endswith("higher")
    understanding = next(line for line in text.splitlines() if "Understanding" in line)
    assert understanding.rstrip().endswith("lower")
    assert "results/grid.png" in text
    assert "\x1b" not in text


def test_items_stay_out_of_the_summary_and_a_part_has_its_own_names() -> None:
    items = (ItemScore("7", "7", "", {"mean": 1.0}, prediction="three"),)
    part = replace(
        TOY, items=items, files={"table.tsv": b"a"}, limit=5, provenance={"data_md5": "d"}, warnings=("Odd.",)
    )
    text = summary(benchmarks={"toy": part}).to_json()
    read = Summary.from_json(text)
    assert "three" not in text and "table.tsv" not in text
    assert read.benchmarks["toy"] == replace(part, items=(), files={})
    ours = [name for name in [*read.metrics(), *read.headline()] if "/toy/" in name]
    assert ours and all(name.startswith("dev/toy/") for name in ours)
    assert "toy: Odd." in printed(read)


def generated_maps() -> BenchmarkResult:
    """Scores of outputs that are the true maps turned upside down."""
    data, maps = SceneRecords(8, size=32), {name: find_map(name) for name in MAPS}
    benchmark = GeneratedMaps({"images": 8}, PLACE)
    items = benchmark.items(subject(data, list(maps.values())))
    listed = [items[index] for index in range(len(items))]
    return benchmark.score(
        [(item, maps[item.attributes["map"]].target(item.truth, 32)[::-1]) for item in listed], seed=0
    )


def test_the_tables_fit_eighty_columns() -> None:
    truths = [("presence", "yes" if image % 2 else "no") for image in range(1500)] + [("colour", "red")] * 1500
    answers = [
        (Item(str(i), AnswerRequest(""), truth, {"kind": kind}), truth) for i, (kind, truth) in enumerate(truths)
    ]
    perfect = Spatial({"questions": 3000}, PLACE).score(answers, seed=0)
    rows = compare({"Understanding": [12.25, 12.5]}, {"Understanding": [0.25, 0.75]}, seed=0)
    use = compare_images({"Understanding": [0.25, 0.75]}, {"Understanding": [12.25, 12.5]}, seed=0)
    results = {"spatial": perfect, "generatedMaps": generated_maps()}
    lines = printed(summary(benchmarks=results, held_out=rows, image_use=use), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    assert any("100.0 [99.9, 100.0]" in line for line in lines)
