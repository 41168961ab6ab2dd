"""Token ids and segments of OpenUni's rows, and the files that a size needs."""

from __future__ import annotations

import pytest

from tests.models.openuni_rows import family, row, rows_of
from tests.models.rows import rng_for, task
from unimrg_api.errors import UserError
from unimrg_trainer.models.common.text import IGNORE, TextSegment
from unimrg_trainer.models.openuni.rows import ImageSegment, QuerySegment

openuni = family()
encode = openuni.tokenizer.encode
START, END = openuni.tokenizer.turn_start, openuni.tokenizer.turn_end
IMG, IMG_END = 768, 769
TAIL = [END, *encode("\n"), START, *encode("assistant\n")]


def test_a_row_that_generates_from_an_image_has_openunis_layout() -> None:
    opening, image, prompt, queries = row(openuni, "Depth", 0, task("Depth", 0)).segments
    assert isinstance(opening, TextSegment) and isinstance(image, ImageSegment) and isinstance(prompt, TextSegment)
    assert list(opening.token_ids) == [START, *encode("user\n"), IMG]
    assert image.length == openuni.config.vision.tokens == 64 and not image.for_question
    assert list(prompt.token_ids) == [IMG_END, *encode("\nGenerate the depth map of this image."), *TAIL, IMG]
    assert isinstance(queries, QuerySegment) and queries.length == 64


def test_a_row_that_generates_from_text_says_so() -> None:
    text, queries = row(openuni, "Depth", 0, task("Depth", 0, image=False)).segments
    assert isinstance(text, TextSegment) and isinstance(queries, QuerySegment)
    said = "user\nGenerate an image: Generate the depth map of this image."
    assert list(text.token_ids) == [START, *encode(said), *TAIL, IMG]


def test_what_guidance_compares_with_is_the_published_prompt() -> None:
    assert openuni.template.unconditional() == [START, *encode("user\nGenerate an image."), *TAIL, IMG]


def test_an_openuni_answer_is_learnt_up_to_the_end_of_its_turn() -> None:
    asked = row(openuni, "Understanding", 0, task("Understanding", 0))
    _, image, text = asked.segments
    assert isinstance(image, ImageSegment) and image.for_question and isinstance(text, TextSegment)
    answer = [*encode("in the middle"), END]
    question = [IMG_END, *encode("\nWhere is the nearest object?"), *TAIL]
    assert list(text.token_ids) == question + answer
    assert list(text.labels) == [IGNORE] * len(question) + answer
    assert asked.loss_terms == len(answer)


def test_texts_beyond_openunis_limits_are_cut_or_refused() -> None:
    limit = openuni.config.question_limit
    cut = row(openuni, "Understanding", 0, task("Understanding", 0, prompt="Why?", answer="because " * 300))
    assert cut.segments[2].length == limit
    assert isinstance(text := cut.segments[2], TextSegment)
    assert cut.loss_terms == sum(label != IGNORE for label in text.labels) < limit
    with pytest.raises(UserError, match=r"'7'.*no room for its answer"):
        row(openuni, "Understanding", 0, task("Understanding", 7, prompt="why " * 300, answer="so"))
    long = openuni.template.prompt("why " * 300, with_image=True)
    assert len(long) == 1 + 128 + len(TAIL) + 1 and long[-len(TAIL) - 1 :] == [*TAIL, IMG]


def test_places_predict_the_label_behind_them() -> None:
    """Against a plain walk over the rows: every label's place is one before its own."""
    rows = rows_of(openuni, ["Understanding", "Pixel"], [0, 1])
    batch = openuni.collate(rows, rng_for)
    length = batch.sources.shape[1]
    expected = []
    for index, one in enumerate(rows):
        place = index * length
        for segment in one.segments:
            for offset in range(segment.length):
                if isinstance(segment, TextSegment) and segment.labels[offset] != IGNORE:
                    expected.append((place - 1, segment.labels[offset]))
                place += 1
    assert list(zip(batch.predictors.tolist(), batch.labels.tolist(), strict=True)) == expected and expected
