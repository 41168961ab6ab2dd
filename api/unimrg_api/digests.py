"""One canonical text for JSON values, and its digest: the same value has the same digest on every machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> str:
    """Return `value` (None, bool, int, float, str, list, dict with string keys) as JSON: sorted, no spaces.

    Raises ValueError for NaN and infinity, which JSON does not have, and TypeError for what is not JSON.
    """
    _refuse_other_keys(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of(value: Any) -> str:
    """Return the SHA-256 of `canonical_json(value)` in UTF-8, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()


def _refuse_other_keys(value: Any) -> None:
    # json.dumps turns the key 1 into "1": two different values would then have the same digest.
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a key of canonical JSON must be a string, not {key!r}")
            _refuse_other_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_other_keys(item)
