"""The spatial scorer against a table computed by hand, and against broken copies of itself."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.support.benchmark_subject import PLACE, subject
from tests.support.scene_records import SceneRecords
from unimrg_trainer.evaluation.benchmarks import spatial
from unimrg_trainer.evaluation.benchmarks.base import Item
from unimrg_trainer.evaluation.benchmarks.spatial import Answered, normalise, score
from unimrg_trainer.models.requests import AnswerRequest

ROWS = [
    # image, kind of question, truth, what the model wrote
    Answered("a", "side", "left", "Left."),
    Answered("a", "side", "left", "\n  LEFT \nbecause it is"),
    Answered("b", "side", "left", "right"),
    Answered("b", "side", "right", "right"),
    Answered("c", "side", "right", "the right"),  # not an answer: unparsed
    Answered("a", "presence", "yes", "yes!"),
    Answered("b", "presence", "no", "no"),
    Answered("c", "presence", "no", "yes"),
    Answered("c", "presence", "no", ""),  # unparsed
]


def test_the_scores_are_those_computed_by_hand() -> None:
    scores = score(ROWS, seed=0)
    side, presence, overall = scores["side"], scores["presence"], scores["all"]
    assert (side.n, side.correct, side.unparsed) == (5, 3, 1)
    assert (presence.n, presence.correct, presence.unparsed) == (4, 2, 1)
    assert (overall.n, overall.correct, overall.unparsed) == (9, 5, 2)
    assert (side.majority_correct, presence.majority_correct) == (3, 3)
    # Overall each kind has its own constant answer: 3 + 3, not the 3 that one word could get.
    assert overall.majority_correct == 6
    assert overall.difference == pytest.approx(-1 / 9)
    assert overall.p_value == 1.0  # two questions won, three lost
    assert overall.difference_interval is not None and not overall.difference_interval.excludes(0.0)
    assert overall.interval.low == pytest.approx(0.2667, abs=1e-4)
    assert overall.interval.high == pytest.approx(0.8112, abs=1e-4)


def test_neither_order_nor_names_of_images_change_anything() -> None:
    expected = score(ROWS, seed=3)
    for seed in range(5):
        shuffled = random.Random(seed).sample(ROWS, len(ROWS))
        assert score(shuffled, seed=3) == expected
    renamed = [replace(row, image={"a": "z9", "b": "m", "c": "0"}[row.image]) for row in ROWS]
    assert score(renamed, seed=3) == expected


@pytest.mark.parametrize("word", ["left", "right", "yes", "no"])
def test_no_constant_answer_beats_the_majority(word: str) -> None:
    scores = score([replace(row, answer=word) for row in ROWS], seed=0)
    assert all(one.difference <= 0 for one in scores.values())


def test_questions_about_one_image_give_no_interval_of_the_difference() -> None:
    assert score([replace(row, image="a") for row in ROWS], seed=0)["all"].difference_interval is None


def test_a_question_with_an_empty_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="empty answer"):
        score([Answered("a", "side", " . ", "left")], seed=0)


def test_the_benchmark_asks_the_first_questions_with_their_images() -> None:
    data = SceneRecords(8)
    items = spatial.Spatial({"questions": 5}, PLACE).items(subject(data))
    assert len(items) == 5 and not spatial.Spatial({"questions": 5}, PLACE).items(subject())
    assert len(spatial.Spatial({"questions": 10_000}, PLACE).items(subject(data))) == len(data.questions)
    for number in range(5):
        sample, item = data.question_sample(number), items[number]
        assert (item.key, item.truth, item.request.prompt) == (sample.key, sample.answer, sample.question)
        assert isinstance(item.request, AnswerRequest) and item.request.image is sample.image


def test_metrics_are_percentages_of_all_and_of_each_kind() -> None:
    items = [Item(row.image, AnswerRequest("?"), row.truth, {"kind": row.kind}) for row in ROWS]
    results = zip(items, [row.answer for row in ROWS], strict=True)
    result = spatial.Spatial({"questions": 9}, PLACE).score(results, seed=0)
    assert result.metrics["acc"] == pytest.approx(100 * 5 / 9)
    assert result.metrics["unparsed_rate"] == pytest.approx(100 * 2 / 9)
    assert result.metrics["side/n"] == 5.0 and result.metrics["presence/majority_acc"] == 75.0
    assert result.table.rows[-1][:2] == ["all", "9"] and len(result.table.rows) == 3
    assert sum(item.scores["acc"] for item in result.items) == 5
    assert [(item.cluster, item.category) for item in result.items] == [(row.image, row.kind) for row in ROWS]
    assert len({item.item for item in result.items}) == len(ROWS)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("Left", "left"),
        ("  left. ", "left"),
        ("**left**", "left"),
        ('"Left!"\nIt stands there.', "left"),
        ("\n\nleft", "left"),
        ("top-left", "top-left"),
        ("the   left", "the left"),
        ("ＬＥＦＴ", "left"),
        ("...", ""),
        ("", ""),
        ("1.5", "1.5"),
    ],
)
def test_normalising_keeps_the_words_of_the_first_line(written: str, expected: str) -> None:
    assert normalise(written) == expected
    assert normalise(normalise(written)) == expected
