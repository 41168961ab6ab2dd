"""The Spatial benchmark's score: exact answers about generated scenes, against the best constant answer.

A model that has learnt the answers' frequencies but not to look scores like the *majority answer*: per family
the answer that is right most often **in the very questions scored** (a tie goes to the first in the
alphabet). It is chosen with the truth in hand, so no constant answer could do better and a gain over it is
not flattered. Answers that are not among the family's answers are counted as unparsed, and as wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from unimrg_trainer.evaluation.extraction import RULE_SET, extract, normalise
from unimrg_trainer.evaluation.intervals import (
    Interval,
    bootstrap_ratio_interval,
    cluster_sums,
    mcnemar,
    wilson,
)


@dataclass(frozen=True)
class Answered:
    """One question, its true answer, and what the model wrote."""

    image: str
    """Key of the image: questions about one image are not independent."""
    family: str
    truth: str
    answer: str


@dataclass(frozen=True)
class Score:
    """How well one family, or all of them, was answered. Shares lie between 0 and 1."""

    n: int
    correct: int
    accuracy: float
    interval: Interval
    """Wilson, 95 %, as if questions were independent."""
    unparsed: int
    """Answers outside the vocabulary; they are wrong."""
    majority_answer: str | None
    """The best constant answer; None overall, where each family has its own."""
    majority_correct: int
    majority_accuracy: float
    difference: float
    """accuracy − majority_accuracy."""
    difference_interval: Interval | None
    """95 %, paired bootstrap over images; None with a single image."""
    p_value: float
    """Exact McNemar test against the majority answer; takes questions as independent."""

    @property
    def beats_majority(self) -> bool:
        """True if the whole interval of the difference lies above zero."""
        return self.difference_interval is not None and self.difference_interval.low > 0


@dataclass(frozen=True)
class SpatialScores:
    """All families together and one by one."""

    overall: Score
    families: dict[str, Score]
    rule_set: str = RULE_SET


def score(
    rows: Sequence[Answered],
    *,
    seed: int,
    vocabularies: Mapping[str, Collection[str]] | None = None,
) -> SpatialScores:
    """Score `rows`; `seed` addresses the bootstrap, `vocabularies` the possible answers per family.

    A family without a vocabulary has the answers that are true of one of its rows. The result does not depend
    on the order of rows. Raises ValueError for no rows, or a truth that is empty or outside its family's
    vocabulary.
    """
    if not rows:
        raise ValueError("there are no answers to score")
    by_family = {
        family: _mark(
            family,
            [row for row in rows if row.family == family],
            None if vocabularies is None else vocabularies.get(family),
        )
        for family in sorted({row.family for row in rows})
    }
    families = {family: _score(marked, marked[0].majority, seed) for family, marked in by_family.items()}
    overall = _score([row for marked in by_family.values() for row in marked], None, seed)
    return SpatialScores(overall, families)


@dataclass(frozen=True)
class _Marked:
    """A row with its verdicts."""

    image: str
    parsed: bool
    right: bool
    majority: str
    majority_right: bool


def _mark(family: str, rows: Sequence[Answered], given: Collection[str] | None) -> list[_Marked]:
    truths = [normalise(row.truth) for row in rows]
    vocabulary = set(truths) if given is None else {normalise(answer) for answer in given}
    for row, truth in zip(rows, truths, strict=True):
        if not truth or truth not in vocabulary:
            raise ValueError(f"the truth {row.truth!r} of {row.image} is no answer of the family {family}")
    counts = Counter(truths)
    majority = min(counts, key=lambda answer: (-counts[answer], answer))
    marked = []
    for row, truth in zip(rows, truths, strict=True):
        answer = extract(row.answer, vocabulary)
        marked.append(_Marked(row.image, answer is not None, answer == truth, majority, majority == truth))
    return marked


def _score(rows: Sequence[_Marked], majority: str | None, seed: int) -> Score:
    n = len(rows)
    correct = sum(row.right for row in rows)
    majority_correct = sum(row.majority_right for row in rows)
    differences = [float(row.right) - float(row.majority_right) for row in rows]
    sums, counts = cluster_sums(differences, [row.image for row in rows])
    return Score(
        n=n,
        correct=correct,
        accuracy=correct / n,
        interval=wilson(correct, n),
        unparsed=sum(not row.parsed for row in rows),
        majority_answer=majority,
        majority_correct=majority_correct,
        majority_accuracy=majority_correct / n,
        difference=(correct - majority_correct) / n,
        difference_interval=bootstrap_ratio_interval(sums, counts, seed=seed),
        p_value=mcnemar(differences.count(1.0), differences.count(-1.0)),
    )
