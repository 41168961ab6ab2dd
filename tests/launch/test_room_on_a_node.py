"""What a node lacks is found before training, with the value and what to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import UserError
from unimrg_trainer.launch.preflight import SHARED_MEMORY, check_node

GIB = 1 << 30


@pytest.mark.parametrize(
    ("short", "free", "gpus", "processes", "message"),
    [
        ("run", 200 << 20, False, 1, "200 MiB left, and training needs at least 256 MiB"),
        ("cache", 0, False, 1, "0 MiB left"),
        (SHARED_MEMORY.name, 64 << 20, True, 8, "64 MiB left, and training needs at least 256 MiB"),
        (SHARED_MEMORY.name, 64 << 20, True, 1, None),
        (SHARED_MEMORY.name, 64 << 20, False, 8, None),
        ("", 0, True, 8, None),
    ],
)
def test_too_little_room_is_named_with_its_size_and_remedy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    short: str,
    free: int,
    gpus: bool,
    processes: int,
    message: str | None,
) -> None:
    env = PodEnvironment(run_dir=tmp_path / "run", cache=tmp_path / "cache" / "deep", processes=processes)
    (tmp_path / "run").mkdir()
    (tmp_path / "cache").mkdir()

    def usage(path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=free if path.name == short else 100 * GIB)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    if message is None:
        check_node(env, gpus)
        return
    with pytest.raises(UserError, match=message) as caught:
        check_node(env, gpus)
    assert int(caught.value.exit_code) == 81
    assert caught.value.remedy
