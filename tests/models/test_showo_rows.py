"""Golden layouts of Show-o's rows: token ids, positions, who sees whom, and what is learnt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.models.rows import rng_for, task
from tests.models.showo_rows import CODES, TINY, family, rows_of
from unimrg_api.errors import UserError
from unimrg_api.sizes.showo import ShowOConfig, config_of
from unimrg_trainer.maps.pixel import PIXEL
from unimrg_trainer.models.common.text import IGNORE, text_segment
from unimrg_trainer.models.showo.rows import (
    ImagePart,
    ShowORow,
    TargetPart,
    TextPart,
    answering,
    draw_masked,
    generated,
    generation_prompt,
    positions,
    visibility,
)
from unimrg_trainer.models.showo.template import SYSTEM
from unimrg_trainer.rng import generator
from unimrg_trainer.sample import Sample

PAD, SOI, EOI, T2I, MMU = 768, 769, 770, 773, 774
END = 765
encode = family().tokenizer.encode


def spelled(row: ShowORow) -> list[int | str]:
    """Token ids, with one word for each image."""
    found: list[int | str] = []
    for part in row.parts:
        if isinstance(part, TextPart):
            found += part.token_ids
        else:
            found.append(f"{part.use.value} {part.length}" if isinstance(part, ImagePart) else f"target {part.length}")
    return found


def only(config: ShowOConfig, objective: str, **kind: bool) -> ShowORow:
    (row,) = rows_of(family(config), [objective], [0], **kind)
    return row


def test_published_ids_are_those_of_the_paper_code() -> None:
    config = config_of("CLIP-512")
    names = ("[PAD]", "soi", "eoi", "t2i", "mmu", "lvg")
    assert [config.special(name) for name in names] == [50295, 50296, 50297, 50300, 50301, 50304]
    assert (config.first_code, config.mask, config.vocabulary, config.codebook) == (50305, 58497, 58498, 8192)


def test_rows_spell_out_as_published() -> None:
    question, answer = encode("USER: Where is it? ASSISTANT:"), [*encode(" in the middle"), END]
    prompt = [END, *encode("USER: \n Generate the depth map of this image. ASSISTANT:"), END]
    block = [SOI, "target 64", EOI]
    assert spelled(only(TINY, "Understanding")) == [MMU, *encode(SYSTEM), SOI, "question 64", EOI, *question, *answer]
    assert spelled(only(CODES, "Understanding")) == [MMU, SOI, "question 64", EOI, *question, *answer]
    assert spelled(only(TINY, "Depth")) == [MMU, SOI, "source 64", EOI, *prompt, *block]
    assert spelled(only(CODES, "Depth")) == [MMU, SOI, "source 16", EOI, *prompt, *block]
    caption = [END, *encode("Generate the depth map of this image."), END]
    assert spelled(only(TINY, "Depth", image=False)) == [T2I, *caption, *block]


def test_a_question_at_inference_is_that_of_each_variants_demo() -> None:
    assert family(TINY).template.asked("Why?") == encode("USER: Why? ASSISTANT:")
    assert family(CODES).template.asked("Why?") == [END, *encode("USER: \nWhy? ASSISTANT:")]


def published_parts(variant: str, source: bool) -> tuple[ShowOConfig, list[int], int]:
    """Positions of a generation with a prompt of 7 ids, and the place of the first code."""
    config = config_of(variant)
    parts = [
        *generation_prompt(config, [1] * 7, Sample("") if source else None),
        *generated(config, Sample(""), PIXEL, 5, with_source=source),
    ]
    return config, positions(parts).tolist(), sum(part.length for part in parts[:-2])


def test_the_image_has_the_published_place_whatever_the_prompts_length() -> None:
    """Indices of the published rows, whose texts are padded: method of RecA with CLIP and codes, and of Show-o."""
    for variant, codes in (("CLIP-512", 1024), ("CLIP-256", 256)):
        _, found, first = published_parts(variant, source=True)
        assert found == [*range(579), *range(579, 586), *range(704, 704 + codes + 2)]
        assert found[first] == 705
    for variant, codes in (("VQ-512", 1024), ("VQ-256", 256)):
        _, found, first = published_parts(variant, source=True)
        # 381 ids of text end before the image: 374 pads, mmu, soi, 256 codes, eoi, 7 ids
        assert found == [*range(374, 374 + 3 + 256 + 7), *range(640, 640 + codes + 2)]
    _, found, first = published_parts("CLIP-512", source=False)
    assert found == [*range(121, 129), *range(129, 1155)]
    assert found[first] == 130


def test_an_answers_positions_count_up_from_zero() -> None:
    row = only(TINY, "Understanding")
    assert positions(row.parts).tolist() == list(range(sum(part.length for part in row.parts)))


def test_clip_columns_are_seen_by_all_and_text_is_causal() -> None:
    row = only(TINY, "Understanding")
    sees, shown = visibility(row.parts), row.parts[0].length
    length = len(sees)
    expected = np.tril(np.ones((length, length), dtype=bool))
    expected[:, shown : shown + 64] = True
    assert (sees == expected).all()


def test_with_codes_all_up_to_eoi_is_seen_by_all() -> None:
    sees = visibility(only(CODES, "Understanding").parts)
    expected = np.tril(np.ones_like(sees))
    expected[:, : 2 + 64 + 1] = True
    assert (sees == expected).all()


@pytest.mark.parametrize("ends", [True, False])
def test_a_generated_image_sees_itself_and_all_before_it(ends: bool) -> None:
    config = replace(TINY, ends_in_block=ends)
    row = only(config, "Depth")
    sees = visibility(row.parts)
    expected = np.tril(np.ones_like(sees))
    expected[:, 2 : 2 + 64] = True
    first = len(sees) - 65
    block = slice(first - 1, None) if ends else slice(first, first + 64)
    expected[block, block] = True
    assert (sees == expected).all()


def test_an_input_image_of_codes_sees_itself_and_its_mmu_does_not_see_it() -> None:
    sees = visibility(only(CODES, "Depth").parts)
    expected = np.tril(np.ones_like(sees))
    expected[1:19, 1:19] = True  # soi, 16 codes, eoi
    expected[-66:, -66:] = True
    assert (sees == expected).all()


def test_loss_terms_are_answer_tokens_and_masked_codes() -> None:
    answer = only(TINY, "Understanding")
    text = answer.parts[-1]
    assert isinstance(text, TextPart)
    assert answer.loss_terms == sum(label != IGNORE for label in text.labels) == len(encode(" in the middle")) + 1
    assert text.labels[-1] == END
    target = only(TINY, "Depth").parts[-2]
    assert isinstance(target, TargetPart)
    assert target.masked == only(TINY, "Depth").loss_terms == draw_masked(TINY, rng_for("Depth", 0, "mask-rate"))


def test_every_row_draws_its_own_mask_rate_with_the_published_mean() -> None:
    config = config_of("CLIP-512")
    random = generator("rates")
    masked = np.array([draw_masked(config, random) for _ in range(20000)])
    assert masked.mean() / 1024 == pytest.approx(2 / np.pi, abs=0.005)
    assert masked.min() >= 1 and masked.max() <= 1024
    assert len({row.loss_terms for row in rows_of(family(), ["Depth"], range(8))}) > 4


def test_long_texts_are_cut_and_a_question_without_room_is_refused() -> None:
    showo = family()
    (cut,) = showo.plan(
        "Understanding", [(0, task("Understanding", 0, prompt="Why?", answer="because " * 300))], rng_for
    )
    assert isinstance(cut, ShowORow) and cut.parts[-1].length == TINY.question_limit
    prompt = showo.template.prompt("word " * 300)
    assert len(prompt) == TINY.prompt_limit and prompt[-1] == END
    assert len(showo.template.caption("word " * 300)) == TINY.caption_limit
    with pytest.raises(UserError, match=r"'7'.*no room for its answer"):
        showo.plan("Understanding", [(0, task("Understanding", 7, prompt="why " * 300, answer="so"))], rng_for)


def test_a_question_without_an_image_is_text_alone() -> None:
    parts = answering(TINY, [5], text_segment([6, 7], [8]), None)
    assert [part.length for part in parts] == [5]
