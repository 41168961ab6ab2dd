"""The cache of shards on a node's disk: what is there is not asked for again, and nothing but time depends on it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.support.s3_stores import Place
from unimrg_api.spec_sources import SourceSpec
from unimrg_trainer.data import local_cache
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.data.local_cache import LocalCache
from unimrg_trainer.data.read_ahead import ReadAhead
from unimrg_trainer.data.shards import Extent
from unimrg_trainer.preparation.prepare import prepare
from unimrg_trainer.scenes import generate
from unimrg_trainer.storage.s3 import S3Store

BLOCK = 1000
CONTENT = np.random.default_rng(1).bytes(10 * BLOCK + 357)
CUTS = sorted({0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 1, 7 * BLOCK, len(CONTENT) - 1, len(CONTENT)})
PIECES = [(begin, end) for begin, end in [*pairwise(CUTS), (0, len(CONTENT)), (BLOCK, 3 * BLOCK)]]


@pytest.fixture
def store(s3_place: Place, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    monkeypatch.setattr(local_cache, "BLOCK_BYTES", BLOCK)
    store = s3_place.store("data")
    for split in ("one", "two"):
        store.put(f"{split}/a.tar", CONTENT)
    return store


def require_right(
    cache: LocalCache, store: S3Store, split: str = "one", pieces: Sequence[tuple[int, int]] = PIECES
) -> None:
    for begin, end in pieces:
        assert cache.read(Extent(store, f"{split}/a.tar", begin, end - begin)) == CONTENT[begin:end], (begin, end)


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.tar.*"))


def test_what_was_read_once_is_not_asked_for_again(store: S3Store, s3_place: Place, tmp_path: Path) -> None:
    with s3_place.counted() as requests:
        require_right(LocalCache(tmp_path, 1 << 20), store)
        asked = len(requests.ranges)
        require_right(LocalCache(tmp_path, 1 << 20), store)  # another process's
        assert 0 < asked == len(requests.ranges)
    assert sum(path.stat().st_size for path in kept(tmp_path)) == len(CONTENT)


def test_damaged_and_cut_blocks_change_nothing_that_is_read(s3_place: Place, tmp_path: Path) -> None:
    scenes = {"scenes": {"train": 6, "heldOut": 1, "imageSize": 32, "seed": 4}}
    store = s3_place.store("data")
    prepare([SourceSpec.model_validate(scenes)], tmp_path, store, lambda *_: None)
    data = Dataset.open(store, "train")

    def require_scenes() -> None:
        groups = [[data.extent("images", number)] for number in data.images]
        with ReadAhead(iter(groups), read=LocalCache(tmp_path / "cache", 1 << 20).read) as ahead:
            for number in data.images:
                with ahead.group(number) as group:
                    sample = data.image_sample(number, read=group.read)
                np.testing.assert_array_equal(sample.image, generate(4, number, 32).image)

    require_scenes()
    (block,) = kept(tmp_path / "cache")
    whole = block.read_bytes()
    for spoilt in (bytes(len(whole)), whole[: len(whole) // 2], b""):
        block.write_bytes(spoilt)
        require_scenes()
    assert block.read_bytes() == whole, "one that was cut is replaced"


def test_the_quota_holds_and_makes_room_of_what_nobody_reads(store: S3Store, tmp_path: Path) -> None:
    quota = len(CONTENT) + 3 * BLOCK
    require_right(LocalCache(tmp_path, quota), store, "one")
    (first,) = {path.parent for path in kept(tmp_path)}
    require_right(LocalCache(tmp_path, quota), store, "two")
    assert sum(path.stat().st_size for path in kept(tmp_path)) <= quota
    assert len([path for path in kept(tmp_path) if path.parent == first]) == 11, "it was read a moment ago"
    long_ago = time.time() - 2 * local_cache.IN_USE_SECONDS
    os.utime(first, (long_ago, long_ago))
    require_right(LocalCache(tmp_path, quota), store, "two")
    assert not first.exists() and sum(path.stat().st_size for path in kept(tmp_path)) == len(CONTENT)


def _no_space(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)


def _no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("a file where the folder should be")


@pytest.mark.parametrize("spoil", [_no_space, _no_folder])
def test_a_disk_that_takes_nothing_costs_the_cache_alone(
    store: S3Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path, pytest.MonkeyPatch], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "cache"
    spoil(folder, monkeypatch)
    require_right(LocalCache(folder, 1 << 20), store)
    assert len([record for record in caplog.records if "nothing more is kept" in record.message]) == 1
    assert not folder.is_dir() or not [path for path in folder.rglob("*") if path.is_file() and path.name != "size"]


READER = """
import sys
from pathlib import Path
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.data import local_cache
from unimrg_trainer.data.shards import Extent
from unimrg_trainer.storage.s3 import S3Store
local_cache.BLOCK_BYTES = 1000
store = S3Store(sys.argv[1], StorageSpec.model_validate_json(sys.argv[2]))
cache = local_cache.LocalCache(Path(sys.argv[3]), 7000)
for begin in [*range(0, 10_000, 700)] * 3:
    sys.stdout.buffer.write(cache.read(Extent(store, "one/a.tar", begin, 700)))
"""


def test_processes_share_one_quota(store: S3Store, s3_place: Place, tmp_path: Path) -> None:
    arguments = [
        sys.executable,
        "-c",
        READER,
        store.uri,
        s3_place.storage.model_dump_json(by_alias=True),
        str(tmp_path),
    ]
    readers = [subprocess.Popen(arguments, stdout=subprocess.PIPE) for _ in range(2)]
    expected = b"".join(CONTENT[begin : begin + 700] for begin in range(0, 10_000, 700)) * 3
    assert [reader.communicate(timeout=120)[0] == expected for reader in readers] == [True, True]
    total = sum(path.stat().st_size for path in kept(tmp_path))
    assert 0 < total <= 7000 and int((tmp_path / "size").read_text()) >= total
