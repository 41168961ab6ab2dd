"""The items of one benchmark of one run, as `results/items/NAME.jsonl` holds them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from pydantic import TypeAdapter, ValidationError

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.evaluation.result import ItemScore

_LINE = TypeAdapter(ItemScore)


class ItemTable:
    """Items in the order of their names, so that equal tables of two runs have equal rows."""

    def __init__(self, items: Sequence[ItemScore]) -> None:
        """Raises ValueError for a name that two items have."""
        self.items = sorted(items, key=lambda one: one.item)
        for first, second in pairwise(self.items):
            if first.item == second.item:
                raise ValueError(f"two items are called {first.item!r}")

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def identity(self) -> list[tuple[str, str, str]]:
        """Name, cluster and category of each item: two runs that agree in them were asked the same."""
        return [(one.item, one.cluster, one.category) for one in self.items]

    @cached_property
    def clusters(self) -> list[str]:
        """Label of each item: items of one are not independent."""
        return [one.cluster for one in self.items]

    @cached_property
    def categories(self) -> np.ndarray:
        """Category of each item [items], empty where it has none."""
        return np.array([one.category for one in self.items], dtype=str)

    def scores(self, metric: str) -> np.ndarray:
        """Return what each item contributed to a metric [items], 0…1; NaN for an item that does not count for it."""
        return np.array([one.scores.get(metric, np.nan) for one in self.items], dtype=np.float64)

    def has(self, metric: str) -> bool:
        """Whether an item counts for this metric."""
        return any(metric in one.scores for one in self.items)


def mean_of_items(scores: np.ndarray, categories: np.ndarray, *, of_categories: bool) -> float:
    """Return the mean of the items that count, or the unweighted mean of their categories' means."""
    counts = ~np.isnan(scores)
    if not of_categories:
        return float(np.mean(scores[counts]))
    names = np.unique(categories[counts])
    return float(np.mean([np.mean(scores[counts & (categories == name)]) for name in names]))


def read_items(content: bytes, place: str) -> ItemTable:
    """Parse a file of items; `place` names it in messages. Raises UserError (DATA_CORRUPT) for one that is damaged."""
    items = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            items.append(_LINE.validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise _damaged(f"{place}, line {number}: {field + ': ' if field else ''}{first['msg']}") from None
    try:
        return ItemTable(items)
    except ValueError as error:
        raise _damaged(f"{place}: {error}") from None


def _damaged(what: str) -> UserError:
    return UserError(what, remedy="evaluate the run again, or restore its results", exit_code=ExitCode.DATA_CORRUPT)
