"""The walls between the rooms, as import-linter's contracts in pyproject.toml state them, hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_no_room_imports_what_it_must_not_know(tmp_path: Path) -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [linter, "--config", REPOSITORY / "pyproject.toml", "--cache-dir", tmp_path],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout
