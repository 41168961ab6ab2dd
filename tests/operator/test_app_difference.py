"""The patch of a status says what differs, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.operator.raw_objects import Raw
from unimrg_operator.app.apply import difference


def merged(target: Any, patch: Any) -> Any:
    """JSON merge patch, as RFC 7396 defines it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


_values = st.recursive(
    st.integers(0, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
_objects = st.dictionaries(st.sampled_from("abc"), _values, max_size=3)


@given(_objects, _objects)
def test_the_difference_merged_into_the_old_status_gives_the_new_one(before: Raw, after: Raw) -> None:
    patch = difference(copy.deepcopy(before), after)
    assert merged(before, patch) == after
    assert bool(patch) == (before != after)
