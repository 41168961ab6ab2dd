"""Token ids and segments of Harmon's rows, on the tokenizer that ships with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.harmon_rows import BRANCHES, TOKENS, family
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.models.harmon.codec import KL16_FILE
from unimrg_trainer.models.harmon.config import config_of
from unimrg_trainer.models.harmon.family import HarmonFamily
from unimrg_trainer.models.harmon.tokenizer import QWEN_FILE, open_tokenizer
from unimrg_trainer.objectives.base import Branch
from unimrg_trainer.packing.plan import IGNORE, Geometry, SegmentKind

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
    opening, image, prompt, target = harmon.lay_out(BRANCHES["Depth"], TOKENS - 9)[0]
    start, end = harmon.tokenizer.turn_start, harmon.tokenizer.turn_end
    assert opening.token_ids == (start, *encode("user\n")) and len(opening.token_ids) == 3
    assert (image.kind, image.length, image.image) == (SegmentKind.IMAGE, TOKENS + buffers, 0)
    prompt_ids = encode("Generate the depth map of this image.")
    assert prompt.token_ids == (*prompt_ids, end, *encode("\n"), start, *encode("assistant\n"))
    assert (target.kind, target.length, target.target) == (SegmentKind.TARGET, 9 + buffers, 0)
    assert [s.parent for s in (opening, image, prompt, target)] == [-1, 0, 1, 2]


def test_a_generation_rows_unit_is_one_use_of_a_hidden_token() -> None:
    assert harmon.lay_out(BRANCHES["Pixel"], 50)[1] == 4 * 50


def test_an_understanding_row_learns_answer_and_end_only() -> None:
    segments, units = harmon.lay_out(BRANCHES["Understanding"], 0)
    text = segments[2]
    answer = [*encode("in the middle"), harmon.tokenizer.turn_end]
    assert units == len(answer)
    assert list(text.labels[-units:]) == list(text.token_ids[-units:]) == answer
    assert set(text.labels[:-units]) == {IGNORE}
    assert text.token_ids[: len(encode("\nWhere"))] == tuple(encode("\nWhere"))


def test_a_long_answer_is_cut_and_a_question_without_room_is_refused() -> None:
    limit = harmon.config.question_limit
    segments, units = harmon.lay_out(Branch("Why?", Geometry.PAD, answer="because " * 300), 0)
    assert segments[2].length == limit
    assert units == sum(label != IGNORE for label in segments[2].labels) < limit
    with pytest.raises(UserError, match="no room for its answer"):
        harmon.lay_out(Branch("why " * 300, Geometry.PAD, answer="so"), 0)


def test_the_unconditional_prompt_has_no_image() -> None:
    ids = harmon.template.unconditional()
    prompt = harmon.template.opening() + harmon.template.prompt("Generate an image.")
    assert ids == prompt


def test_a_missing_published_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"qwen2\.5-tokenizer\.json is missing"):
        open_tokenizer(config_of("1.5B"), tmp_path)


def test_a_missing_published_autoencoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"kl16\.safetensors is missing"):
        _ = HarmonFamily("1.5B", assets=tmp_path).codec


def test_files_that_a_size_needs_are_asked_for_before_anything_is_built(tmp_path: Path) -> None:
    HarmonFamily("Tiny", assets=tmp_path / "nowhere").check_assets()
    published = HarmonFamily("1.5B", assets=tmp_path)
    for name in (KL16_FILE, QWEN_FILE):
        with pytest.raises(UserError, match=rf"{name} is missing") as error:
            published.check_assets()
        assert error.value.exit_code is ExitCode.INPUT_MISSING
        (tmp_path / name).touch()
    published.check_assets()
