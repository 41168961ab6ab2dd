"""Digests are the same on every machine and in every release: the expected values are written down here."""

from __future__ import annotations

import math

import pytest

from unimrg_api.digests import canonical_json, sha256_of


def test_the_canonical_text_is_sorted_without_spaces_and_unescaped() -> None:
    value = {"b": [1, 2.5, None, True], "a": {"ü": "x\n"}, "ä": 1e-05}
    assert canonical_json(value) == '{"a":{"ü":"x\\n"},"b":[1,2.5,null,true],"ä":1e-05}'


def test_the_digest_is_the_one_that_was_written_down() -> None:
    assert sha256_of({"b": 1, "a": "ü"}) == "4e7ff4080b1a00acdaf71eb0cdf2d504aa8068bbb375c002eac2df3f064047a7"


@pytest.mark.parametrize("value", [math.nan, [1, -math.inf], {"a": [{1: "keys that are numbers would collide"}]}])
def test_what_json_does_not_have_is_refused(value: object) -> None:
    with pytest.raises((ValueError, TypeError), match="JSON"):
        canonical_json(value)
