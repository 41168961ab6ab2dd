"""GenEval's rules: what a record demands of an image, and whether the objects found in the image fulfil it.

Pure: no files, no images, no models. Boxes are (x1, y1, x2, y2, score), whole pixels, x2 and y2 exclusive, and only the
most certain ones of a class are looked at (docs/method/evaluation.md). Scores are in percent.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TAGS = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
"""Tag → how many of the benchmark's 553 prompts have it."""
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_CLASSES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,computer mouse,tv remote,computer keyboard,cell phone,microwave,"
    "oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
CLASSES = tuple(_CLASSES.split(","))
"""GenEval's names of COCO's 80 classes, in the order of a detector's outputs."""
CERTAIN, CERTAIN_WHEN_COUNTING = 0.3, 0.9
"""An object counts if its score is above this."""
MOST = 16
"""Objects of one class that count, at most."""
SHRINKING = 0.1
"""An offset along an axis is shortened by this share of both boxes' extents together."""
START = "a photo of"
"""Every prompt of the benchmark begins like this; those of evaluation_metadata_long.jsonl are rewritten ones."""

Box = tuple[float, float, float, float, float]
"""x1, y1, x2, y2, score."""
ColoursOf = Callable[[str, int], Sequence[str]]
"""(class, n) → the colours of the n most certain objects of that class."""


def read_records(content: bytes) -> list[dict[str, Any]]:
    """Return the prompts of an evaluation_metadata.jsonl, one dictionary each; keys that no rule reads are kept.

    Raises ValueError that says what is wrong: a line that is no record, or other prompts than the benchmark's.
    """
    records: list[dict[str, Any]] = []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            records.append(read_record(line))
        except ValueError as error:
            raise ValueError(f"line {number} is no record of GenEval: {error}") from error
    found = Counter(record["tag"] for record in records)
    if found != TAGS or len({record["prompt"] for record in records}) != len(records):
        listed = ", ".join(f"{tag} {count}" for tag, count in found.items()) or "none"
        raise ValueError(f"it has other prompts than GenEval's 553: {listed}")
    rewritten = sum(not record["prompt"].startswith(START) for record in records)
    if rewritten:
        raise ValueError(
            f"{rewritten} of its prompts do not begin with {START!r}: rewritten prompts are another benchmark"
        )
    return records


def read_record(content: str | bytes) -> dict[str, Any]:
    """Return one prompt with what it demands. Raises ValueError for what the rules cannot read."""
    try:
        record: dict[str, Any] = json.loads(content)
        _check(record)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return record


def _check(record: Any) -> None:
    """Raise ValueError, KeyError or TypeError for what the rules cannot read."""
    if record["tag"] not in TAGS:
        raise ValueError(f"unknown tag {record['tag']!r}")
    if not isinstance(record["prompt"], str):
        raise ValueError("the prompt is no text")
    for number, clause in enumerate([*record["include"], *record.get("exclude", [])]):
        if clause["class"] not in CLASSES:
            raise ValueError(f"unknown class {clause['class']!r}")
        if not isinstance(clause["count"], int):
            raise ValueError("a count is no whole number")
        if "color" in clause and clause["color"] not in COLOURS:
            raise ValueError(f"unknown colour {clause['color']!r}")
        if "position" in clause:
            _, earlier = clause["position"]
            if not 0 <= earlier < number:
                raise ValueError("a position refers to no earlier clause")


def needs_colours(record: Mapping[str, Any]) -> bool:
    """True if the record demands a colour."""
    return any("color" in clause for clause in record["include"])


def kept(scores: Sequence[float], tag: str) -> list[int]:
    """Return which objects of one class count, the most certain first; of equal ones the later."""
    least = CERTAIN_WHEN_COUNTING if tag == "counting" else CERTAIN
    order = np.argsort(np.asarray(scores, dtype=np.float64), kind="stable")[::-1]
    return [int(index) for index in order if scores[index] > least][:MOST]


def relations(box: Box, target: Box) -> set[str]:
    """Return where a box lies as seen from the target: of `left of`, `right of`, `above`, `below` none to two."""
    one, other = (np.asarray(corners[:4], np.float32).reshape(2, 2) for corners in (box, target))
    offset = one.mean(axis=0) - other.mean(axis=0)
    extents = np.abs(one[1] - one[0]) + np.abs(other[1] - other[0])
    shortened = np.maximum(np.abs(offset) - SHRINKING * extents, 0) * np.sign(offset)
    if (np.abs(shortened) < 1e-3).all():
        return set()
    x, y = shortened / np.linalg.norm(offset)
    held = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, holds in held.items() if holds}


@dataclass(frozen=True)
class Decision:
    """Whether an image shows what its record demands, and what is missing, a line for each failed clause."""

    correct: bool
    reason: str = ""


def decide(record: Mapping[str, Any], objects: Mapping[str, Sequence[Box]], colours_of: ColoursOf) -> Decision:
    """Decide about an image in which `objects` (class → boxes that are `kept`) were found.

    `colours_of` is called only for a clause that demands a colour and of whose class enough objects are there.
    """
    reasons: list[str] = []
    matched: list[Sequence[Box] | None] = []
    for clause in record["include"]:
        found = list(objects.get(clause["class"], ()))[: clause["count"]]
        reason = _missing(clause, found, matched, colours_of)
        matched.append(None if reason else found)
        reasons += [reason] if reason else []
    for clause in record.get("exclude", ()):
        number = len(objects.get(clause["class"], ()))
        if number >= clause["count"]:
            reasons.append(f"expected {clause['class']}<{clause['count']}, found {number}")
    return Decision(not reasons, "\n".join(reasons))


def _missing(
    clause: Mapping[str, Any], found: Sequence[Box], matched: Sequence[Sequence[Box] | None], colours_of: ColoursOf
) -> str:
    """Return what the objects found for a clause lack; empty: nothing."""
    name, count = clause["class"], clause["count"]
    if len(found) < count:
        return f"expected {name}>={count}, found {len(found)}"
    if "color" in clause:
        colours = list(colours_of(name, count))
        if colours.count(clause["color"]) < count:
            return f"expected {clause['color']} {name}>={count}, found {', '.join(colours)}"
    if "position" in clause:
        relation, earlier = clause["position"]
        targets = matched[earlier]
        if targets is None:
            return f"no target for {name} to be {relation}"
        for box in found:
            for target in targets:
                held = relations(box, target)
                if relation not in held:
                    return f"expected {name} {relation} target, found {' and '.join(sorted(held)) or 'near'} target"
    return ""


@dataclass(frozen=True)
class Judged:
    """The decision about one image."""

    prompt: str
    """What names the prompt: the images of one have the same."""
    tag: str
    correct: bool


def scores(judged: Iterable[Judged]) -> dict[str, float]:
    """Return the share of correct images of each tag, in the order of TAGS and of those that have any; of all tags
    together only where each has one: `overall`, the mean of the six shares, `correct_images`, and `correct_prompts`,
    the share of prompts with a correct image."""
    images = list(judged)
    by_tag = {tag: [image.correct for image in images if image.tag == tag] for tag in TAGS}
    shares = {tag: 100 * sum(correct) / len(correct) for tag, correct in by_tag.items() if correct}
    if len(shares) < len(TAGS):
        return shares
    prompts = {image.prompt for image in images}
    right = {image.prompt for image in images if image.correct}
    return {
        "overall": sum(shares.values()) / len(TAGS),
        **shares,
        "correct_images": 100 * sum(image.correct for image in images) / len(images),
        "correct_prompts": 100 * len(right) / len(prompts),
    }
