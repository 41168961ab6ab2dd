"""Reads yes or no out of a reply, without a judge, as VLMEvalKit does; all of its rule sets agree on this."""

from __future__ import annotations

import re

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_WITH_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"(?<!\d)\.(?!\d)")
_FULL_STOPS_REMOVED = 32


def extract_yes_no(reply: str) -> str:
    """Return `Yes`, `No`, or nothing for a reply with both or neither."""
    words = _plain(reply.lower()).split()
    yes, no = "yes" in words, "no" in words
    return "" if yes == no else "Yes" if yes else "No"


def _plain(text: str) -> str:
    """Return text in which punctuation is removed where it stands beside a blank, and a blank where it joins words."""
    joined = bool(_NUMBER_WITH_COMMA.search(text))
    plain = text
    for mark in _PUNCTUATION:
        beside_blank = joined or f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if beside_blank else " ")
    return _FULL_STOP.sub("", plain, count=_FULL_STOPS_REMOVED)
