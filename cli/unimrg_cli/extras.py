"""Tells whether the packages that a command needs beyond the base install are there, without importing any of them."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Literal

from unimrg_api.errors import UserError

DISTRIBUTION = "unimrg"


def require(extra: Literal["trainer", "operator"]) -> None:
    """Raise UserError with the command that installs them if packages of an extra are missing."""
    wanted = [
        re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0]
        for requirement in metadata.requires(DISTRIBUTION) or []
        if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", requirement)
    ]
    missing = sorted(name for name in wanted if not _is_installed(name))
    if missing:
        purpose = {"trainer": "training", "operator": "a command for a cluster"}[extra]
        raise UserError(
            f"{purpose} needs packages that are not installed: {', '.join(missing)}",
            remedy=f'pip install "{DISTRIBUTION}[{extra}]"',
        )


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
