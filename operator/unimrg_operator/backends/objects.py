"""Tolerant reading of Kubernetes objects as plain JSON values: anybody may have written what stands in them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def dig(value: Any, *path: str) -> Any:
    """Return what stands at a path of nested mappings, None where it breaks off."""
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def dicts_of(value: Any, *path: str) -> list[Mapping[str, Any]]:
    """Return the mappings of the list at a path; none where there is no list."""
    items = dig(value, *path)
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def text_of(value: Any, key: str) -> str:
    """Return the text at a key, empty where there is none."""
    item = dig(value, key)
    return item if isinstance(item, str) else ""


def int_of(value: Any, key: str, default: int = 0) -> int:
    """Return the whole number at a key, also where it stands there as text (as in labels)."""
    item = dig(value, key)
    if isinstance(item, str) and item.isascii() and item.isdigit() and len(item) < 10:
        return int(item)
    return item if isinstance(item, int) and not isinstance(item, bool) else default


def time_of(value: Any) -> float | None:
    """Return the Unix time in seconds of a time in ISO 8601, None where it is none."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def owner_of(item: Any) -> Mapping[str, Any]:
    """Return the owner reference of the controller of an object; empty if it has none."""
    owners = dicts_of(item, "metadata", "ownerReferences")
    return next((owner for owner in owners if owner.get("controller") is True), {})


def conditions_of(item: Any) -> dict[str, Mapping[str, Any]]:
    """Return the conditions of an object by their type."""
    return {text_of(condition, "type"): condition for condition in dicts_of(item, "status", "conditions")}


def true_conditions(item: Any) -> set[str]:
    """Return the types of the conditions of an object that are True."""
    return {name for name, condition in conditions_of(item).items() if text_of(condition, "status") == "True"}


def became_false(item: Any, name: str) -> float | None:
    """Return the Unix time at which a condition became False; None where it is not, or has no time."""
    condition = conditions_of(item).get(name, {})
    return time_of(dig(condition, "lastTransitionTime")) if text_of(condition, "status") == "False" else None
