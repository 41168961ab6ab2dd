"""GenEval's rules against a second formulation of them, and the traps that its users fell into."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.geneval_records import records
from unimrg_trainer.evaluation.geneval import (
    CLASSES,
    COLOURS,
    TAGS,
    Box,
    Judged,
    decide,
    kept,
    read_records,
    relations,
    scores,
)

numbers = st.integers(0, 512)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1, y1, width, height = (draw(numbers) for _ in range(4))
    return float(x1), float(y1), float(x1 + width), float(y1 + height), draw(st.sampled_from([0.4, 0.6, 0.95]))


def exact_relations(box: Box, target: Box) -> tuple[set[str], bool]:
    """The rule in exact numbers, by squares instead of a root; and whether a limit is so near that rounding decides."""
    a, b = ([Fraction(value) for value in one[:4]] for one in (box, target))
    offset = [(a[axis] + a[axis + 2] - b[axis] - b[axis + 2]) / 2 for axis in (0, 1)]
    extents = [a[axis + 2] - a[axis] + b[axis + 2] - b[axis] for axis in (0, 1)]
    left = [max(abs(off) - extent / 10, Fraction(0)) for off, extent in zip(offset, extents, strict=True)]
    squared = offset[0] ** 2 + offset[1] ** 2
    close = any(abs(4 * one**2 - squared) <= squared / 10_000 for one in left)
    names = [("left of", "right of"), ("above", "below")]
    if all(one < Fraction(1, 1000) for one in left):
        return set(), False
    return {names[axis][offset[axis] > 0] for axis in (0, 1) if 4 * left[axis] ** 2 > squared}, close


@given(boxes(), boxes(), st.integers(-300, 300), st.sampled_from([0.5, 2, 8]))
def test_a_relation_is_the_exact_one_and_depends_on_no_place_and_size(
    one: Box, other: Box, shift: int, scale: float
) -> None:
    expected, close = exact_relations(one, other)
    assume(not close)

    def moved(box: Box) -> Box:
        left, top, right, bottom = ((value + shift) * scale for value in box[:4])
        return left, top, right, bottom, box[4]

    assert relations(one, other) == expected == relations(moved(one), moved(other))
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert relations(other, one) == {opposite[name] for name in expected}


@pytest.mark.parametrize(
    ("turn", "beyond", "along"),
    [
        (lambda x, y: (x, y), "right of", "below"),
        (lambda x, y: (-x, y), "left of", "below"),
        (lambda x, y: (y, x), "below", "right of"),
        (lambda x, y: (y, -x), "above", "right of"),
    ],
)
def test_half_the_distance_is_not_enough(turn: Any, beyond: str, along: str) -> None:
    def box(x: float, y: float, extent: float) -> Box:
        """A box around a point, wide along the first axis and flat along the other."""
        (x1, y1), (x2, y2) = turn(x - extent / 2, y), turn(x + extent / 2, y)
        return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2), 0.9

    # 30 along one axis and 40 along the other, which is 50 away; extents of 20 and 30 shorten the 30 to 25
    target = box(0, 0, 20)
    assert relations(box(30, 40, 30), target) == {along}
    assert relations(box(31, 40, 30), target) == {beyond, along}


@given(st.lists(st.sampled_from([0.1, 0.3, 0.31, 0.5, 0.9, 0.91]), max_size=30), st.sampled_from(sorted(TAGS)))
def test_what_counts_is_certain_enough_best_first_and_sixteen_at_most(found: list[float], tag: str) -> None:
    limit = 0.9 if tag == "counting" else 0.3
    expected = sorted((i for i in range(len(found)) if found[i] > limit), key=lambda i: (-found[i], -i))
    assert kept(found, tag) == expected[:16]
    assert kept([0.95] * 20, tag) == [*range(19, 3, -1)]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, list[Box]], dict[str, list[str]]]:
    """A record of few classes, objects found, and their colours."""
    classes, colours = ["cat", "dog", "cup"], ["red", "blue"]
    include: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 3))):
        clause: dict[str, Any] = {"class": draw(st.sampled_from(classes)), "count": draw(st.integers(1, 2))}
        if draw(st.booleans()):
            clause["color"] = draw(st.sampled_from(colours))
        if number and draw(st.booleans()):
            clause["position"] = [draw(st.sampled_from(["left of", "above"])), draw(st.integers(0, number - 1))]
        include.append(clause)
    exclude = [{"class": draw(st.sampled_from(classes)), "count": draw(st.integers(1, 3))}] * draw(st.integers(0, 1))
    objects = {
        name: draw(st.lists(boxes(), min_size=1, max_size=3)) for name in draw(st.sets(st.sampled_from(classes)))
    }
    shades = {name: draw(st.lists(st.sampled_from(colours), min_size=3, max_size=3)) for name in classes}
    return {"include": include, "exclude": exclude}, objects, shades


def correct(record: dict[str, Any], objects: dict[str, list[Box]], shades: dict[str, list[str]]) -> bool:
    """The rule as one formula: every clause holds by itself and its targets' clauses hold, and no class is too often
    there."""

    def holds(number: int) -> bool:
        clause = record["include"][number]
        found = objects.get(clause["class"], [])[: clause["count"]]
        right = len(found) == clause["count"]
        right = right and all(shade == clause.get("color", shade) for shade in shades[clause["class"]][: len(found)])
        if right and "position" in clause:
            relation, earlier = clause["position"]
            before = record["include"][earlier]
            targets = objects.get(before["class"], [])[: before["count"]]
            right = holds(earlier) and all(relation in relations(box, target) for box in found for target in targets)
        return right

    few = all(len(objects.get(one["class"], [])) < one["count"] for one in record["exclude"])
    return few and all(holds(number) for number in range(len(record["include"])))


@given(scenes())
def test_an_image_is_right_if_every_clause_holds(scene: Any) -> None:
    record, objects, shades = scene
    decision = decide(record, objects, lambda name, count: shades[name][:count])
    assert decision.correct == correct(record, objects, shades) == (not decision.reason)


LEFT, RIGHT = (0.0, 0.0, 100.0, 100.0, 0.9), (200.0, 0.0, 300.0, 100.0, 0.8)
CAT, TWO_CATS = {"class": "cat", "count": 1}, {"class": "cat", "count": 2}
DOG_RIGHT_OF_IT = {"class": "dog", "count": 1, "position": ["right of", 0]}


@pytest.mark.parametrize(
    ("include", "exclude", "objects", "colours", "reason"),
    [
        ([CAT], [TWO_CATS], {"cat": [LEFT]}, "", ""),
        ([CAT], [TWO_CATS], {"cat": [LEFT, RIGHT]}, "", "expected cat<2, found 2"),
        ([TWO_CATS], [], {"cat": [LEFT]}, "", "expected cat>=2, found 1"),
        ([TWO_CATS | {"color": "red"}], [], {"cat": [LEFT, RIGHT]}, "red red", ""),
        ([TWO_CATS | {"color": "red"}], [], {"cat": [LEFT, RIGHT]}, "red blue", "expected red cat>=2, found red, blue"),
        ([CAT, DOG_RIGHT_OF_IT], [], {"cat": [LEFT], "dog": [RIGHT]}, "", ""),
        ([CAT, DOG_RIGHT_OF_IT], [], {"cat": [LEFT, RIGHT], "dog": [RIGHT]}, "", ""),
        (
            [CAT, DOG_RIGHT_OF_IT],
            [],
            {"cat": [RIGHT], "dog": [LEFT]},
            "",
            "expected dog right of target, found left of target",
        ),
        (
            [TWO_CATS, DOG_RIGHT_OF_IT],
            [],
            {"cat": [LEFT, RIGHT], "dog": [RIGHT]},
            "",
            "expected dog right of target, found near target",
        ),
        (
            [CAT | {"color": "red"}, DOG_RIGHT_OF_IT],
            [],
            {"cat": [LEFT], "dog": [RIGHT]},
            "blue",
            "expected red cat>=1, found blue\nno target for dog to be right of",
        ),
    ],
)
def test_what_an_image_lacks_is_named(
    include: Any, exclude: Any, objects: dict[str, list[Box]], colours: str, reason: str
) -> None:
    decision = decide({"include": include, "exclude": exclude}, objects, lambda name, count: colours.split())
    assert (decision.correct, decision.reason) == (not reason, reason)


def test_a_colour_is_asked_for_only_of_objects_that_are_there() -> None:
    asked: list[tuple[str, int]] = []

    def colours_of(name: str, count: int) -> Sequence[str]:
        asked.append((name, count))
        return ["red"] * count

    box = (0.0, 0.0, 9.0, 9.0, 0.8)
    record = {"include": [{"class": "cat", "count": 1, "color": "red"}, {"class": "dog", "count": 2, "color": "red"}]}
    decision = decide(record, {"cat": [box, box], "dog": [box]}, colours_of)
    assert asked == [("cat", 1)] and decision.reason == "expected dog>=2, found 1"


def test_scores_have_the_names_of_their_tags_in_whatever_order_images_come() -> None:
    images = [
        Judged(f"{tag} {n}", tag, n % (2 + k) == 0) for k, tag in enumerate(TAGS) for n in range(12) for _ in "ab"
    ]
    by_hand = {tag: 100 / (2 + k) for k, tag in enumerate(TAGS) if 12 % (2 + k) == 0}
    found = scores(images)
    assert {tag: found[tag] for tag in by_hand} == pytest.approx(by_hand)
    assert found["overall"] == pytest.approx(sum(found[tag] for tag in TAGS) / 6)
    assert found["correct_images"] == pytest.approx(found["correct_prompts"])
    again = scores(sorted(images, key=lambda image: (not image.correct, image.tag[::-1])))
    assert list(again) == list(found) and again == pytest.approx(found)


def test_a_prompt_is_right_with_one_right_image_and_overall_weighs_tags_alike() -> None:
    images = [Judged(tag, tag, True) for tag in TAGS] + [Judged("counting", "counting", False)] * 3
    found = scores(images)
    assert found["correct_prompts"] == 100 and found["correct_images"] == pytest.approx(600 / 9)
    assert found["counting"] == 25 and found["overall"] == pytest.approx(525 / 6)


def test_without_a_tag_there_is_no_score_of_all() -> None:
    assert scores([Judged("a", "counting", True)]) == {"counting": 100.0}
    assert scores([]) == {}


def test_prompts_are_read_with_keys_that_nobody_asked_for() -> None:
    listed = [{**record, "phase": 2, "pid": number} for number, record in enumerate(records())]
    content = "\n".join(map(json.dumps, listed)).encode() + b"\n"
    assert read_records(content) == listed


def without(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return listed[:-1]


def twice(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*listed[:-1], listed[-2]]


def rewritten(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**record, "prompt": f"In a wide meadow, {record['prompt']}, lit by the sun"} for record in listed]


def unknown_class(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**listed[0], "include": [{"class": "mouse", "count": 1}]}, *listed[1:]]


def later_target(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**listed[0], "include": [{"class": "cat", "count": 1, "position": ["above", 0]}]}, *listed[1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, "other prompts than GenEval's 553"),
        (twice, "other prompts than GenEval's 553"),
        (rewritten, "553 of its prompts do not begin with 'a photo of'"),
        (unknown_class, "line 1 .*unknown class 'mouse'"),
        (later_target, "line 1 .*no earlier clause"),
    ],
)
def test_other_prompts_are_refused(change: Any, message: str) -> None:
    content = "\n".join(map(json.dumps, change(records()))).encode()
    with pytest.raises(ValueError, match=message):
        read_records(content)


def test_a_file_that_holds_no_records_is_refused() -> None:
    for content in (b"", b"\xff\xfe", b"[1]", b"{}"):
        with pytest.raises(ValueError, match=r"no record of GenEval|other prompts"):
            read_records(content)


def test_the_names_are_those_of_the_prompts() -> None:
    assert len(set(CLASSES)) == 80 and len(set(COLOURS)) == 10 and sum(TAGS.values()) == 553
    assert math.isclose(scores([Judged(tag, tag, True) for tag in TAGS])["overall"], 100)
    # COCO's remote, mouse and keyboard have names of their own in GenEval
    assert [CLASSES[index] for index in (0, 64, 65, 66, 79)] == [
        "person", "computer mouse", "tv remote", "computer keyboard", "toothbrush",
    ]  # fmt: skip
