from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimrg_trainer.evaluation.vlmevalkit.yes_no import extract_yes_no


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Yes", "Yes"),
        ("yes.", "Yes"),
        ("No,", "No"),
        ("(Yes)", "Yes"),
        ("**Yes**", ""),
        ("no-one", "No"),
        ("no - one", "No"),
        ("yes -there", "Yes"),
        ("a -yes", "Yes"),
        ("x-yes -", ""),
        ("1,2 yes-no", ""),
        ("Yes\nNo", ""),
        ("True", ""),
        ("1", ""),
        ("nope", ""),
        ("", ""),
        ("nan", ""),
        ("yes, there is no cat", ""),
        ("yes.5", ""),
        ("." * 32 + "yes", "Yes"),
        ("." * 33 + "yes", ""),
    ],
)
def test_golden_replies_say_what_vlmevalkit_says(reply: str, answer: str) -> None:
    assert extract_yes_no(reply) == answer


@given(st.text())
def test_a_text_without_the_word_never_says_yes(text: str) -> None:
    assert extract_yes_no(text) != "Yes" or "yes" in text.lower()
