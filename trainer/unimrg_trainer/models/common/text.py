"""Text in training rows: tokens with labels, and answers cut to the room that their first question leaves."""

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


class Turns(Protocol):
    """A family's template, as far as a conversation goes on behind its first question."""

    def answer(self, text: str) -> list[int]:
        """Ids of an answer, all of which are learnt."""
        ...

    def further(self, text: str) -> list[int]:
        """Ids between an answer and the answer to a later question."""
        ...


def text_segment(ids: Sequence[int], answer: Sequence[int] = (), labels: Sequence[int] | None = None) -> TextSegment:
    """Return a segment of `ids`, which are not learnt, and of an `answer` behind them, which is, or has `labels`."""
    learnt = answer if labels is None else labels
    return TextSegment(length=len(ids) + len(answer), token_ids=(*ids, *answer), labels=(*[IGNORE] * len(ids), *learnt))


def answers(task: Task, question: Sequence[int], template: Turns, limit: int) -> tuple[list[int], list[int]]:
    """Return what follows the first question, as ids and labels: its answer, then further questions with their answers.

    As much as fits within `limit` tokens. UserError (DATA_CORRUPT) where nothing does.
    """
    room = limit - len(question)
    if room <= 0:
        raise UserError(
            f"sample {task.sample.key!r}: a question of {len(question)} tokens leaves no room for its answer "
            f"within {limit}: {task.prompt[:60]!r}",
            remedy="shorten or drop the sample",
            exit_code=ExitCode.DATA_CORRUPT,
        )
    assert task.answer is not None
    ids = template.answer(task.answer)
    labels = list(ids)
    for asked, answered in task.further:
        between, answer = template.further(asked), template.answer(answered)
        if len(ids) + len(between) >= room:
            break
        ids = [*ids, *between, *answer]
        labels += [*[IGNORE] * len(between), *answer]
    return ids[:room], labels[:room]


def learnt(labels: Sequence[int]) -> int:
    """Return how many tokens are to be predicted."""
    return sum(label != IGNORE for label in labels)
