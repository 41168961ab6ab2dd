"""Writes the files that follow from the models: the reference page and the custom resource.

`python -m unimrg_api.generate`, run in the repository's root, writes them; `--check` only says which have drifted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from unimrg_api.crd import crd_yaml
from unimrg_api.reference import reference

COMMAND = "python -m unimrg_api.generate"

FILES: dict[Path, Callable[[], str]] = {
    Path("docs/reference/job.md"): reference,
    Path("manifests/crd.yaml"): crd_yaml,
}
"""Every generated file, relative to the repository's root, and what writes its text."""


def drifted(root: Path) -> list[Path]:
    """Return the files below `root` that are missing or do not say what the models say."""
    return [path for path, text in FILES.items() if not (root / path).is_file() or (root / path).read_text() != text()]


def main(arguments: list[str], root: Path) -> int:
    """Write the files below `root`, or check them; return the exit code."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write(f"usage: {COMMAND} [--check]\n")
        return 2
    if not arguments:
        for path, text in FILES.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text(), encoding="utf-8")
        return 0
    wrong = drifted(root)
    for path in wrong:
        sys.stderr.write(f"{path} has drifted from the models: run `{COMMAND}`\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path.cwd()))
