"""A clock that only moves when told, for code that takes its clock as an argument."""

from __future__ import annotations

import pytest


class VirtualClock:
    """Seconds since 1970; call it to read the time. It may be set back, as real clocks are."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move on (or back, if negative)."""
        self.now += seconds


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """A clock that only moves when told."""
    return VirtualClock()
