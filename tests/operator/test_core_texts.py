"""How values become the texts of a status."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimrg_operator.core.texts import camel_case, count, left, line, soonest, time_of, time_text


@given(st.integers(0, 200_000_000_000))
def test_a_time_survives_its_text(seconds: int) -> None:
    assert time_of(time_text(seconds)) == seconds


@pytest.mark.parametrize("text", [None, "", "2027-13-45T99:99:99Z", "yesterday"])
def test_what_is_no_time_is_long_ago(text: str | None) -> None:
    assert time_of(text) == 0.0


def test_times_beyond_the_calendar_are_its_ends() -> None:
    assert time_text(-5.0) == "1970-01-01T00:00:00Z"
    assert time_text(math.inf) == "9999-12-31T00:00:00Z"


def test_a_wait_is_over_when_it_has_passed_or_the_clock_was_set_back_by_more() -> None:
    assert left(100.0, 10.0, 104.0) == 6.0
    assert left(100.0, 10.0, 110.0) == 0.0
    assert left(100.0, 10.0, 98.0) == 8.0
    assert left(100.0, 10.0, -4000.0) == 0.0


def test_the_soonest_wait_is_one_that_is_not_over() -> None:
    assert soonest(None, 5.0, 0.0, 3.0) == 3.0
    assert soonest(None, 0.0) is None


def test_a_reason_is_one_word_or_the_default() -> None:
    assert camel_case("PreemptionByScheduler", "Disrupted") == "PreemptionByScheduler"
    for text in ("", "two words", "a-b", "7Up", "x" * 65, "Ä"):
        assert camel_case(text, "Disrupted") == "Disrupted"


def test_a_message_is_one_clean_short_line() -> None:
    assert line("pod a:\n  \x1b[31mfailed\x1b[0m", "", "it said: no") == "pod a: failed; it said: no"
    assert len(line("x" * 5000)) == 1024
    assert "AKIA" not in line("denied for AKIAABCDEFGHIJKLMNOP")


def test_counts_have_bounds() -> None:
    assert (count(-3), count(7.9), count(10**30)) == (0, 7, 10**12)
