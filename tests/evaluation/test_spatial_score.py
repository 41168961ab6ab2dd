"""The spatial scorer against a table computed by hand, and against broken copies of itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from unimrg_trainer.evaluation import spatial
from unimrg_trainer.evaluation.extraction import extract, normalise
from unimrg_trainer.evaluation.spatial import Answered, score

ROWS = [
    # image, family, truth, what the model wrote
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


def check_table() -> None:
    scores = score(ROWS, seed=0)
    side, presence, overall = scores.families["side"], scores.families["presence"], scores.overall
    assert (side.n, side.correct, side.unparsed) == (5, 3, 1)
    assert (presence.n, presence.correct, presence.unparsed) == (4, 2, 1)
    assert (overall.n, overall.correct, overall.unparsed) == (9, 5, 2)
    assert (side.majority_answer, side.majority_correct) == ("left", 3)
    assert (presence.majority_answer, presence.majority_correct) == ("no", 3)
    # Overall each family has its own constant answer: 3 + 3, not the 3 that one word could get.
    assert (overall.majority_answer, overall.majority_correct) == (None, 6)
    assert overall.accuracy == 5 / 9
    assert overall.difference == pytest.approx(-1 / 9)
    assert overall.p_value == 1.0  # two questions won, three lost
    assert overall.difference_interval is not None and not overall.difference_interval.excludes(0.0)
    assert overall.interval.low == pytest.approx(0.2667, abs=1e-4)
    assert overall.interval.high == pytest.approx(0.8112, abs=1e-4)


def test_the_scores_are_those_computed_by_hand() -> None:
    check_table()


def unparsed_counts_as_right(original: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    return lambda *args: [replace(row, right=row.right or not row.parsed) for row in original(*args)]


def unparsed_is_not_counted(original: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    return lambda *args: [row for row in original(*args) if row.parsed]


def the_rarest_answer_is_the_constant(original: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    return lambda *args: [replace(row, majority_right=not row.majority_right) for row in original(*args)]


@pytest.mark.parametrize(
    "mutation", [unparsed_counts_as_right, unparsed_is_not_counted, the_rarest_answer_is_the_constant]
)
def test_a_scorer_that_marks_wrongly_does_not_pass_the_table(
    mutation: Callable[..., Callable[..., list[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spatial, "_mark", mutation(spatial._mark))
    with pytest.raises(AssertionError):
        check_table()


def exact_string(text: str, vocabulary: set[str]) -> str | None:
    return text if text in vocabulary else None


def any_word(text: str, vocabulary: set[str]) -> str | None:
    return next((word for word in normalise(text).split() if word in vocabulary), None)


def whatever_was_written(text: str, vocabulary: set[str]) -> str | None:
    return normalise(text)


@pytest.mark.parametrize("reader", [exact_string, any_word, whatever_was_written])
def test_a_scorer_that_reads_answers_otherwise_does_not_pass_the_table(
    reader: Callable[[str, set[str]], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spatial, "extract", reader)
    with pytest.raises(AssertionError):
        check_table()


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_questions_changes_nothing(seed: int) -> None:
    shuffled = ROWS.copy()
    random.Random(seed).shuffle(shuffled)
    assert score(shuffled, seed=3) == score(ROWS, seed=3)


def test_renaming_images_changes_nothing() -> None:
    renamed = [replace(row, image={"a": "z9", "b": "m", "c": "0"}[row.image]) for row in ROWS]
    assert score(renamed, seed=3) == score(ROWS, seed=3)


def test_the_sum_of_families_is_the_whole() -> None:
    scores = score(ROWS, seed=0)
    for count in ("n", "correct", "unparsed", "majority_correct"):
        assert sum(getattr(s, count) for s in scores.families.values()) == getattr(scores.overall, count)


def test_the_constant_answer_scores_exactly_like_the_majority() -> None:
    constant = {"side": "left", "presence": "no"}
    rows = [replace(row, answer=constant[row.family]) for row in ROWS]
    overall = score(rows, seed=0).overall
    assert overall.difference == 0.0 and overall.p_value == 1.0
    assert not overall.beats_majority


def test_no_constant_answer_beats_the_majority() -> None:
    for word in ("left", "right", "yes", "no"):
        scores = score([replace(row, answer=word) for row in ROWS], seed=0)
        assert all(family.difference <= 0 for family in scores.families.values())


def test_a_perfect_model_beats_the_majority_on_enough_images() -> None:
    rows = [
        Answered(str(image), "side", truth, truth)
        for image in range(30)
        for truth in (("left", "right") if image % 2 else ("left", "left"))
    ]
    overall = score(rows, seed=0).overall
    assert overall.accuracy == 1.0
    assert overall.beats_majority and overall.p_value < 0.001
    assert overall.difference_interval is not None
    assert overall.difference_interval.low < overall.difference < overall.difference_interval.high


def test_questions_about_one_image_give_no_interval_of_the_difference() -> None:
    rows = [replace(row, image="a") for row in ROWS]
    overall = score(rows, seed=0).overall
    assert overall.difference_interval is None and not overall.beats_majority


def test_a_tie_goes_to_the_first_answer_in_the_alphabet() -> None:
    rows = [Answered("a", "f", "right", ""), Answered("b", "f", "left", "")]
    assert score(rows, seed=0).families["f"].majority_answer == "left"


def test_a_possible_answer_that_is_never_true_is_wrong_but_parsed() -> None:
    rows = [Answered("a", "where", "left", "middle"), Answered("b", "where", "right", "right")]
    assert score(rows, seed=0).overall.unparsed == 1
    given = score(rows, seed=0, vocabularies={"where": ["Left", "middle", "right"]}).overall
    assert (given.unparsed, given.correct) == (0, 1)


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(ValueError, match="no answers"):
        score([], seed=0)


def test_a_truth_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="no answer of the family"):
        score(ROWS, seed=0, vocabularies={"side": ["up", "down"]})
    with pytest.raises(ValueError, match="no answer of the family"):
        score([Answered("a", "side", " . ", "left")], seed=0)


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


def test_only_the_whole_answer_counts() -> None:
    assert extract("Left.", {"left", "right"}) == "left"
    assert extract("left or right", {"left", "right"}) is None
    assert extract("", {"left"}) is None
