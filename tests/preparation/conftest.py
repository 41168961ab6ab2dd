"""Fixtures of the tests of preparation."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny models: `depth`, `sam`, `hed.safetensors`."""
    from tests.support.tiny_producers import save_depth_anything, save_hed, save_sam  # transformers takes seconds

    folder = tmp_path_factory.mktemp("models")
    save_depth_anything(folder / "depth")
    save_sam(folder / "sam")
    save_hed(folder / "hed.safetensors")
    return folder
