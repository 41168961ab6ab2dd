"""The page, CSV and Markdown of a report: all that is needed is in them, and they hold the same scores."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.support.evaluated_runs import DATE, curves, made_up_run, read
from unimrg_trainer.evaluation.reports.figures import step_figures
from unimrg_trainer.evaluation.reports.page import as_page
from unimrg_trainer.evaluation.reports.report import Report, make_report
from unimrg_trainer.evaluation.reports.text import as_csv, as_markdown


class Page(HTMLParser):
    """What a test asks about a page; raises for tags that are not closed in order."""

    VOID = ("meta", "img", "br", "line", "circle", "polygon", "polyline")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.children: dict[str, list[list[str]]] = {"svg": [], "table": []}
        self.text: list[str] = []
        self.feed(text)
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        for kind, found in self.children.items():
            if tag == kind:
                found.append([])
            elif kind in self.open:
                found[-1].append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A report with everything: seeds, an ablation, kept checkpoints, curves, pictures, two kinds of benchmarks."""
    few, tmp_path = ("mmvp", "vsr", "genEval"), tmp_path_factory.mktemp("runs")
    runs = [made_up_run(tmp_path / "base", initial=True, seed=0, benchmarks=few, pictures=True)]
    for seed in (1, 2):
        runs.append(
            made_up_run(tmp_path / f"s{seed}", seed=seed, skill=0.7, benchmarks=few, kept=(500,), pictures=seed == 1)
        )
        curves(runs[-1], "UniMRG", seed)
    objectives = {"Understanding": 1.0, "Pixel": 1.0}
    runs.append(made_up_run(tmp_path / "less", benchmarks=few, training={"objectives": objectives}))
    return make_report([read(run) for run in runs], date=DATE, left_out=["x<y> has no results"])


def test_the_page_needs_nothing_else_and_can_be_read_without_seeing(whole: Report) -> None:
    text = as_page(whole)
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    places = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert places and all(value and value.startswith(("data:image/jpeg;base64,", "#")) for value in places)
    assert not re.search(r"url\(|@import|https?://", text)
    assert page.children["svg"] and all(children[:2] == ["title", "desc"] for children in page.children["svg"])
    assert page.children["table"] and all("caption" in one and "th" in one for one in page.children["table"])
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.tags if tag == "th")
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert "Is the dog in picture 0 facing left & <right>?" not in text, "texts of items are escaped"
    assert any("facing left & <right>?" in part for part in page.text)
    assert "x&lt;y&gt; has no results" in text
    assert as_page(whole) == text


def test_the_page_draws_steps_losses_gains_and_both_skills(whole: Report) -> None:
    text = as_page(whole)
    titles = re.findall(r"<svg[^>]*><title>(.*?)</title>", text)
    assert "openuni L-512: understanding against generation" in titles
    assert {"MMVP by step", "Training loss of depth", "VSR: scores with intervals"} <= set(titles)
    assert "GenEval: gain of UniMRG over base by category" in titles
    numbers = re.findall(r'(?:[xy][12]?|points|c[xy])="([^"]*)"', text)
    assert numbers and all(np.isfinite(float(part)) for one in numbers for part in re.split("[ ,]", one))


def test_checkpoints_that_were_scored_in_another_way_are_not_drawn(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", benchmarks=("mmvp",), kept=(250, 500))
    earlier = run / "results/step-250/summary.json"
    earlier.write_text(earlier.read_text().replace('"rule_set": "', '"rule_set": "another '))
    (model,) = make_report([read(run)], date=DATE).models
    (figure,) = step_figures(model.main)
    assert figure.drawing.render().count('class="mark') == 2, "steps 500 and 1000"


def test_csv_and_markdown_hold_the_same_scores(whole: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(whole))))
    of_main = [row for row in rows if row["table"] == "main" and not row["category"] and not row["quoted"]]
    assert len(of_main) == 2 * 3
    (geneval,) = [row for row in of_main if row["benchmark"] == "genEval" and row["row"] == "UniMRG"]
    assert all(re.fullmatch(r"-?\d+\.\d\d", geneval[name]) for name in ("score", "sd", "low", "high", "difference_low"))
    assert geneval["seeds"] == "2" and geneval["n"] == "2212"
    assert {row["category"] for row in rows if row["benchmark"] == "genEval"} >= {"counting", "position"}
    assert "ablations of UniMRG" in {row["table"] for row in rows}
    line = next(line for line in as_markdown(whole).splitlines() if line.startswith("| UniMRG (2 seeds)"))
    assert f"{float(geneval['score']):.1f}" in line and "sd" in line


def test_runs_say_what_is_needed_to_repeat_them(whole: Report) -> None:
    markdown = as_markdown(whole)
    assert "rule_set: Vk0020; data_md5: 8cb732b141a0; prompt_sha256: 0f3a5b; judge: none" in markdown
    line = next(line for line in markdown.splitlines() if "/s2 |" in line)
    for part in ("| 2 |", "| checkpoint | 1000 |", f"| {2:064x}"[:14], "torch 2.13.0", "2026-11-30T10:00:00"):
        assert part in line
