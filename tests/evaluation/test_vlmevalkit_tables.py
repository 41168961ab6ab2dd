from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.benchmark_tables import image, write_table
from unimrg_api.errors import UserError
from unimrg_api.plugins import load
from unimrg_trainer.evaluation.benchmarks.published import PUBLISHED
from unimrg_trainer.evaluation.vlmevalkit.compare import as_our_metrics
from unimrg_trainer.evaluation.vlmevalkit.prompts import choice_prompt, prompts_digest, yes_no_prompt
from unimrg_trainer.evaluation.vlmevalkit.tables import (
    MISSING,
    QuestionTable,
    as_read_back,
    file_md5,
    read_questions,
    read_scores,
    read_table,
    write_predictions,
)
from unimrg_trainer.models.registry import FAMILIES
from unimrg_trainer.models.requests import DEFAULT_STYLE, LETTER_ONLY, PromptStyle

ROW = {"index": 0, "image": image(1), "question": "What?", "A": "red", "B": "blue", "answer": "A"}


def read(path: Path, *, images_too: bool = True) -> QuestionTable:
    return read_questions(path, file_md5(path) if path.is_file() else "", images_too=images_too)


def test_options_that_pandas_takes_for_missing_vanish(tmp_path: Path) -> None:
    texts = ["None", "NA", "N/A", "null", "nan", "none", "Nothing"]
    rows = [{**ROW, "index": number, "A": text} for number, text in enumerate(texts)]
    table = read(write_table(tmp_path / "t.tsv", rows))
    assert [row.get("A") for row in table.rows] == [None, None, None, None, None, "none", "Nothing"]
    assert list(table.vanished) == ["0 A: None", "1 A: NA", "2 A: N/A", "3 A: null", "4 A: nan"]


def test_numbers_in_a_column_with_gaps_become_fractions(tmp_path: Path) -> None:
    rows = [{**ROW, "A": "4", "B": "1", "C": ""}, {**ROW, "index": 1, "A": "", "B": "2", "C": "x"}]
    table = read(write_table(tmp_path / "t.tsv", rows))
    assert choice_prompt(table.rows[0], DEFAULT_STYLE).splitlines()[2:4] == ["A. 4.0", "B. 1"]


def test_a_short_image_is_the_index_of_another_row(tmp_path: Path) -> None:
    rows = [{**ROW, "index": 7}, {**ROW, "index": 1_000_007, "image": "7"}, {**ROW, "index": 8, "image": image(2)}]
    table = read(write_table(tmp_path / "t.tsv", rows))
    shown = [table.image(row["index"]) for row in table.rows]
    assert shown[0].shape == (8, 8, 3) and shown[0].dtype == np.uint8
    assert (shown[0] == shown[1]).all() and (shown[0] != shown[2]).any()
    ids = [row["image_id"] for row in table.rows]
    assert ids[0] == ids[1] != ids[2]


def test_rows_without_an_image_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{**ROW}, {**ROW, "index": 1, "image": ""}, {**ROW, "index": 2}]
    table = read(write_table(tmp_path / "t.tsv", rows))
    assert [row["index"] for row in table.rows] == ["0", "2"]
    assert table.without_image == 1


def test_without_images_a_table_says_the_same_and_takes_little_memory(tmp_path: Path) -> None:
    rows = [
        ROW | {"index": number, "A": "None" if number else "a", "image": image(number) * 100} for number in range(3)
    ]
    rows.append({**ROW, "index": 3, "image": "1"})
    path = write_table(tmp_path / "t.tsv", rows)
    whole, bare = read(path), read(path, images_too=False)

    def without_ids(table: QuestionTable) -> list[dict[str, str]]:
        return [{name: text for name, text in row.items() if name != "image_id"} for row in table.rows]

    assert without_ids(bare) == without_ids(whole) and (bare.md5, bare.without_image) == (whole.md5, 0)
    assert bare.vanished == whole.vanished == ["1 A: None", "2 A: None"]
    assert [bare.images[index] == bare.images["1"] for index in "0123"] == [False, True, False, True]
    assert all(len(str(stored)) < 200 for stored in bare.images.values())


