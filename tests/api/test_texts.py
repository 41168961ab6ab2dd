"""Durations for people, and the waits between tries."""

from __future__ import annotations

import pytest

from unimrg_api.texts import backoff, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (1.24, "1.2s"),
        (9.96, "10s"),
        (59.6, "1m00s"),
        (123, "2m03s"),
        (4800, "1h20m"),
        (93_600, "1d02h"),
        (10**12, "11574074d01h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
    assert len(text) <= 16  # the status has no room for more


def test_a_wait_doubles_up_to_its_bound() -> None:
    assert [backoff(1.0, 10.0, failures) for failures in (0, 1, 2, 3, 4, 5, 10**6)] == [1, 1, 2, 4, 8, 10, 10]
    assert backoff(0.0, 600.0, 5) == 0.0
    assert [backoff(1.0, 10.0, 3, chance) for chance in (0.0, 0.5, 1.0)] == [2, 3, 4]
