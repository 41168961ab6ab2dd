"""Texts about a world: its caption and spatial questions with exact, balanced, one-word answers.

An answer is about what can be *seen*: places are centres of visible parts, and nothing is asked whose margin is small.
Within a kind the answer is drawn first and the question made to fit, so that no answer is more likely than another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from unimrg_trainer.scenes.world import BANDS, COLOURS, SHAPES, Thing, Visible, band_of

QUESTIONS_PER_SCENE = 4

RELATIONS = ("side", "nearer", "where", "nearest")
"""Kinds about places; a scene asks about two of them."""

KINDS = ("colour", "ground", "presence", *RELATIONS)
"""A scene asks for the colour of the nearest object, then `ground` or `presence`, then two relations.

`ground` and `colour` can be learnt from two or three thousand questions by a small model, the others need many
times that: a short run shows progress on the former, a long one on the latter.
"""

Option = TypeVar("Option")

_SIDE_MARGIN = 0.15  # horizontal distance of two centres, as a fraction of the image side
_DEPTH_MARGIN = 0.12  # difference of two disparities


@dataclass(frozen=True)
class Question:
    question: str
    answer: str
    kind: str


Seen = list[tuple[Thing, Visible]]
"""Things with their visible parts, from far to near."""


def caption(seen: Seen) -> str:
    """Name every thing and its place, from near to far."""
    phrases = [f"a {thing.name} {_place(part)}" for thing, part in reversed(seen)]
    return "From near to far: " + ", ".join(phrases[:-1]) + f" and {phrases[-1]}."


def ask(random: np.random.Generator, seen: Seen, ground: str) -> tuple[Question, ...]:
    """Return `QUESTIONS_PER_SCENE` questions of different kinds; `ground` is "light" or "dark"."""
    relations = [RELATIONS[i] for i in random.permutation(len(RELATIONS))]
    kinds = ["colour", _pick(random, ["ground", "presence"]), *relations]
    questions: list[Question] = []
    for kind in kinds:
        found = _ground(ground) if kind == "ground" else _ASKERS[kind](random, seen)
        if found is not None and len(questions) < QUESTIONS_PER_SCENE:
            questions.append(Question(*found, kind=kind))
    assert len(questions) == QUESTIONS_PER_SCENE, seen
    return tuple(questions)


def _side(random: np.random.Generator, seen: Seen) -> tuple[str, str] | None:
    """Of two things, is the first left or right of the second?"""
    pairs = [(a, b) for a, left in seen for b, right in seen if right.x - left.x >= _SIDE_MARGIN]  # a lies left of b
    if not pairs:
        return None
    first, second = _pick(random, pairs)
    answer = _pick(random, ["left", "right"])
    if answer == "right":
        first, second = second, first
    return f"Is the {first.name} left or right of the {second.name}?", answer


def _nearer(random: np.random.Generator, seen: Seen) -> tuple[str, str] | None:
    """Of two things, is the first nearer or farther than the second?"""
    pairs = [(a, b) for a, _ in seen for b, _ in seen if a.disparity - b.disparity >= _DEPTH_MARGIN]
    first, second = _pick(random, pairs)
    answer = _pick(random, ["nearer", "farther"])
    if answer == "farther":
        first, second = second, first
    return f"Is the {first.name} nearer or farther than the {second.name}?", answer


def _where(random: np.random.Generator, seen: Seen) -> tuple[str, str] | None:
    """Where does a named thing stand?"""
    names = list(BANDS)
    for index in random.permutation(len(names)):
        there = [thing for thing, part in seen if band_of(part.x) == names[index]]
        if there:
            return f"Where is the {_pick(random, there).name}?", names[index]
    raise AssertionError(seen)


def _nearest(random: np.random.Generator, seen: Seen) -> tuple[str, str] | None:
    """Where does the nearest thing stand?"""
    band = band_of(seen[-1][1].x)
    assert band is not None
    return "Where is the nearest object?", band


def _presence(random: np.random.Generator, seen: Seen) -> tuple[str, str] | None:
    """Is there such a thing? A wrong one has an absent colour, or a present colour with another shape."""
    things = [thing for thing, _ in seen]
    answer = _pick(random, ["yes", "no"])
    model = _pick(random, things)
    colour, shape = model.colour, model.shape
    if answer == "no":
        if random.random() < 0.75:
            colour = _pick(random, sorted(set(COLOURS) - {thing.colour for thing in things}))
        else:
            shape = _pick(random, [other for other in SHAPES if other != shape])
    return f"Is there a {colour} {shape}?", answer


def _colour(random: np.random.Generator, seen: Seen) -> tuple[str, str] | None:
    """What colour is the nearest thing?"""
    return "What colour is the nearest object?", seen[-1][0].colour


def _ground(ground: str) -> tuple[str, str]:
    """Is the ground light or dark?"""
    return "Is the ground light or dark?", ground


_ASKERS: dict[str, Callable[[np.random.Generator, Seen], tuple[str, str] | None]] = {
    "colour": _colour,
    "presence": _presence,
    "side": _side,
    "nearer": _nearer,
    "where": _where,
    "nearest": _nearest,
}
"""Kind → (random, seen) → (question, answer), or None where nothing unambiguous can be asked."""


def _place(part: Visible) -> str:
    band = band_of(part.x)
    assert band is not None
    return "in the middle" if band == "middle" else f"on the {band}"


def _pick(random: np.random.Generator, options: list[Option]) -> Option:
    return options[int(random.integers(len(options)))]
