"""Scores of tables that are small enough to be counted by hand, and what no table may break."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.benchmark_tables import choice_rows, hallusion_rows, mmbench_rows, mmvp_rows, reply, yes_no_rows
from unimrg_api.errors import UserError
from unimrg_trainer.evaluation.benchmarks import hallusionbench, mmbench, mmvp, realworldqa, tsv, vsr
from unimrg_trainer.evaluation.benchmarks.tsv import TableRules, score_table
from unimrg_trainer.evaluation.result import BenchmarkResult
from unimrg_trainer.evaluation.vlmevalkit import choices, replies
from unimrg_trainer.evaluation.vlmevalkit.tables import Row

RULE_SET = "vk-0.0.20"


def scored(rules: TableRules, rows: Sequence[Row], predictions: Sequence[str]) -> BenchmarkResult:
    return score_table(rules, rows, predictions, RULE_SET, seed=0)


def close(result: BenchmarkResult, **metrics: float) -> None:
    for name, value in metrics.items():
        assert result.metrics[name] == pytest.approx(value, abs=1e-12), name


def question(index: int, answer: str, category: str = "identity", ability: str = "coarse_perception") -> dict[str, str]:
    texts = {"A": "a cat", "B": "a dog", "C": "a cow", "D": "a pig"}
    return {"index": str(index), "question": "What?", "answer": answer, **texts} | {
        "category": category,
        "l2-category": ability,
    }


def mmbench_of_three_questions() -> BenchmarkResult:
    """The first right in all rotations, the second always A, the third once without an answer."""
    turns = [(k * 1_000_000, answer) for k, answer in enumerate("ADCB")]
    rows = [
        question(q + turn, answer, f"c{q}", "logic_reasoning" if q else "") for q in (1, 2, 3) for turn, answer in turns
    ]
    rows = [{name: text for name, text in row.items() if text} for row in rows]
    given = [*"ADCB", *"AAAA", "A", "it depends", "C", "B"]
    return scored(mmbench.RULES, rows, given)


def check_mmbench() -> None:
    result = mmbench_of_three_questions()
    close(result, acc_circular=100 / 3, acc_vanilla_all=100 * 8 / 12, acc_vanilla_0=100, unparsed_rate=100 / 12, n=12)
    close(result, **{"acc_circular/c1": 100, "acc_circular/c2": 0, "acc_circular/LR": 100 / 3})
    assert [item.scores.keys() for item in result.items][3:5] == [{"acc_vanilla_all"}, {"acc_vanilla_all"}]
    assert {item.cluster for item in result.items} == {"1", "2", "3"}


def check_mmvp() -> None:
    rows = [
        {"index": str(index), "question": f"{(index - 1) // 2}?", "A": "open", "B": "closed", "answer": answer}
        for index, answer in enumerate("ABABAB", 1)
    ]
    result = scored(mmvp.RULES, rows, ["A", "B", "A", "A", "", "closed"])
    close(result, acc_question=100 * 4 / 6, acc_pair=100 / 3, empty_rate=100 / 6, unparsed_rate=100 / 6)
    assert [item.cluster for item in result.items] == ["1", "1", "3", "3", "5", "5"]


def check_hallusion() -> None:
    rows = [
        {"index": index, "question": "Is it?", "answer": answer, "category": index[:2], "l2-category": index[:6]}
        for index, answer in [
            ("VD_ill_1_0_0_0", "Yes"), ("VD_ill_1_0_0_1", "No"), ("VD_ill_1_0_1_0", "No"), ("VD_ill_1_0_1_1", "No"),
            ("VS_map_1_0_0_0", "Yes"), ("VS_map_1_0_1_0", "No"),
        ]
    ]  # fmt: skip
    result = scored(hallusionbench.RULES, rows, ["yes", "no", "yes", "No.", "Yes", "unclear"])
    close(result, aacc=100 * 4 / 6, facc=100 * 2 / 4, qacc=100 * 1 / 3, yes_rate=50, unparsed_rate=100 / 6)
    close(result, **{"aacc/VD": 75, "facc/VD": 50, "qacc/VD": 50, "aacc/VS": 50, "facc/VS": 50, "qacc/VS_map": 0})
    assert {item.cluster for item in result.items} == {"VD_ill/0", "VS_map/0"}


def check_vsr() -> None:
    """What is unknown counts as No for precision and recall, and as wrong in the accuracy."""
    rows = [
        {"index": str(number), "question": "Is it?", "answer": answer}
        for number, answer in enumerate(["Yes", "No", "No", "Yes"])
    ]
    close(scored(vsr.RULES, rows, ["Yes", "maybe", "No", "maybe"]), acc=50, precision=100, recall=50, f1=200 / 3)


def check_options() -> None:
    """The only wrong row is the first; texts and missing options count."""
    rows = [{"index": str(number), "question": "?", "answer": "B", "B": "left", "C": "right"} for number in range(4)]
    result = scored(realworldqa.RULES, rows, ["C", "A B", "to the left", "B"])
    close(result, acc=75, unparsed_rate=0)
    nothing = scored(realworldqa.RULES, rows[:2], ["Cannot determine the answer B", "B, and a long way down the road"])
    close(nothing, acc=0, unparsed_rate=100)


GOLDEN = [check_mmbench, check_mmvp, check_hallusion, check_vsr, check_options]


@pytest.mark.parametrize("check", GOLDEN)
def test_a_table_counted_by_hand_scores_what_was_counted(check: Callable[[], None]) -> None:
    check()


def _first_left_out(*arguments: Any) -> Any:
    return replies.read_replies(*arguments)[1:]


def _pairs_for_questions(given: Sequence[replies.Reply]) -> Any:
    pairs = mmvp.contributions(given)
    return {
        index: {"acc_pair": one["acc_question"], "acc_question": one.get("acc_pair", 0.0)}
        for index, one in pairs.items()
    }


def _first_option_if_unclear(*arguments: Any) -> str:
    return choices.extract_choice(*arguments) or "A"


def _all_letters(row: Row) -> dict[str, str]:
    return {letter: row.get(letter, "nan") for letter in "ABCD"}


DEFECTS: dict[str, tuple[Any, str, Any]] = {
    "the first row is left out": (tsv, "read_replies", _first_left_out),
    "pairs and questions are mixed up": (mmvp, "RULES", replace(mmvp.RULES, contributions=_pairs_for_questions)),
    "unknown counts as No in the accuracy": (replies, "extract_yes_no", lambda text: "Yes" if "yes" in text else "No"),
    "a refusal is no refusal": (choices, "REFUSALS", ()),
    "a letter counts anywhere": (choices, "TAIL", 1000),
    "missing options are options": (replies, "options", _all_letters),
    "an unparsed reply is the first option": (replies, "extract_choice", _first_option_if_unclear),
    "any rotation is a question": (mmbench, "ROTATION", 10**9),
    "figures and questions change places": (hallusionbench, "QUESTION", 4),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_changes_a_counted_score(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, broken = DEFECTS[defect]
    monkeypatch.setattr(module, name, broken)
    noticed = 0
    for check in GOLDEN:
        try:
            check()
        except (AssertionError, UserError, ValueError, KeyError):
            noticed += 1
    assert noticed


MAKERS: dict[str, tuple[TableRules, Callable[[random.Random], list[dict[str, str]]]]] = {
    "mmbench": (mmbench.RULES, lambda draw: mmbench_rows(draw, draw.randint(1, 8), complete=False)),
    "mmvp": (mmvp.RULES, lambda draw: mmvp_rows(draw, draw.randint(1, 10))),
    "hallusionBench": (hallusionbench.RULES, lambda draw: hallusion_rows(draw, draw.randint(3, 6))),
    "realWorldQa": (realworldqa.RULES, lambda draw: choice_rows(draw, draw.randint(1, 20))),
    "vsr": (vsr.RULES, lambda draw: yes_no_rows(draw, draw.randint(1, 20))),
}
SMALLER = [("acc_circular", "acc_vanilla_0"), ("acc_pair", "acc_question")]


@pytest.mark.parametrize("name", MAKERS)
@given(seed=st.integers(0, 10**6))
def test_scores_do_not_depend_on_the_order_of_rows(name: str, seed: int) -> None:
    draw = random.Random(seed)
    rules, make = MAKERS[name]
    rows = make(draw)
    given = [reply(draw, {k: v for k, v in row.items() if len(k) == 1}) for row in rows]
    result = scored(rules, rows, given)
    order = draw.sample(range(len(rows)), len(rows))
    again = scored(rules, [rows[i] for i in order], [given[i] for i in order])
    assert (again.metrics, again.items, again.table) == (result.metrics, result.items, result.table)
    for small, large in SMALLER:
        assert result.metrics.get(small, 0) <= result.metrics.get(large, 100) + 1e-9
    for metric, value in tsv.means(result.items).items():
        assert result.metrics[metric] == value and 0 <= value <= 100


def test_scores_are_those_of_the_table_and_never_of_an_earlier_one() -> None:
    rows = yes_no_rows(random.Random(0), 10)
    right = [row["answer"] for row in rows]
    wrong = ["No" if answer == "Yes" else "Yes" for answer in right]
    assert [scored(vsr.RULES, rows, given).metrics["acc"] for given in (right, wrong, right)] == [100, 0, 100]


@pytest.mark.parametrize(
    ("rules", "rows", "message"),
    [
        (mmvp.RULES, mmvp_rows(random.Random(0), 2)[:3], r"no second row of their pair follows.*: 1 \(3\)"),
        (mmvp.RULES, mmvp_rows(random.Random(0), 2)[1:3], r"no second row .*: 1 \(2\)"),
        (mmbench.RULES, [question(1_000_003, "A")], r"rotations of missing ones.*: 1 \(1000003\)"),
        (mmbench.RULES, [{**question(1, "A"), "index": "one"}], r"whose index is no number: 1 \(one\)"),
        (hallusionbench.RULES, [{"index": "VD_1_0", "answer": "Yes"}], r"lacks the six parts.*: 1 \(VD_1_0\)"),
        (vsr.RULES, [], "has no rows"),
    ],
)
def test_rows_that_cannot_be_scored_are_named(rules: TableRules, rows: list[Row], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        scored(rules, rows, ["A"] * len(rows))
    assert refused.value.exit_code == 65


@pytest.mark.parametrize(
    ("rules", "rows", "given", "message"),
    [
        (realworldqa.RULES, [{"index": "4", "answer": "yes"}], ["yes"], "Rows without options: 1 (4); no reply"),
        (realworldqa.RULES, [{"index": "4", "answer": "C", "A": "x"}], ["C"], "that is none of their options: 1 (4)"),
        (vsr.RULES, [{"index": "4", "answer": "yes"}], ["yes"], "other than Yes or No (capitals count): 1 (4)"),
        (mmbench.RULES, [question(1, "A"), question(2_000_001, "C")], ["A", "C"], "fewer rotations than options: 1;"),
        (mmbench.RULES, [question(1, "A"), question(1_000_002, "B")], ["A", "B"], "without their unrotated row: 1;"),
        (vsr.RULES, yes_no_rows(random.Random(0), 10), ["Yes"] * 9 + ["well"], "name no answer: 1 of 10"),
        (vsr.RULES, yes_no_rows(random.Random(0), 10), ["Yes"] * 9 + [" "], "Empty replies: 1 of 10"),
        (vsr.RULES, yes_no_rows(random.Random(0), 10), ["No"] * 10, "Scored are 10 rows; the whole table has 1222"),
        (vsr.RULES, [{"index": str(i), "answer": "Yes" if i else "No"} for i in range(9)], ["No"] * 9,
         "The answer No: given 9 times in 9 replies, and right 1 times"),
    ],
)  # fmt: skip
def test_what_makes_a_score_doubtful_is_reported(
    rules: TableRules, rows: list[Row], given: list[str], message: str
) -> None:
    result = scored(rules, rows, given)
    assert any(message in warning for warning in result.warnings)
    assert "1 (4)" not in message or result.metrics["acc"] == 0


def test_which_answers_were_given_is_a_file() -> None:
    rows = [{"index": str(i), "answer": answer, "A": "x", "B": "y"} for i, answer in enumerate("AAB")]
    result = scored(realworldqa.RULES, rows, ["A", "neither", "A"])
    assert result.files["answers.tsv"].decode() == "answer\tgiven\tright\nnone\t1\t0\nA\t2\t2\nB\t0\t1\n"
