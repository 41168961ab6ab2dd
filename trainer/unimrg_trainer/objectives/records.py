"""A record must have what an objective needs; one that has not is named, never trained on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode


def require(record: Mapping[str, Any], objective: str, needs: Collection[str]) -> None:
    """Raise UserError (exit code 65) if one of the fields `needs` is absent or None."""
    missing = sorted(field for field in needs if record.get(field) is None)
    if missing:
        raise UserError(
            f"record {record.get('key', '(no key)')!r} has no {' and no '.join(missing)}, "
            f"which the objective {objective} learns from",
            remedy="prepare the data again, or leave this objective out",
            exit_code=ExitCode.DATA_CORRUPT,
        )
