"""Our rules against VLMEvalKit's own code, ms-vlmeval 0.0.20, in an environment of its own (docs/development.md)."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.benchmark_tables import (
    TEXTS,
    choice_rows,
    hallusion_rows,
    mmbench_rows,
    mmvp_rows,
    noise,
    options,
    reply,
    write_table,
    yes_no_rows,
)
from unimrg_trainer.evaluation.benchmarks import hallusionbench, mmbench, mmvp, realworldqa, vsr
from unimrg_trainer.evaluation.benchmarks.tsv import TableRules, own_table, score_table
from unimrg_trainer.evaluation.vlmevalkit.choices import extract_choice
from unimrg_trainer.evaluation.vlmevalkit.compare import as_our_metrics
from unimrg_trainer.evaluation.vlmevalkit.prompts import choice_prompt
from unimrg_trainer.evaluation.vlmevalkit.tables import (
    file_md5,
    read_questions,
    read_scores,
    read_table,
    write_predictions,
)
from unimrg_trainer.evaluation.vlmevalkit.yes_no import extract_yes_no
from unimrg_trainer.models.requests import DEFAULT_STYLE, LETTER_ONLY, PromptStyle

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        "UNIMRG_VLMEVALKIT" not in os.environ,
        reason="UNIMRG_VLMEVALKIT names no Python with ms-vlmeval 0.0.20: docs/development.md says how to make one",
    ),
]
REPLIES = 20_000
TABLES = 60
RULE_SET = "vk-0.0.20"


def ask(folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    (folder / "request.json").write_text(json.dumps(request))
    program = Path(__file__).parent / "oracle" / "vlmevalkit.py"
    command = [os.environ["UNIMRG_VLMEVALKIT"], str(program), str(folder / "request.json"), str(folder / "answer.json")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    answer: dict[str, Any] = json.loads((folder / "answer.json").read_text())
    return answer


def test_choices_are_read_as_vlmevalkit_reads_them(tmp_path: Path) -> None:
    draw = random.Random(1)
    asked = [(reply(draw, shown), shown) for shown in (options(draw) for _ in range(REPLIES))]
    theirs = ask(tmp_path, {"choices": [{"reply": text, "options": shown} for text, shown in asked]})["choices"]
    ours = [extract_choice(text, shown, RULE_SET) for text, shown in asked]
    differences = [
        (text, shown, one, other) for (text, shown), one, other in zip(asked, ours, theirs, strict=True) if one != other
    ]
    assert not differences, differences[:3]
    assert len(set(theirs)) == 8, "every letter, a refusal and nothing must have come up"


def test_yes_and_no_are_read_as_vlmevalkit_reads_them(tmp_path: Path) -> None:
    draw = random.Random(2)
    asked = [reply(draw, {}) for _ in range(REPLIES)]
    theirs = ask(tmp_path, {"yes_no": asked})["yes_no"]
    differences = [(text, one) for text, one in zip(asked, theirs, strict=True) if extract_yes_no(text) != one]
    assert not differences, differences[:3]
    assert set(theirs) == {"Yes", "No", ""}


def in_groups(draw: random.Random, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**row, "category": draw.choice("xyz"), "l2-category": draw.choice(["u v", "w"])} for row in rows]


MAKERS = {
    own_table("MultipleChoice"): lambda draw: in_groups(draw, choice_rows(draw, draw.randint(1, 60))),
    own_table("YesNo"): lambda draw: in_groups(draw, yes_no_rows(draw, draw.randint(1, 60))),
    mmbench.RULES: lambda draw: mmbench_rows(draw, draw.randint(1, 40), complete=draw.random() < 0.5),
    mmvp.RULES: lambda draw: mmvp_rows(draw, draw.randint(1, 80)),
    hallusionbench.RULES: lambda draw: hallusion_rows(draw, draw.randint(2, 30)),
    realworldqa.RULES: lambda draw: choice_rows(draw, draw.randint(1, 200)),
    vsr.RULES: lambda draw: yes_no_rows(draw, draw.randint(1, 200)),
}


def replies_to(draw: random.Random, rules: TableRules, rows: Sequence[Mapping[str, str]]) -> list[str]:
    if draw.random() < 0.7:  # a model that knows something, else circular scores would all be 0
        made_up = {"YesNo": ["Yes", "No"]}.get(rules.kind)
        return [
            row["answer"] if draw.random() < 0.8 else draw.choice(made_up or ["A", "B", "", "None"]) for row in rows
        ]
    return [reply(draw, {name: text for name, text in row.items() if len(name) == 1}) for row in rows]


@pytest.mark.parametrize("rules", MAKERS, ids=lambda rules: f"{rules.name}-{rules.kind}")
def test_scores_of_our_prediction_tables_equal_vlmevalkits(tmp_path: Path, rules: TableRules) -> None:
    draw = random.Random(f"{rules.name} {rules.kind}")
    asked, ours = [], []
    for number in range(TABLES):
        rows = MAKERS[rules](draw)
        if not rows:
            continue
        draw.shuffle(rows)
        written = tmp_path / f"{number}-predictions.tsv"
        written.write_bytes(write_predictions(rows, replies_to(draw, rules, rows)))
        questions = write_table(tmp_path / f"{number}.tsv", rows)
        asked.append(
            {"benchmark": rules.name, "kind": rules.kind, "questions": str(questions), "predictions": str(written)}
        )
        read = read_table(written)
        predictions = [row.get("prediction", "") for row in read]
        ours.append(score_table(rules, read, predictions, RULE_SET, seed=0).metrics)
    compared = 0
    for found, metrics in zip(ask(tmp_path, {"tables": asked})["tables"], ours, strict=True):
        for path in found:
            for name, value in as_our_metrics(rules, read_scores(Path(path))).items():
                assert abs(metrics[name] - value) < 1e-12 * 100, (name, metrics[name], value)
                compared += 1
    assert compared >= TABLES


def test_prompts_and_reused_images_equal_vlmevalkits(tmp_path: Path) -> None:
    draw = random.Random(4)
    rows = []
    # InternVLChat asks Chinese questions in Chinese; we have no such table
    words = [*(text for text in TEXTS if "眼" not in text), "None", "NA", "0.50"]
    for number in range(300):
        shown = {
            letter: draw.choice(words if draw.random() < 0.02 else ["3", "4", ""])
            for letter in "ABCD"[: draw.randint(0, 4)]
        }
        hint = {"hint": draw.choice(["See “left”.", "a\tb", "two\nlines"])} if draw.random() < 0.3 else {}
        picture = noise(number) if number < 20 or draw.random() < 0.5 else str(draw.randrange(20))
        rows.append({"index": number, "image": picture if draw.random() < 0.95 or number < 20 else ""}
                    | {"question": f"What, {number}?", **hint, **shown, "answer": "A"})  # fmt: skip
    path = write_table(tmp_path / "questions.tsv", rows)
    theirs = ask(tmp_path, {"prompts": [str(path)]})["prompts"][0]
    table = read_questions(path, file_md5(path))
    internvl = PromptStyle("internvlchat", LETTER_ONLY, labels=False)
    assert {row["index"] for row in table.rows} == set(theirs)
    assert table.without_image == len(rows) - len(theirs) > 0
    whole_numbers: list[str] = []
    fractions: list[str] = []
    for row in table.rows:
        one = theirs[row["index"]]
        assert len(str(table.images[row["index"]])) == one["image"]
        whole_numbers += [text for text in row.values() if text in ("3", "4")]
        fractions += [text for text in row.values() if text in ("3.0", "4.0")]
        assert choice_prompt(row, DEFAULT_STYLE) == one["default"]
        if any(letter in row for letter in "ABCD"):
            assert choice_prompt(row, internvl) == one["internvl"]
    assert whole_numbers and fractions, "pandas must have cut the table into pieces with and without gaps"
