"""Further turns of a conversation in the rows of every family: written out as text, cut, and learnt from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.models.rows import CPU, perturbed, picture, rng_for
from tests.support.one_step import tiny_family
from unimrg_trainer.models.common.text import IGNORE
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.sample import Sample

TURNS = [{"question": "And beside it?", "answer": "A red cross."}, {"question": "Is it near?", "answer": "No."}]
WRITTEN = {
    "harmon": "{0}Where is it?END\nSTARTassistant\nLeft.END\n"
    "STARTuser\nAnd beside it?END\nSTARTassistant\nA red cross.END\nSTARTuser\nIs it near?END\nSTARTassistant\nNo.END",
    "showo": "USER: Where is it? ASSISTANT: Left.EOTUSER: And beside it? ASSISTANT: A red cross.EOT"
    "USER: Is it near? ASSISTANT: No.EOT",
}
WRITTEN["openuni"] = WRITTEN["harmon"]


def texts_of(family: Any, further: list[dict[str, str]]) -> tuple[list[int], list[int], Any]:
    """Ids and labels of the last text of a row about an image, and the row."""
    attributes = {"further": further} if further else {}
    sample = Sample("sample", picture("sample"), question="Where is it?", answer="Left.", attributes=attributes)
    understanding = objective("Understanding")
    task = understanding.task(sample, np.random.default_rng(0))
    (row,) = family.plan("Understanding", [(0, task)], rng_for)
    text = (row.parts if hasattr(row, "parts") else row.segments)[-1]
    return list(text.token_ids), list(text.labels), row


def spelt(family: Any, ids: list[int]) -> str:
    """The text of ids, special tokens as words."""
    tokenizer = family.tokenizer
    words = {"EOT": "<|endoftext|>"} if family.name == "showo" else {"START": "<|im_start|>", "END": "<|im_end|>"}
    names = {tokenizer.special(name): word for word, name in words.items()}
    if family.name == "openuni":
        names[family.template.image_end] = ""
    parts, run = [], list[int]()
    for token in [*ids, None]:
        if token is None or token in names:
            parts += [tokenizer.decode(run), names.get(token, "")]
            run = []
        else:
            run.append(token)
    return "".join(parts)


@pytest.mark.parametrize("name", WRITTEN)
def test_each_answer_of_a_conversation_is_predicted_and_nothing_else(name: str) -> None:
    family = tiny_family(name)
    ids, labels, row = texts_of(family, TURNS)
    assert spelt(family, ids) == WRITTEN[name].format("\n")
    predicted = [token for token, label in zip(ids, labels, strict=True) if label != IGNORE]
    assert predicted == [label for label in labels if label != IGNORE]
    end = "EOT" if name == "showo" else "END"
    assert [answer.strip() for answer in spelt(family, predicted).split(end)] == ["Left.", "A red cross.", "No.", ""]
    assert row.loss_terms == len(predicted)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_conversation_beyond_the_limit_ends_with_an_answer(name: str) -> None:
    family = tiny_family(name)
    limit = family.config.question_limit
    ids, labels, row = texts_of(family, TURNS * 40)
    assert len(ids) <= limit and labels[-1] != IGNORE
    assert row.loss_terms == sum(label != IGNORE for label in labels)
    assert ids[: len(texts_of(family, [])[0])] == texts_of(family, [])[0]


@pytest.mark.parametrize("name", WRITTEN)
def test_the_loss_of_a_conversation_is_that_of_its_answers(name: str) -> None:
    """Sums of negative log-likelihoods, to which each further answer adds, and which no question changes."""
    family = tiny_family(name)
    module = perturbed(family).eval()

    def loss(further: list[dict[str, str]]) -> float:
        _, _, row = texts_of(family, further)
        batch = family.collate([row], rng_for, Composition.OFFICIAL)
        return module(family.prepare(batch, CPU, torch.float64)).sum().item()

    alone, more, last = loss([]), loss(TURNS[:1]), loss(TURNS)
    assert alone < more < last


@pytest.mark.parametrize("name", WRITTEN)
def test_a_text_alone_is_a_row_without_an_image(name: str) -> None:
    sample = Sample("text", question="Where is it?", answer="Left.")
    task = objective("Understanding").task(sample, np.random.default_rng(0))
    (row,) = tiny_family(name).plan("Understanding", [(0, task)], rng_for)
    parts: Any = row.parts if hasattr(row, "parts") else row.segments
    assert all(hasattr(part, "token_ids") for part in parts) and row.loss_terms > 0
