"""Several data sets read as one: each in its own order, with questions and keys of its own, in exact proportions."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from tests.data.test_dataset import write
from tests.support.dictionary_store import DictionaryStore
from unimrg_api.errors import UserError
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.data.mixture import Mixture, mixture_digest
from unimrg_trainer.preparation.base import SourceSample
from unimrg_trainer.preparation.make import pack


def data_set(colour: int, samples: int, questions: int) -> Dataset:
    """Grey squares of one colour with so many questions about each."""
    store = DictionaryStore()
    asked = [{"question": f"{colour} {number}?", "answer": "yes"} for number in range(questions)]
    image = np.full((4, 4, 3), colour, np.uint8)
    write(store, *(pack(SourceSample(image, {}, f"{number}", asked)).members for number in range(samples)))
    return Dataset.open(store, "train")


@pytest.fixture
def parts() -> list[Dataset]:
    return [data_set(10, 4, 2), data_set(20, 6, 0), data_set(30, 2, 3)]


def colours(data: Mixture, rows: int, seed: int | None = 1) -> list[int]:
    order = data.order("images", seed)
    images = [data.image_sample(order.record(row)).image for row in range(rows)]
    return [int(image[0, 0, 0]) for image in images if image is not None]


def test_weights_are_proportions_and_each_data_set_has_epochs_of_its_own(parts: list[Dataset]) -> None:
    mixed = Mixture(parts, [Fraction(1), Fraction(3), Fraction("0.5")])
    seen = colours(mixed, 90)
    assert Counter(seen) == {10: 20, 20: 60, 30: 10}
    order, own = mixed.order("images", 1), parts[0].order("images", 1)
    mine = [record for row in range(90) if (record := order.record(row)) < 4]
    assert mine == [own.record(row) for row in range(20)]


def test_without_weights_every_epoch_has_each_sample_once(parts: list[Dataset]) -> None:
    order = Mixture(parts).order("images", 1)
    for epoch in range(3):
        assert sorted(order.record(row) for row in range(12 * epoch, 12 * epoch + 12)) == list(range(12))


def test_evaluation_reads_in_proportion_to_size_whatever_the_weights(parts: list[Dataset]) -> None:
    mixed = Mixture(parts, [Fraction(1), Fraction(0), Fraction(0)])
    assert Counter(colours(mixed, 12, seed=None)) == {10: 4, 20: 6, 30: 2}


def test_a_data_set_without_questions_leaves_its_share_to_others(parts: list[Dataset]) -> None:
    mixed = Mixture(parts, [Fraction(1), Fraction(5), Fraction(1)])
    order = mixed.order("questions", 1)
    asked = [mixed.question_sample(order.record(row)).question or "" for row in range(24)]
    assert Counter(text.split()[0] for text in asked) == {"10": 12, "30": 12}
    with pytest.raises(UserError, match="has questions"):
        Mixture(parts, [Fraction(0), Fraction(1), Fraction(0)]).order("questions", 1)


def test_questions_belong_to_their_image_and_keys_to_one_sample(parts: list[Dataset]) -> None:
    mixed = Mixture(parts)
    for image in mixed.images:
        sample = mixed.image_sample(image)
        for question in mixed.questions_about(image):
            assert mixed.question_sample(question).key == sample.key
            assert mixed.extent("questions", question) == mixed.extent("images", image)
    assert len({mixed.image_sample(image).key for image in mixed.images}) == 12
    with pytest.raises(IndexError, match="12 of 12"):
        mixed.image_sample(12)


def test_the_digest_covers_data_order_and_proportion() -> None:
    one, other = [Fraction(1), Fraction(2)], [Fraction(2), Fraction(1)]
    digests = [mixture_digest(*case) for case in ((["a", "b"], None), (["a", "b"], one), (["a", "b"], other))]
    assert len({*digests, mixture_digest(["b", "a"], None)}) == 4
    assert mixture_digest(["a", "b"], [Fraction("0.5"), Fraction(1)]) == digests[1]
    assert mixture_digest(["a"], None) == mixture_digest(["a"], one[:1]) == "a"
