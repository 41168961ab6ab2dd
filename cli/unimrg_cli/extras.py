"""Tells whether the packages that a command needs beyond the base install are there, without importing any of them."""

from __future__ import annotations

import re
from importlib import metadata

from unimrg_api.errors import UserError

DISTRIBUTION = "unimrg"


def require_trainer() -> None:
    """Raise UserError with the command that installs them if packages of the extra `trainer` are missing."""
    _require("trainer", "training")


def require_operator() -> None:
    """Raise UserError with the command that installs them if packages of the extra `operator` are missing."""
    _require("operator", "what concerns a cluster")


def missing_packages(requirements: list[str], extra: str) -> list[str]:
    """Return the names of an extra's requirements that are not installed; versions are pip's business."""
    wanted = [
        re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0]
        for requirement in requirements
        if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", requirement)
    ]
    return sorted(name for name in wanted if not _is_installed(name))


def _require(extra: str, purpose: str) -> None:
    missing = missing_packages(metadata.requires(DISTRIBUTION) or [], extra)
    if missing:
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
