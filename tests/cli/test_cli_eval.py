"""`unimrg eval`: what it says of benchmarks' tables, and how it scores tables of replies."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

from tests.support.benchmark_tables import choice_rows, image, mmvp_rows, write_table, yes_no_rows
from tests.support.command_line import Unimrg
from unimrg_trainer.evaluation.vlmevalkit.tables import write_predictions


@pytest.fixture
def replies(tmp_path: Path) -> Path:
    """Replies to three pairs of MMVP: four of six right, one pair of three."""
    rows = mmvp_rows(random.Random(0), 3)
    given = [row["answer"] for row in rows]
    given[1] = given[4] = "I cannot tell from this."
    (tmp_path / "replies.tsv").write_bytes(write_predictions(rows, given))
    return tmp_path / "replies.tsv"


def test_doctor_tells_what_a_job_would_make_of_each_table(unimrg: Unimrg, tmp_path: Path) -> None:
    rows = [{**row, "image": image(int(row["index"])), "B": "None"} for row in mmvp_rows(random.Random(0), 2)]
    for row in rows:
        row["answer"] = "A"
    write_table(tmp_path / "MMVP.tsv", [*rows, {**rows[0], "index": "9", "image": ""}])
    own = [{**row, "image": image(1)} for row in yes_no_rows(random.Random(0), 3)]
    write_table(tmp_path / "own.tsv", own)
    ended = unimrg("eval", "doctor", tmp_path, "-o", "json", "--family", "harmon")
    ended.refused(65, "1 of 2 tables would be refused", "MMVP.tsv")
    mmvp, mine = json.loads(ended.out)
    assert mmvp["problem"].startswith("MD5 is not 8cb732b141a0cba5b42159df2839e557: fetch https://")
    assert (mmvp["rows"], mmvp["expectedRows"], mmvp["withoutImage"], mmvp["images"]) == (4, 300, 1, 4)
    assert mmvp["vanished"][0] == "1 B: None" and len(mmvp["vanished"]) == 5
    assert mmvp["prompt"].endswith("\nAnswer with the option's letter from the given choices directly.")
    assert mine["problem"] is None and mine["published"] is None and mine["benchmark"] == "tsv"
    assert mine["prompt"] == own[0]["question"] and sum(mine["answers"].values()) == 3


def test_doctor_shows_its_findings_to_a_person(unimrg: Unimrg, tmp_path: Path) -> None:
    rows = [{"index": 1, "image": image(1), "question": "How many?", "answer": "3"}]
    rows += [{**row, "index": int(row["index"]) + 2, "image": image(2)} for row in choice_rows(random.Random(0), 3)]
    write_table(tmp_path / "RealWorldQA.tsv", rows)
    ended = unimrg("eval", "doctor", tmp_path / "RealWorldQA.tsv")
    ended.refused(65, "1 of 1 tables would be refused")
    for message in (
        "not the published file",
        "4 (the published file: 765)",
        "rows without options: 1 (1)",
        "How many?",
    ):
        assert message in ended.out
    unimrg("eval", "doctor", tmp_path / "none").refused(66, "no table and no folder with one")


def test_doctor_looks_at_every_image_and_at_every_table(unimrg: Unimrg, tmp_path: Path) -> None:
    rows = [{**row, "image": image(int(row["index"]))} for row in choice_rows(random.Random(0), 3)]
    rows[2]["image"] = rows[2]["image"][:90]  # the end of the file is missing
    write_table(tmp_path / "cut.tsv", rows)
    write_table(tmp_path / "without.tsv", [{**row, "image": ""} for row in rows])
    (tmp_path / "folder.tsv").mkdir()
    ended = unimrg("eval", "doctor", tmp_path, "-o", "json")
    ended.refused(65, "2 of 2 tables would be refused")
    cut, without = json.loads(ended.out)
    assert cut["problem"].startswith(f"the image of row {rows[2]['index']} cannot be read")
    assert "no row has an image" in without["problem"]


def test_scores_of_a_table_of_replies(unimrg: Unimrg, replies: Path) -> None:
    ended = unimrg("eval", "score", replies, "--benchmark", "mmvp", "-o", "json")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["ruleSet"] == "vk-0.0.20"
    assert report["metrics"]["acc_question"] == pytest.approx(100 * 4 / 6)
    assert report["metrics"]["acc_pair"] == pytest.approx(100 / 3)
    shown = unimrg("eval", "score", replies, "-b", "mmvp").out
    for message in ("acc_question", "66.7", "33.3", "name no answer: 2 of 6", "the whole table has 300"):
        assert message in shown


def test_scores_are_compared_with_vlmevalkits(unimrg: Unimrg, replies: Path, tmp_path: Path) -> None:
    results = tmp_path / "replies_acc.csv"
    results.write_text(f'"Average","Overall"\n"{4 / 6}","{1 / 3}"\n')
    ended = unimrg("eval", "score", replies, "-b", "mmvp", "--against", results)
    assert ended.code == 0 and "All 2 scores equal VLMEvalKit's." in ended.out
    results.write_text(f'"Average","Overall"\n"{4 / 6}","0.5"\n')
    ended = unimrg("eval", "score", replies, "-b", "mmvp", "--against", results)
    ended.refused(65, "1 of 2 scores differ from VLMEvalKit's")
    assert "acc_pair  33.3333     50.0000" in ended.out


def test_what_cannot_be_scored_is_refused(
    unimrg: Unimrg, replies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unimrg("eval", "score", tmp_path / "none.tsv", "-b", "mmvp").refused(66, "there is no file")
    unimrg("eval", "score", replies, "-b", "hallusionBench").refused(
        65, "rows whose index lacks the six parts of HallusionBench, joined by `_`: 6"
    )
    odd = tmp_path / "odd.tsv"
    odd.write_bytes(write_predictions(mmvp_rows(random.Random(0), 1)[:1], ["A"]))
    unimrg("eval", "score", odd, "-b", "mmvp").refused(65, f"{odd}: rows that no second row of their pair follows")
    (tmp_path / "replies.parquet").write_bytes(b"PAR1")
    unimrg("eval", "score", tmp_path / "replies.parquet", "-b", "mmvp").refused(65, "replies.parquet: it has no rows")
    (tmp_path / "replies.json").write_text('{"index": {"0": 1}}')
    unimrg("eval", "score", tmp_path / "replies.json", "-b", "mmvp").refused(65, "it is no list of objects")
    (tmp_path / "replies.xlsx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    unimrg("eval", "score", tmp_path / "replies.xlsx", "-b", "mmvp").refused(64, "openpyxl", "PRED_FORMAT=tsv")
    write_table(tmp_path / "questions.tsv", mmvp_rows(random.Random(0), 1))
    unimrg("eval", "score", tmp_path / "questions.tsv", "-b", "mmvp").refused(65, "has no prediction")


def test_replies_of_a_run_are_written_for_vlmevalkit(unimrg: Unimrg, replies: Path, tmp_path: Path) -> None:
    place = tmp_path / "run" / "results" / "mmvp"
    place.mkdir(parents=True)
    (place / "predictions.tsv").write_bytes(replies.read_bytes())
    (tmp_path / "run" / "job.json").write_text("{}")
    out = tmp_path / "out" / "tiny_MMVP.tsv"
    ended = unimrg("eval", "export", tmp_path / "run", "-b", "mmvp", out)
    assert ended.code == 0 and out.read_bytes() == replies.read_bytes()
    unimrg("eval", "export", tmp_path / "run", "-b", "vsr", out).refused(66, "choose one of mmvp")
    unimrg("eval", "export", tmp_path / "run", "-b", "mmvp", tmp_path).refused(64, "cannot be written: Is a directory")
