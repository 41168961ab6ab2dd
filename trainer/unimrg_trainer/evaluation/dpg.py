"""DPG-Bench's rules: the graph of a prompt's questions, what a "no" does to the questions below it, and the means.

Pure: from a table and answers to scores in percent. `reference=True` reproduces the defects of the reference
implementation (ELLA's compute_dpg_bench.py) that change numbers; docs/method/evaluation.md lists them.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

PROMPTS = 1065
COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
"""Columns of dpg_bench.csv that are read."""
REFERENCE_PROCESSES = 8
"""Over how many processes the reference's defect with categories is reproduced."""

Answers = Mapping[int, bool]
"""Number of a question → whether the judge said yes."""


@dataclass(frozen=True)
class Question:
    """A question about an image, and the questions that must be answered yes for it to make sense."""

    text: str
    parents: tuple[int, ...]
    category: str
    """`entity - whole`: what stands before the hyphen is the category of the first level."""


@dataclass(frozen=True)
class Graph:
    """A prompt with its questions by number, in the table's order."""

    prompt: str
    questions: dict[int, Question] = field(default_factory=dict)

    def unknown_parents(self) -> int:
        """Return how many dependencies name a question that the prompt does not have."""
        return sum(parent not in self.questions for one in self.questions.values() for parent in one.parents)


def read_graphs(content: bytes, *, reference: bool = False) -> dict[str, Graph]:
    """Return the graphs of a dpg_bench.csv by item. `reference`: its first row is lost.

    Raises ValueError that says what is wrong with the table.
    """
    rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig", "replace"), newline=""))
    missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise ValueError(f"it has no column {missing[0]}")
    graphs: dict[str, Graph] = {}
    for number, row in enumerate(rows):
        if reference and number == 0:
            continue
        try:
            item, key = row["item_id"], int(row["proposition_id"])
            parents = tuple(int(parent) for parent in row["dependency"].split(","))
            category = row["tuple"].split("(")[0].strip()
        except (ValueError, AttributeError) as error:
            raise ValueError(f"row {number + 1} is no question: {error}") from error
        graph = graphs.setdefault(item, Graph(row["text"]))
        graph.questions[key] = Question(
            row["question_natural_language"], tuple(parent for parent in parents if parent != 0), category
        )
    return graphs


def counted(graph: Graph, answers: Answers) -> dict[int, float]:
    """Return, for each question, 1 if it and everything that it depends on was answered yes, else 0.

    The order of the table does not matter. A dependency on a question that is not there, or on itself, is none.
    """
    values = {number: float(answers[number]) for number in graph.questions}
    changed = True
    while changed:
        changed = False
        for number, question in graph.questions.items():
            if values[number] and any(values.get(parent) == 0 for parent in question.parents):
                values[number], changed = 0.0, True
    return values


def counted_as_the_reference(graph: Graph, answers: Answers) -> dict[int, float]:
    """As `counted`, in one pass in the table's order: a parent that comes later counts by its bare answer.

    Raises KeyError for a parent that is not there.
    """
    values = {number: float(answers[number]) for number in graph.questions}
    for number, question in graph.questions.items():
        if any(values[parent] == 0 for parent in question.parents):
            values[number] = 0.0
    return values


@dataclass(frozen=True)
class Scores:
    """Means over prompts and over questions, in percent; what is left out is counted."""

    overall: float
    prompts: dict[str, float]
    """Item → mean over its images, 0 … 1."""
    categories: dict[str, float]
    """Of both levels: `entity`, `entity - whole`."""
    dropped: tuple[str, ...] = ()
    """Items that have answers and no score, as in the reference."""


def score(graphs: Mapping[str, Graph], answers: Mapping[str, Sequence[Answers]]) -> Scores:
    """Score the items that have answers, one dictionary for each image: the mean over questions, over images, over
    items. Categories are means over the questions of all images, zeroed as they count.

    Raises ValueError where nothing was answered.
    """
    of_images = {item: [counted(graphs[item], one) for one in images] for item, images in answers.items() if images}
    prompts = {item: float(np.mean([_mean(image) for image in images])) for item, images in of_images.items()}
    if not prompts:
        raise ValueError("no image has answers")
    values: dict[str, list[float]] = defaultdict(list)
    for item, images in of_images.items():
        _collect(values, graphs[item], images)
    return Scores(100 * float(np.mean(list(prompts.values()))), prompts, _levels(values))


def score_as_the_reference(
    graphs: Mapping[str, Graph],
    answers: Mapping[str, Sequence[Answers]],
    seed: int,
    processes: int = REFERENCE_PROCESSES,
) -> Scores:
    """As `score`, with the reference's defects: an item whose scoring fails is dropped, categories know the bare
    answers about the last image alone, and `processes` gather them in orders of their own, so that they mix.

    The orders follow from `seed`, those of the reference from the hash seeds of its processes. Raises ValueError where
    nothing is left.
    """
    shares = np.array_split(np.array(sorted(answers), dtype=object), processes)
    prompts: dict[str, float] = {}
    dropped: list[str] = []
    of_processes: list[dict[str, list[float]]] = []
    for share in shares:
        values: dict[str, list[float]] = defaultdict(list)
        for item in share:
            try:
                images = [_mean(counted_as_the_reference(graphs[item], image)) for image in answers[item]]
                prompts[item] = sum(images) / len(images)
            except (KeyError, ZeroDivisionError):
                dropped.append(item)
                continue
            _collect(values, graphs[item], [{key: float(yes) for key, yes in answers[item][-1].items()}])
        of_processes.append(values)
    if not prompts:
        raise ValueError("no image has answers")
    names = sorted(set(chain.from_iterable(of_processes)))
    random = np.random.default_rng(seed)
    orders = [[names[index] for index in random.permutation(len(names))] for _ in shares]
    mixed = gathered(of_processes, orders)
    return Scores(100 * float(np.mean(list(prompts.values()))), prompts, _levels(mixed), tuple(dropped))


def gathered(
    of_processes: Sequence[Mapping[str, list[float]]], orders: Sequence[Sequence[str]]
) -> dict[str, list[float]]:
    """Return what a gathering per category yields where each process goes through the categories in its own order:
    under the name that the first one is at, the values of what each of them is at."""
    return {
        names[0]: [value for values, name in zip(of_processes, names, strict=True) for value in values.get(name, ())]
        for names in zip(*orders, strict=True)
    }


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values)


def _collect(values: dict[str, list[float]], graph: Graph, images: Sequence[Mapping[int, float]]) -> None:
    for image in images:
        for number, question in graph.questions.items():
            values[question.category].append(image[number])


def _levels(values: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the means in percent of the categories and of what they belong to, in the order of the alphabet."""
    all_levels: dict[str, list[float]] = defaultdict(list)
    for category, of_category in values.items():
        first = category.split("-")[0].strip()
        for level in {first, category}:
            all_levels[level].extend(of_category)
    return {level: 100 * float(np.mean(found)) for level, found in sorted(all_levels.items()) if found}