def test_images_may_be_files_beside_the_table(tmp_path: Path) -> None:
    import base64

    rows = [{**ROW, "image_path": "a.png"}, {**ROW, "index": 1, "image_path": "b.png"}]
    path = write_table(tmp_path / "t.tsv", [{k: v for k, v in row.items() if k != "image"} for row in rows])
    (tmp_path / "a.png").write_bytes(base64.b64decode(image(3)))
    with pytest.raises(UserError, match=r"1 images are missing, the first is .*b.png of row 1") as refused:
        read(path)
    assert refused.value.exit_code == 66
    (tmp_path / "b.png").write_bytes(b"no image")
    table = read(path)
    assert table.image("0")[1, 1].tolist() == [0, 0, 3]
    with pytest.raises(UserError, match="row 1 cannot be read") as refused:
        table.image("1")
    assert refused.value.exit_code == 65


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, ROW], "1 indices stand in several rows each, the first is 0"),
        ([{**ROW, "image": "['a', 'b']" + "c" * 64}], "row 0 has several images"),
        ([{**ROW, "image": "9"}], "the image of row 0 is '9', which is too short for an image, and there is no row"),
        ([{**ROW, "image": "0"}], "the image of row 0 is '0'"),
        ([{**ROW, "image": ""}], "no row has an image or image_path; the columns are A, B, answer, index, question"),
        ([{**ROW, "question": b"St\xfcck"}], "it is not UTF-8: invalid start byte at byte"),
        ([{**ROW, "answer": ""}], "row 0 has no answer; the columns are A, B, image, index, question"),
        ([], "it has no rows"),
    ],
)
def test_a_table_that_cannot_be_asked_is_refused(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    path = write_table(tmp_path / "t.tsv", rows) if rows else tmp_path / "t.tsv"
    if rows and isinstance(rows[0]["question"], bytes):
        path.write_bytes(path.read_bytes().replace(str(rows[0]["question"]).encode(), rows[0]["question"]))
    if not rows:
        path.write_text("index\tquestion\tanswer\n")
    with pytest.raises(UserError, match=message) as refused:
        read(path)
    assert refused.value.exit_code == 65


def test_a_broken_image_names_its_row(tmp_path: Path) -> None:
    table = read(write_table(tmp_path / "t.tsv", [{**ROW, "image": "A" * 100}]))
    with pytest.raises(UserError, match="the image of row 0 cannot be read"):
        table.image("0")
    several = [{**ROW, "index": number, "image": text * 100} for number, text in enumerate("AABC")]
    table = read(write_table(tmp_path / "several.tsv", [*several, {**ROW, "index": 4}]))
    with pytest.raises(UserError, match=r"the image of row 0 cannot be read: .*; so it is with 2 further images"):
        table.check_images(row["index"] for row in table.rows)
    table.check_images(["4"])


def test_prompts_are_worded_as_vlmevalkit_words_them() -> None:
    row = {"question": "Which?", "hint": "Look.", "A": "red", "C": "blue"}
    ending = "Please select the correct answer from the options above. \n"
    assert choice_prompt(row, DEFAULT_STYLE) == f"Hint: Look.\nQuestion: Which?\nOptions:\nA. red\nC. blue\n{ending}"
    bare = PromptStyle("bare", LETTER_ONLY, {"hallusionBench": " Please answer yes or no."}, labels=False)
    assert choice_prompt(row, bare) == f"Look.\nWhich?\nA. red\nC. blue\n{LETTER_ONLY}"
    assert yes_no_prompt(row, bare, "hallusionBench") == "Which? Please answer yes or no."
    assert yes_no_prompt(row, bare, "vsr") == yes_no_prompt(row, DEFAULT_STYLE, "hallusionBench") == "Which?"


SELECT = "Please select the correct answer from the options above. \n"


@pytest.mark.parametrize(
    ("family", "choice", "hallusion"),
    [
        ("harmon", f"Question: Which?\nOptions:\nA. red\nC. blue\n{SELECT}{LETTER_ONLY}", "Which?"),
        ("showo", f"Question: Which?\nOptions:\nA. red\nC. blue\n{SELECT}", "Which?"),
        (
            "openuni",
            f"Which?\nA. red\nC. blue\n{LETTER_ONLY}",
            "Which? Please answer yes or no. Answer the question using a single word or phrase.",
        ),
    ],
)
def test_each_family_is_asked_as_its_wrapper_asks(family: str, choice: str, hallusion: str) -> None:
    style = load("unimrg.families", FAMILIES, family, field="").prompt_style
    row = {"question": "Which?", "A": "red", "C": "blue"}
    assert choice_prompt(row, style) == choice
    assert yes_no_prompt(row, style, "hallusionBench") == hallusion
    assert yes_no_prompt(row, style, "vsr") == "Which?"


def test_the_digest_of_prompts_knows_text_and_not_order() -> None:
    first, second = ("1", "a"), ("2", "b")
    assert prompts_digest([first, second]) == prompts_digest([second, first])
    assert len({prompts_digest(each) for each in ([first, second], [("1", "b"), ("2", "a")], [first])}) == 3


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=6))
def test_predictions_are_read_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("predictions") / "p.tsv"
    texts = ["a word", *texts]  # of numbers alone pandas would make numbers, as for VLMEvalKit
    path.write_bytes(write_predictions([{"index": str(number)} for number in range(len(texts))], texts))
    assert [row.get("prediction", "nan") for row in read_table(path)] == [as_read_back(text) for text in texts]


