"""Tells whether the packages that training needs are installed, without importing any of them."""

from __future__ import annotations

import re
from importlib import metadata

from unimrg_api.errors import UserError

DISTRIBUTION = "unimrg"
EXTRA = "trainer"


def require_trainer() -> None:
    """Raise UserError with the command that installs them if packages of the extra `trainer` are missing."""
    missing = missing_packages(metadata.requires(DISTRIBUTION) or [])
    if missing:
        raise UserError(
            f"training needs packages that are not installed: {', '.join(missing)}",
            remedy=f'pip install "{DISTRIBUTION}[{EXTRA}]"',
        )


def missing_packages(requirements: list[str]) -> list[str]:
    """Return the names of the extra's requirements that are not installed; versions are pip's business."""
    wanted = [
        re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0]
        for requirement in requirements
        if re.search(rf"extra\s*==\s*['\"]{EXTRA}['\"]", requirement)
    ]
    return sorted(name for name in wanted if not _is_installed(name))


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
