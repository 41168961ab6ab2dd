"""The files that follow from the models say what the models say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.generate import FILES


@pytest.mark.parametrize("path", FILES)
def test_no_generated_file_has_drifted(path: str) -> None:
    written = (Path(__file__).parents[2] / path).read_text()
    assert written == FILES[path](), "run `python -m tools.generate`"
