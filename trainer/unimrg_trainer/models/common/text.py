"""Text in training rows: tokens with labels, and an answer cut to the room that its question leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.objectives.base import Task
from unimrg_trainer.packing.segments import Segment

IGNORE = -100
"""Label of a token that no loss is computed for."""


@dataclass(frozen=True, kw_only=True)
class TextSegment(Segment):
    """Tokens of text; `labels` holds the token's own id where it is to be predicted, else IGNORE."""

    token_ids: tuple[int, ...]
    labels: tuple[int, ...]


def text_segment(ids: Sequence[int], answer: Sequence[int] = ()) -> TextSegment:
    """Return a segment of `ids`, which are not learnt, and of an `answer` behind them, which is."""
    return TextSegment(length=len(ids) + len(answer), token_ids=(*ids, *answer), labels=(*[IGNORE] * len(ids), *answer))


def cut_answer(task: Task, question: Sequence[int], answer: Sequence[int], limit: int) -> list[int]:
    """Return as much of the answer as fits behind its question within `limit` tokens.

    UserError (DATA_CORRUPT) where nothing does.
    """
    room = limit - len(question)
    if room <= 0:
        raise UserError(
            f"sample {task.sample.key!r}: a question of {len(question)} tokens leaves no room for its answer "
            f"within {limit}: {task.prompt[:60]!r}",
            remedy="shorten or drop the sample",
            exit_code=ExitCode.DATA_CORRUPT,
        )
    return list(answer[:room])
