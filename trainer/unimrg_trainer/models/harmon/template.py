"""Harmon's conversation format as token ids (docs/method/harmon.md).

The pieces before and after the image are tokenised apart: in one piece a prompt that starts with a line break would
merge with the one before the image, and the third id would be "⏎⏎". There is no system prompt.
"""

from __future__ import annotations

from unimrg_api.sizes.harmon import HarmonConfig
from unimrg_trainer.models.common.tokenizer import ChatTokenizer

UNCONDITIONAL_PROMPT = "Generate an image."
"""What guidance compares with: a prompt that names nothing, without the input image."""


class Template:
    """Token ids of every part of a conversation."""

    def __init__(self, config: HarmonConfig, tokenizer: ChatTokenizer) -> None:
        self._config = config
        self._tokenizer = tokenizer

    def opening(self) -> list[int]:
        """Ids before the image."""
        return [self._tokenizer.turn_start, *self._tokenizer.encode("user\n")]

    def question(self, text: str, *, with_image: bool = True) -> list[int]:
        """Ids between the image, or the opening, and the answer."""
        return self._close("\n" + text if with_image else text)

    def prompt(self, text: str) -> list[int]:
        """Ids between the image, or the opening, and the target."""
        return self._close(text)[: self._config.prompt_limit]

    def caption(self, text: str) -> list[int]:
        """Ids between the opening and the target, where an image is generated from its description alone; never cut."""
        return self._close(f"Generate an image: {text}")

    def answer(self, text: str) -> list[int]:
        """Ids of an answer, all of which are learnt."""
        return [*self._tokenizer.encode(text), self._tokenizer.turn_end]

    def follow_up(self, text: str) -> list[int]:
        """Ids between an answer and the answer to the question that follows it."""
        return [*self._tokenizer.encode("\n"), *self.opening(), *self._close(text)]

    def _close(self, text: str) -> list[int]:
        tokenizer = self._tokenizer
        return [
            *tokenizer.encode(text),
            tokenizer.turn_end,
            *tokenizer.encode("\n"),
            tokenizer.turn_start,
            *tokenizer.encode("assistant\n"),
        ]
