from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.benchmark_tables import FRAGMENTS
from unimrg_trainer.evaluation.vlmevalkit.choices import RULE_SETS, extract_choice

OLD, NEW = RULE_SETS["Vk0020"], RULE_SETS["Vk202606"]
COLOURS = {"A": "The car is red.", "B": "The car is blue."}
LONG = "The correct answer is **B**. Here's why: " + "the second picture shows it more clearly than the first. " * 3

GOLDEN = [
    # options, reply, by vk-0.0.20, by vk-2026-06
    (COLOURS, "A", "A", "A"),
    (COLOURS, "(B)", "B", "B"),
    (COLOURS, "**B**", "B", "B"),
    (COLOURS, "[A],", "A", "A"),
    (COLOURS, "a", "", ""),
    (COLOURS, "b)", "", ""),
    (COLOURS, "A or B", "", ""),
    (COLOURS, "E", "", ""),
    (COLOURS, "Z", "Z", "Z"),
    (COLOURS, "The car is blue.", "B", "B"),
    (COLOURS, "the CAR is BLUE. ", "B", "B"),
    ({"A": "red", "B": "blue"}, "It could be red or blue", "", ""),
    ({"A": "red", "B": "blue"}, "A red car", "A", "A"),
    ({"A": "red", "B": "blue"}, "A red car is parked on the street", "", ""),
    (COLOURS, "The answer is B, since A is wrong", "", "B"),
    (COLOURS, "the ANSWER is b, since A is wrong", "A", "A"),
    (COLOURS, "the ANSWER is b, since A is the wrong one", "", "B"),
    (COLOURS, LONG, "", "B"),
    ({"A": "Yes", "B": "No"}, "No", "B", "B"),
    ({"A": "Yes", "B": "No"}, "No, there is none", "", ""),
    ({"A": "1", "B": "2", "C": "12"}, "12", "", ""),
    ({"A": "a", "B": "b"}, "nan", "A", "A"),
    (COLOURS, "", "", ""),
    (COLOURS, "Cannot determine the answer, A", "Z", "Z"),
    (COLOURS, "Failed to obtain answer via API: A", "", ""),
    ({}, "A", "", ""),
]


@pytest.mark.parametrize(("options", "reply", "old", "new"), GOLDEN)
def test_golden_replies_choose_what_vlmevalkit_says(options: dict[str, str], reply: str, old: str, new: str) -> None:
    before = dict(options)
    assert (extract_choice(reply, options, OLD), extract_choice(reply, options, NEW)) == (old, new)
    assert options == before, "VLMEvalKit lowers the case of the options it is given"


@pytest.mark.parametrize("place", range(1, 8))
def test_a_letter_counts_among_the_last_four_words(place: int) -> None:
    words = ["word"] * 7
    words[-place] = "B"
    assert extract_choice(" ".join(words), {"A": "x", "B": "y"}, OLD) == ("B" if place <= 4 else "")


@pytest.mark.parametrize(("length", "chosen"), [(20, "B"), (21, "")])
def test_a_text_counts_up_to_twice_the_options_length(length: int, chosen: str) -> None:
    assert extract_choice("hello".ljust(length, "."), {"A": "world", "B": "hello"}, OLD) == chosen


@given(
    st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=20), max_size=30),
    st.dictionaries(st.sampled_from("ABCDEF"), st.text(min_size=1, max_size=12), max_size=6),
    st.sampled_from([OLD, NEW]),
)
def test_any_reply_gives_an_option_a_refusal_or_nothing(
    parts: list[str], options: dict[str, str], rule_set: str
) -> None:
    reply = " ".join(parts)
    chosen = extract_choice(reply, options, rule_set)
    assert chosen in {*options, "Z", ""} or rule_set == NEW
    if "answer" not in reply.lower():
        assert extract_choice(reply, options, OLD) == extract_choice(reply, options, NEW)
    shuffled = list(options.items())
    random.Random(0).shuffle(shuffled)
    assert extract_choice(reply, dict(shuffled), rule_set) == chosen
