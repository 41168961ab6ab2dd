"""Fixtures of the launcher's tests."""

from tests.support.fake_tracking import closed

__all__ = ["closed"]
