"""From what a model wrote to the answer it gave, by fixed rules and without another model."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection


def normalise(text: str) -> str:
    """Return the first line that has words, lower-case, single-spaced, without punctuation at either end.

    Punctuation within a word stays ("top-left"); compatibility forms are folded (full-width letters).
    """
    for line in text.splitlines():
        folded = " ".join(unicodedata.normalize("NFKC", line).casefold().split())
        stripped = _strip_edges(folded)
        if stripped:
            return stripped
    return ""


def extract(text: str, vocabulary: Collection[str]) -> str | None:
    """Return the normalised answer if it is in `vocabulary` (normalised too), else None."""
    answer = normalise(text)
    return answer if answer in vocabulary else None


def _strip_edges(text: str) -> str:
    """Drop everything that is neither letter nor digit (nor a mark on one) from both ends."""
    start, stop = 0, len(text)
    while start < stop and not _is_word(text[start]):
        start += 1
    while stop > start and not _is_word(text[stop - 1]):
        stop -= 1
    return text[start:stop]


def _is_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNM"
