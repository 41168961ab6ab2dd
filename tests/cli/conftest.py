"""Makes the fixtures of the command line's tests known, and keeps these tests away from the clusters of whoever runs
them."""

from pathlib import Path

import pytest

from tests.support.api_stand_in import api_stand_in
from tests.support.command_line import unimrg

__all__ = ["api_stand_in", "unimrg"]


@pytest.fixture(autouse=True)
def no_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
