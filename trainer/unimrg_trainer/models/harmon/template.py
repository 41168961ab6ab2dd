"""Harmon's conversation format: from a branch (prompt and answer, or prompt and image) to segments of a row.

    answering:   <|im_start|>user⏎ [image] ⏎question<|im_end|>⏎<|im_start|>assistant⏎ answer<|im_end|>
    generating:  <|im_start|>user⏎ [image] prompt<|im_end|>⏎<|im_start|>assistant⏎ [target]

The pieces before and after the image are tokenised apart: in one piece a prompt that starts with a line break would
merge with the one before the image, and the third id would be "⏎⏎" (method.md §1.5). There is no system prompt.
"""

from __future__ import annotations

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.models.harmon.config import HarmonConfig
from unimrg_trainer.models.harmon.tokenizer import TextTokenizer
from unimrg_trainer.objectives.base import Branch
from unimrg_trainer.packing.plan import IGNORE, Segment, SegmentKind

UNCONDITIONAL_PROMPT = "Generate an image."
"""What guidance compares with: a prompt that says nothing, without the input image."""


class Template:
    """Token ids of every part of a conversation."""

    def __init__(self, config: HarmonConfig, tokenizer: TextTokenizer) -> None:
        self._config = config
        self._tokenizer = tokenizer

    def opening(self) -> list[int]:
        """Ids before the image."""
        return [self._tokenizer.turn_start, *self._tokenizer.encode("user\n")]

    def question(self, text: str) -> list[int]:
        """Ids between the image and the answer."""
        return self._close("\n" + text)

    def prompt(self, text: str) -> list[int]:
        """Ids between the image and the target."""
        return self._close(text)[: self._config.prompt_limit]

    def answer(self, text: str) -> list[int]:
        """Ids of an answer, all of which are learnt."""
        return [*self._tokenizer.encode(text), self._tokenizer.turn_end]

    def unconditional(self) -> list[int]:
        """Ids of a whole conversation without an image."""
        return [*self.opening(), *self._close(UNCONDITIONAL_PROMPT)]

    def _close(self, text: str) -> list[int]:
        tokenizer = self._tokenizer
        return [
            *tokenizer.encode(text),
            tokenizer.turn_end,
            *tokenizer.encode("\n"),
            tokenizer.turn_start,
            *tokenizer.encode("assistant\n"),
        ]

    def lay_out(self, branch: Branch, hidden: int) -> tuple[tuple[Segment, ...], int]:
        """Return the segments of a branch as a row of its own, and the number of units of its loss.

        A unit is a labelled token of an answer, or one of the `diffusion_repeats` uses of a hidden token of a target.
        A text beyond the limit is cut at its end (§1.4); a question that leaves no room for its answer raises
        UserError.
        """
        opening = _text(self.opening(), parent=-1)
        image = Segment(SegmentKind.IMAGE, self._config.image_slots, parent=0, image=0)
        if branch.answer is not None:
            question, answer = self.question(branch.prompt), self.answer(branch.answer)
            ids = (question + answer)[: self._config.question_limit]
            labels = ([IGNORE] * len(question) + answer)[: len(ids)]
            units = len(ids) - len(question)
            if units <= 0:
                raise UserError(
                    f"a question of {len(question)} tokens leaves no room for its answer within "
                    f"{self._config.question_limit}: {branch.prompt[:60]!r}",
                    remedy="shorten or drop the record",
                    exit_code=ExitCode.DATA_CORRUPT,
                )
            return (opening, image, _text(ids, parent=1, labels=labels)), units
        assert branch.representation is not None
        visible = self._config.tokens - hidden
        target = Segment(SegmentKind.TARGET, visible + self._config.mar.buffers, parent=2, target=0)
        return (
            (opening, image, _text(self.prompt(branch.prompt), parent=1), target),
            self._config.diffusion_repeats * hidden,
        )


def _text(ids: list[int], parent: int, labels: list[int] | None = None) -> Segment:
    labels = [IGNORE] * len(ids) if labels is None else labels
    return Segment(SegmentKind.TEXT, len(ids), parent, tuple(ids), tuple(labels))
