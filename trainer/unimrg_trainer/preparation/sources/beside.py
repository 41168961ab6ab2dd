"""A sample from files that belong together by their names: an image, texts and maps beside it.

NAME.jpg (.jpeg, .png, .webp)   the image
NAME.txt                        its caption
NAME.json                       {"caption": …, "questions": [{"question": …, "answer": …}, …]}, both as one likes;
                                a question may have further turns, "further": [{"question": …, "answer": …}, …]
NAME.MAP.png                    a map of it, e.g. NAME.depth.png; a MAP that is not registered makes it an image
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from unimrg_trainer.data.decode import decode_map
from unimrg_trainer.preparation.base import BadItem, SourcePlace, SourceSample
from unimrg_trainer.rng import generator

_BAD_JSON = "its JSON is not as documented"


def sample_of(name: str, image: bytes | None, texts: Mapping[str, bytes], maps: Mapping[str, bytes]) -> SourceSample:
    """Return a sample; `texts` are the contents of its `txt` and `json`, `maps` are PNG or JPEG files.

    Raises BadItem for texts that are not as documented and maps that cannot be decoded.
    """
    caption, questions = None, list[Mapping[str, Any]]()
    if (content := texts.get("json")) is not None:
        try:
            values = json.loads(content)
            caption, questions = values.get("caption"), values.get("questions", [])
            turns = [turn for asked in questions for turn in (asked, *asked.get("further", ()))]
            fits = all(
                is_text(text)
                for text in ("" if caption is None else caption, *(turn[part] for turn in turns for part in _PARTS))
            )
        except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
            fits = False
        if not fits:
            raise BadItem(name, _BAD_JSON)
    if (content := texts.get("txt")) is not None:
        try:
            caption = content.decode("utf-8-sig").strip()  # some editors put a byte order mark first
        except UnicodeDecodeError as error:
            raise BadItem(name, "its caption is not UTF-8") from error
    pixels = {map: map_of(name, content) for map, content in maps.items()}
    return SourceSample(image, pixels, caption, questions, name)


VERSION = 2
"""Goes up when sources make other samples of the same files."""
_PARTS = ("question", "answer")
_SURROGATE = re.compile("[\ud800-\udfff]")
"""What stands for bytes that are not UTF-8, and is none itself."""


def is_text(value: Any) -> bool:
    """Tell whether a value is a text that UTF-8 can hold."""
    return isinstance(value, str) and _SURROGATE.search(value) is None


def map_of(name: str, content: bytes) -> np.ndarray:
    """Return a map of 8 bits, with one channel where all are equal. Raises BadItem."""
    try:
        pixels = decode_map(content)
    except ValueError as error:
        raise BadItem(name, "its map cannot be decoded") from error
    if pixels.dtype != np.uint8:
        pixels = (pixels // 257).astype(np.uint8)
    flat = pixels.ndim == 3 and bool((pixels == pixels[:, :, :1]).all())
    return np.ascontiguousarray(pixels[:, :, 0]) if flat else pixels


def split_at_random(
    count: int, held_out: int, place: SourcePlace, texts_from: int | None = None
) -> Mapping[str, np.ndarray]:
    """Return the items of each split in an order that is drawn, always the same for `count`; texts, which are numbered
    from `texts_from` on, come last.

    So each shard is a sample of all, however the source is sorted: training reads the shards of a window together.
    Raises JobError where none is left to train on.
    """
    if held_out >= count:
        message = f"all of its {count} items would be held out, and none trained on"
        raise place.refused("heldOut", str(held_out), message, f"use at most {max(count - 1, 0)}, or add items")
    drawn = generator("held-out", count).permutation(count)
    if texts_from is not None:
        drawn = np.concatenate(
            [part[np.argsort(part >= texts_from, kind="stable")] for part in np.split(drawn, [held_out])]
        )
    return {"train": drawn[held_out:], "heldOut": drawn[:held_out]}