@pytest.mark.parametrize("text", sorted(MISSING))
def test_a_missing_value_is_what_pandas_takes_for_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.tsv").write_bytes(write_predictions([{"index": "0"}, {"index": "1"}], [text, "word"]))
    assert [sorted(row) for row in read_table(tmp_path / "p.tsv")] == [["index"], ["index", "prediction"]]
    assert as_read_back(text) == "nan"


def test_predictions_of_vlmevalkit_are_read_from_json_too(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps([{"index": 3, "A": "red", "Hint": None, "prediction": "B"}]))
    assert read_table(tmp_path / "p.json") == [{"index": "3", "A": "red", "prediction": "B"}]


def test_result_tables_of_vlmevalkit_are_read_in_our_names(tmp_path: Path) -> None:
    def scores(name: str, text: str) -> dict[str, float]:
        (tmp_path / "s.csv").write_text(text)
        return as_our_metrics(PUBLISHED[name], read_scores(tmp_path / "s.csv"))

    assert scores("mmvp", '"Average","Overall"\n"0.5","0.25"\n') == {"acc_question": 50, "acc_pair": 25}
    assert scores("mmvp", '"split","Overall"\n"none","0.5"\n') == {"acc_question": 50}, "before 2025-12-20"
    assert scores("mmbench", '"split","Overall","CP"\n"dev","0.5","1.0"\n') == {
        "acc_circular": 50,
        "acc_circular/CP": 100,
    }
    assert scores("vsr", '"precision","recall","acc","f1_score"\n"75.0","50.0","60.0","0.6"\n')["f1"] == 60
    hallusion = '"split","aAcc","fAcc","qAcc"\n"Overall","60.0","50.0","40.0"\n"VD","30.0","20.0","10.0"\n'
    assert scores("hallusionBench", hallusion) == {
        "aacc": 60, "facc": 50, "qacc": 40, "aacc/VD": 30, "facc/VD": 20, "qacc/VD": 10,
    }  # fmt: skip
