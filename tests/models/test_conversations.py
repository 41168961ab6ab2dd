"""A conversation of several turns is one row in every family: all answers are learnt, no question is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import pytest

from tests.models import harmon_rows, openuni_rows, showo_rows
from tests.models.rows import rng_for, sample
from unimrg_trainer.models.common.text import IGNORE
from unimrg_trainer.objectives.understanding import Understanding
from unimrg_trainer.rng import generator
from unimrg_trainer.sample import Sample

FAMILIES = {"harmon": harmon_rows.family(), "openuni": openuni_rows.family(), "showo": showo_rows.family()}
FURTHER = [{"question": "And the cat?", "answer": "Left."}, {"question": "Why?", "answer": "It sleeps."}]


def talked(key: str, *, image: bool = True, further: Sequence[dict[str, str]] = FURTHER) -> Sample:
    plain = sample(key, image=image)
    return Sample(
        plain.key, plain.image, question="What is it?", answer="A room.", attributes={"further": list(further)}
    )


def row_of(family: Any, said: Sample) -> Any:
    task = Understanding().task(said, generator("test"))
    (row,) = family.plan("Understanding", [(0, task)], rng_for)
    return row


def texts(row: Any) -> tuple[list[int], list[int]]:
    """Ids and labels of all text of a row, in order."""
    parts = [part for part in getattr(row, "segments", None) or row.parts if hasattr(part, "token_ids")]
    return [each for part in parts for each in part.token_ids], [each for part in parts for each in part.labels]


@pytest.mark.parametrize("name", FAMILIES)
def test_all_answers_are_learnt_and_no_question_is(name: str) -> None:
    family = FAMILIES[name]
    row = row_of(family, talked("a"))
    ids, labels = texts(row)
    lead = " " if name == "showo" else ""
    end = family.tokenizer.special("<|endoftext|>") if name == "showo" else family.tokenizer.turn_end
    encode = family.tokenizer.encode
    learnt = [[*encode(f"{lead}{answer}"), end] for answer in ("A room.", "Left.", "It sleeps.")]
    assert [label for label in labels if label != IGNORE] == [*chain(*learnt)]
    assert row.loss_terms == len([*chain(*learnt)])
    assert all(label in (IGNORE, token) for token, label in zip(ids, labels, strict=True))
    if name == "showo":
        between = encode("USER: And the cat? ASSISTANT:")
    else:
        start = family.tokenizer.turn_start
        turn = [start, *encode("user\n")] if name == "harmon" else [start]
        asked = encode("And the cat?") if name == "harmon" else encode("user\nAnd the cat?")
        between = [*encode("\n"), *turn, *asked, end, *encode("\n"), start, *encode("assistant\n")]
    first = next(n for n, label in enumerate(labels) if label != IGNORE) + len(learnt[0])
    assert ids[first : first + len(between)] == between


@pytest.mark.parametrize("name", FAMILIES)
def test_turns_beyond_the_limit_are_cut_at_the_end(name: str) -> None:
    family = FAMILIES[name]
    one, many = row_of(family, talked("a", further=())), row_of(family, talked("a", further=FURTHER * 200))
    ids, labels = texts(many)
    assert ids[: len(texts(one)[0])] == texts(one)[0]
    assert one.loss_terms < many.loss_terms == sum(label != IGNORE for label in labels)
    assert len(ids) <= family.config.question_limit + len(texts(one)[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_text_alone_is_a_row_without_an_image(name: str) -> None:
    row = row_of(FAMILIES[name], talked("t", image=False))
    parts = getattr(row, "segments", None) or row.parts
    assert all(hasattr(part, "token_ids") for part in parts) and row.loss_terms > 0
