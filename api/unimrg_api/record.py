"""Small JSON records that cross from a pod to its readers: written within 4 KiB, read with tolerance.

The writer may be an older version, a broken program or not ours at all, so reading never fails on a field:
what does not fit its type is left out.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from unimrg_api.redaction import clean, shorten

SIZE_LIMIT = 4096
"""Bytes: what Kubernetes keeps of a termination message, and what progress is held to."""

TEXT_LIMIT = 512
"""Characters of every text field but the message."""

WHOLE_LIMIT = 2**63 - 1
"""Largest whole number: no reader of ours, nor the API of a cluster, holds a larger one."""


class Record(BaseModel):
    """Base of the records."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore", strict=True)
    message_limit: ClassVar[int] = 2048

    message: str = ""
    """What happened, in plain English."""

    def to_json(self) -> str:
        """Return the record as one line of JSON: at most SIZE_LIMIT bytes in UTF-8, no keys, no escapes.

        Numbers that JSON does not have (NaN, infinity) are left out. If it is too long, texts and mappings are cut,
        the longest first.
        """
        dumped = self.model_dump(by_alias=True, mode="python", exclude_none=True)
        values = {key: fit for key, value in dumped.items() if (fit := self._fit(key, value)) is not None}
        for limit in (self.message_limit, 1024, 512, 256, 128, 64, 32):
            cut = {key: _cut(value, limit) for key, value in values.items()}
            text = json.dumps(cut, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            if len(text.encode()) <= SIZE_LIMIT:
                return text
        raise AssertionError("a record of short texts is longer than the limit")

    @classmethod
    def read(cls, data: bytes | str) -> Self | None:
        """Read a record; None if `data` is no JSON object within the size limit.

        A field that does not fit has its default.
        """
        try:
            raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
            content = json.loads(raw) if len(raw) <= SIZE_LIMIT else None
        except (ValueError, RecursionError):
            return None
        if not isinstance(content, dict):
            return None
        kept: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            annotation: Any = field.annotation
            with suppress(ValidationError):
                value = cls._fit(name, content.get(field.alias or name))
                if value is not None:
                    kept[name] = TypeAdapter(annotation).validate_python(value, strict=True)
        return cls.model_validate(kept)

    @classmethod
    def _fit(cls, name: str, value: Any) -> Any:
        """Return a value fit to be written and read; None for a number that nobody can hold."""
        if isinstance(value, str):
            return clean(value, cls.message_limit if name == "message" else TEXT_LIMIT)
        if isinstance(value, dict):
            return {clean(item, 64): number for item, number in value.items() if _is_number(number)}
        return value if _is_number(value) or not isinstance(value, int | float) else None


def _cut(value: Any, limit: int) -> Any:
    if isinstance(value, str):
        return shorten(value, limit)
    return dict(list(value.items())[: limit // 32]) if isinstance(value, dict) else value


def _is_number(value: Any) -> bool:
    """Whether a value is a number that can be used: `math.isfinite` raises for a whole number past a float's range."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= WHOLE_LIMIT
