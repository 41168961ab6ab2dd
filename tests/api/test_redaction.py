"""Texts go through redaction again and again: by pod, operator and command line."""

from __future__ import annotations

import pytest

from unimrg_api.redaction import clean


@pytest.mark.parametrize(
    "text",
    [
        "password: hunter22",
        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEYx1",
        'token="abcdefgh"',
        "https://ada:hunter2@host/path",
        "Authorization: Bearer abcdefghijkl",
    ],
)
def test_what_is_redacted_once_stays_as_it_is(text: str) -> None:
    once = clean(text)
    assert "[redacted]" in once
    assert clean(once) == once
