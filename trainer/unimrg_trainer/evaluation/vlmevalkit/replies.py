"""Replies to a table's questions: what the rules read out of each, and what is worth knowing about all of them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.evaluation.vlmevalkit.choices import extract_choice
from unimrg_trainer.evaluation.vlmevalkit.prompts import options
from unimrg_trainer.evaluation.vlmevalkit.tables import Row, as_read_back
from unimrg_trainer.evaluation.vlmevalkit.yes_no import extract_yes_no

Kind = Literal["MultipleChoice", "YesNo"]
YES_NO = {"Yes": "Yes", "No": "No"}
DOUBTFUL = 0.05
"""A larger share of replies without an answer than this is warned of."""
ONE_SIDED = 0.8
"""A larger share of one and the same answer is warned of, where it is right in less than half of the questions."""


@dataclass(frozen=True, eq=False)
class Reply:
    """One question with the model's reply."""

    row: Row
    prediction: str
    """As the model wrote it."""
    extracted: str
    """A letter, `Yes` or `No`; empty: the reply does not say."""
    choices: Mapping[str, str]
    """What may be answered."""

    @property
    def index(self) -> str:
        """The row's index."""
        return self.row["index"]

    @property
    def right(self) -> bool:
        """True if the answer that was read out of the reply is the row's."""
        return self.extracted != "" and self.extracted == self.row["answer"]

    @property
    def parsed(self) -> bool:
        """True if one of the possible answers was read out of the reply; a refusal is none."""
        return self.extracted in self.choices


def read_replies(rows: Sequence[Row], predictions: Sequence[str], kind: Kind, rule_set: str) -> list[Reply]:
    """Return the replies in the order of their indices, so that no score depends on the order of rows."""
    replies = []
    for row, prediction in zip(rows, predictions, strict=True):
        text = as_read_back(prediction)
        choices = options(row) if kind == "MultipleChoice" else YES_NO
        extracted = extract_choice(text, choices, rule_set) if kind == "MultipleChoice" else extract_yes_no(text)
        replies.append(Reply(row, prediction, extracted, choices))
    return sorted(replies, key=lambda reply: by_index(reply.row))


def never_right(rows: Sequence[Row], kind: Kind) -> list[str]:
    """Say which questions no reply can answer: those without options, or with an answer that is none of them."""
    if kind == "YesNo":
        others = [row for row in rows if row["answer"] not in YES_NO]
        return _named("rows with an answer other than Yes or No (capitals count)", others)
    bare = [row for row in rows if not options(row)]
    other = [row for row in rows if options(row) and row["answer"] not in options(row)]
    return _named("rows without options", bare) + _named("rows with an answer that is none of their options", other)


def by_index(row: Row) -> tuple[int, str]:
    """Return a key that sorts rows by index: numbers by value, before texts."""
    index = row["index"]
    return (int(index), "") if index.isdecimal() else (1 << 62, index)


def reply_metrics(replies: Sequence[Reply]) -> dict[str, float]:
    """Return n, the shares (percent) of replies without an answer and of empty ones, mean length in characters, and for
    questions of yes or no the share of Yes."""
    n = len(replies)
    metrics = {
        "n": float(n),
        "unparsed_rate": 100 * sum(not reply.parsed for reply in replies) / n,
        "empty_rate": 100 * sum(not reply.prediction.strip() for reply in replies) / n,
        "mean_length": sum(len(reply.prediction) for reply in replies) / n,
    }
    if all(reply.choices is YES_NO for reply in replies):
        metrics["yes_rate"] = 100 * sum(reply.extracted == "Yes" for reply in replies) / n
    return metrics


def reply_warnings(replies: Sequence[Reply]) -> list[str]:
    """Say what in the replies themselves makes a score doubtful."""
    n = len(replies)
    warnings = []
    unparsed = sum(not reply.parsed for reply in replies)
    if unparsed > DOUBTFUL * n:
        warnings.append(f"Replies that name no answer: {unparsed} of {n}; they count as wrong.")
    empty = sum(not reply.prediction.strip() for reply in replies)
    if empty > DOUBTFUL * n:
        warnings.append(f"Empty replies: {empty} of {n}.")
    for answer, (given, right) in answer_counts(replies).items():
        if answer and given > ONE_SIDED * n and right < n / 2:
            warnings.append(f"The answer {answer}: given {given} times in {n} replies, and right {right} times.")
    return warnings


def answer_counts(replies: Sequence[Reply]) -> dict[str, tuple[int, int]]:
    """Return answer → (how often it was given, how often it is right), by answer; replies without one under ``."""
    given = Counter(reply.extracted for reply in replies)
    right = Counter(reply.row["answer"] for reply in replies)
    return {answer: (given[answer], right[answer]) for answer in sorted({*given, *right})}


def answer_counts_file(replies: Sequence[Reply]) -> bytes:
    """Return `answer_counts` as TSV: which answers the model favours."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerow(["answer", "given", "right"])
    writer.writerows([answer or "none", *counts] for answer, counts in answer_counts(replies).items())
    return file.getvalue().encode()


def refuse_rows(what: str, rows: Sequence[Row]) -> None:
    """Raise UserError (65) with `what` these rows are and their indices; nothing where there are none."""
    if said := _named(what, rows):
        raise UserError(said[0], remedy="correct the table", exit_code=ExitCode.DATA_CORRUPT)


def _named(what: str, rows: Sequence[Row]) -> list[str]:
    first = ", ".join(row["index"] for row in rows[:5]) + (", …" if len(rows) > 5 else "")
    return [f"{what}: {len(rows)} ({first})"] if rows else []
