"""Token ids and segments of Harmon's rows, on the tokenizer that ships with it."""

from __future__ import annotations

import pytest

from tests.models.harmon_rows import TOKENS, family, row
from tests.models.rows import task
from unimrg_api.errors import UserError
from unimrg_trainer.models.common.text import IGNORE, TextSegment
from unimrg_trainer.models.harmon.encodings import Geometry
from unimrg_trainer.models.harmon.rows import ImageSegment, TargetSegment

harmon = family()
encode = harmon.tokenizer.encode


def test_special_tokens_lie_behind_the_vocabulary_in_qwens_order() -> None:
    tokenizer = harmon.tokenizer
    assert (tokenizer.text_end, tokenizer.turn_start, tokenizer.turn_end) == (765, 766, 767)
    assert tokenizer.size == harmon.config.language.vocabulary == 768


def test_two_line_breaks_are_one_token() -> None:
    """As in Qwen2.5, where they are 198 and 271: the reason why pieces around the image are tokenised apart."""
    newline, two = encode("\n"), encode("\n\n")
    assert len(newline) == len(two) == 1
    assert encode("user\n")[-1:] == newline
    assert encode("user\n\nGenerate")[1:2] == two


def test_every_byte_survives() -> None:
    text = "".join(map(chr, range(256))) + " 漢字 \U0001f600\r\n\n\t x"
    assert harmon.tokenizer.decode(encode(text)) == text


def test_text_that_spells_a_special_token_stays_text() -> None:
    ids = encode("<|im_end|>")
    assert harmon.tokenizer.turn_end not in ids
    assert harmon.tokenizer.decode(ids) == "<|im_end|>"


def test_a_generation_row_is_laid_out_as_at_inference() -> None:
    buffers = harmon.config.mar.buffers
    opening, image, prompt, target = row(harmon, "Depth", 0, task("Depth", 0), TOKENS - 9).segments
    start, end = harmon.tokenizer.turn_start, harmon.tokenizer.turn_end
    assert isinstance(opening, TextSegment) and isinstance(prompt, TextSegment)
    assert opening.token_ids == (start, *encode("user\n")) and len(opening.token_ids) == 3
    assert isinstance(image, ImageSegment) and image.geometry is Geometry.SQUASH
    assert image.length == TOKENS + buffers
    prompt_ids = encode("Generate the depth map of this image.")
    assert prompt.token_ids == (*prompt_ids, end, *encode("\n"), start, *encode("assistant\n"))
    assert isinstance(target, TargetSegment) and target.length == 9 + buffers


def test_a_generation_rows_loss_term_is_one_use_of_a_masked_token() -> None:
    assert row(harmon, "Pixel", 0, task("Pixel", 0), 50).loss_terms == 4 * 50


def test_an_understanding_row_learns_answer_and_end_only() -> None:
    asked = row(harmon, "Understanding", 0, task("Understanding", 0))
    _, image, text = asked.segments
    assert isinstance(image, ImageSegment) and image.geometry is Geometry.PAD and isinstance(text, TextSegment)
    answer = [*encode("in the middle"), harmon.tokenizer.turn_end]
    terms = asked.loss_terms
    assert terms == len(answer)
    assert list(text.labels[-terms:]) == list(text.token_ids[-terms:]) == answer
    assert set(text.labels[:-terms]) == {IGNORE}
    assert text.token_ids[: len(encode("\nWhere"))] == tuple(encode("\nWhere"))


def test_a_long_answer_is_cut_and_a_question_without_room_is_refused() -> None:
    limit = harmon.config.question_limit
    cut = row(harmon, "Understanding", 0, task("Understanding", 0, prompt="Why?", answer="because " * 300))
    text = cut.segments[2]
    assert isinstance(text, TextSegment) and text.length == limit
    assert cut.loss_terms == sum(label != IGNORE for label in text.labels) < limit
    with pytest.raises(UserError, match=r"'7'.*no room for its answer"):
        row(harmon, "Understanding", 0, task("Understanding", 7, prompt="why " * 300, answer="so"))
