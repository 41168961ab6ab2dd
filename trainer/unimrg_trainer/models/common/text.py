"""Text in training rows: tokens with labels, and conversations cut to the room that there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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
    """Return a segment of `ids`, which are not predicted, and of an `answer` behind them, which is."""
    return TextSegment(length=len(ids) + len(answer), token_ids=(*ids, *answer), labels=(*[IGNORE] * len(ids), *answer))


class Turns(Protocol):
    """What a family's template says of a conversation's texts."""

    def answer(self, text: str) -> list[int]:
        """Ids of an answer, all of which are predicted."""
        ...

    def follow_up(self, text: str) -> list[int]:
        """Ids between an answer and the answer to the question that follows it."""
        ...


def conversation(task: Task, question: Sequence[int], template: Turns, limit: int) -> TextSegment:
    """Return a question, as its ids, with its answer and the further turns of a task: at most `limit` tokens.

    What does not fit is cut at the end. UserError (DATA_CORRUPT) where nothing of the first answer does.
    """
    if len(question) >= limit:
        raise UserError(
            f"sample {task.sample.key!r}: a question of {len(question)} tokens leaves no room for its answer "
            f"within {limit}: {task.prompt[:60]!r}",
            remedy="shorten or drop the sample",
            exit_code=ExitCode.DATA_CORRUPT,
        )
    assert task.answer is not None
    ids, labels = list[int](), list[int]()
    turns = [(list(question), task.answer)]
    turns += [(template.follow_up(asked), answered) for asked, answered in task.further]
    for asked_ids, answered in turns:
        if len(ids) + len(asked_ids) >= limit:
            break
        answer_ids = template.answer(answered)
        ids += [*asked_ids, *answer_ids]
        labels += [*[IGNORE] * len(asked_ids), *answer_ids]
    ids, labels = ids[:limit], labels[:limit]
    return TextSegment(length=len(ids), token_ids=tuple(ids), labels=tuple(labels))


def labelled(labels: Sequence[int]) -> int:
    """Return how many tokens are predicted."""
    return sum(label != IGNORE for label in labels)
