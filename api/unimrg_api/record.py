"""Small JSON records that cross from a pod to its readers: written within 4 KiB, read with tolerance.

The writer may be an older version, a broken program or not ours at all, so reading never fails on a field:
what does not fit its type is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from unimrg_api.redaction import clean, shorten

SIZE_LIMIT = 4096
"""Bytes: what Kubernetes keeps of a termination message, and what progress is held to."""

TEXT_LIMIT = 512
"""Characters of every text field but the message."""

NUMBER_LIMIT = 64
"""Entries of a mapping of numbers."""

WHOLE_LIMIT = 2**63 - 1
"""Largest whole number: no reader of ours, nor the API of a cluster, holds a larger one."""


class Record(BaseModel):
    """Base of the records; `message` is what gives way when the size limit is reached."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore", strict=True)
    message_limit: ClassVar[int] = 2048

    message: str = ""
    """What happened, in plain English."""

    def to_json(self) -> str:
        """Return the record as one line of JSON: at most SIZE_LIMIT bytes in UTF-8, no keys, no escapes.

        Numbers that JSON does not have (NaN, infinity) are left out. If it is too long, the message is cut
        first, then mappings, then the other texts.
        """
        values = self._clean_values()
        message = clean(self.message, self.message_limit)
        for limit in (self.message_limit, 1024, 512, 256):
            values["message"] = shorten(message, limit)
            text = _dump(values)
            if len(text.encode()) <= SIZE_LIMIT:
                return text
        for mapping in [value for value in values.values() if isinstance(value, dict)]:
            while mapping and len(_dump(values).encode()) > SIZE_LIMIT:
                mapping.popitem()
        for limit in (256, 128, 64, 32):
            text = _dump({key: value[:limit] if isinstance(value, str) else value for key, value in values.items()})
            if len(text.encode()) <= SIZE_LIMIT:
                return text
        raise AssertionError("a record of empty texts is longer than the limit")

    def _clean_values(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in self.model_dump(by_alias=True, mode="python", exclude_none=True).items():
            if isinstance(value, str):
                values[key] = clean(value, TEXT_LIMIT)
            elif isinstance(value, dict):
                items = [(clean(name, 64), number) for name, number in value.items() if _is_number(number)]
                values[key] = dict(items[:NUMBER_LIMIT])
            elif not isinstance(value, float) or _is_number(value):
                values[key] = max(-WHOLE_LIMIT, min(int(value), WHOLE_LIMIT)) if isinstance(value, int) else value
        return values

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
        return cls._from_parts(content)

    @classmethod
    def _from_parts(cls, content: Mapping[str, Any]) -> Self:
        kept: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            key = field.alias or name
            if key not in content:
                continue
            value = content[key]
            annotation: Any = field.annotation
            if isinstance(value, str):
                value = clean(value, cls.message_limit if name == "message" else TEXT_LIMIT)
            elif isinstance(value, dict):
                value = {clean(item, 64): number for item, number in value.items() if _is_number(number)}
            elif isinstance(value, int | float) and not isinstance(value, bool) and not _is_number(value):
                continue
            try:
                kept[name] = TypeAdapter(annotation).validate_python(value, strict=True)
            except ValidationError:
                continue
        return cls.model_validate(kept)


def _is_number(value: Any) -> bool:
    """Whether a value is a number that can be used: `math.isfinite` raises for a whole number past a float's range."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= WHOLE_LIMIT


def _dump(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
