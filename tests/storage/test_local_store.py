"""What only a store in a folder can get wrong: unfinished files, permissions, full disks, other file systems."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.support.processes import Paused, start
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.storage import LocalStore, local, open_store
from unimrg_trainer.storage.base import AlreadyExists, NotFound, StorageError

DAY = 24 * 3600


def put_and_pause_before_the_name(paused: Paused, root: str, if_absent: bool) -> None:
    """Write an object in a process that stops when its content is durable and its name is not there yet."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        paused.reached("content is on the disk")

    with patch.object(os, "fsync", fsync):
        LocalStore(Path(root)).put("folder/object", b"half a life", if_absent=if_absent)


@pytest.mark.parametrize("if_absent", [False, True])
def test_a_writer_killed_before_the_end_leaves_nothing_to_see(tmp_path: Path, if_absent: bool) -> None:
    store = LocalStore(tmp_path)
    store.put("folder/object", b"old") if not if_absent else store.put("folder/other", b"old")
    before = store.list()
    with start(put_and_pause_before_the_name, str(tmp_path), if_absent) as process:
        process.wait_until_paused()
        process.kill()
    assert store.list() == before
    leftovers = list(tmp_path.rglob(f"{local.PARTIAL}*"))
    assert [path.read_bytes() for path in leftovers] == [b"half a life"]

    with pytest.raises(StorageError, match="unfinished"):
        store.get(leftovers[0].relative_to(tmp_path).as_posix())
    store.list()
    assert leftovers[0].exists(), "a writer that may still run is left alone"
    os.utime(leftovers[0], times=(time.time() - DAY - 60,) * 2)
    store.list("folder/")
    assert not leftovers[0].exists()
    assert store.list() == before


def fail_with(number: int, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, ExitCode.UNAVAILABLE),
        (errno.EIO, ExitCode.UNAVAILABLE),
        (errno.EACCES, ExitCode.CREDENTIALS),
        (errno.EROFS, ExitCode.CREDENTIALS),
    ],
)
def test_a_failed_write_has_the_exit_code_of_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: ExitCode
) -> None:
    store = LocalStore(tmp_path)
    store.put("a/object", b"old")
    fail_with(number, monkeypatch, "fsync")
    with pytest.raises(StorageError) as caught:
        store.put("a/object", b"new")
    assert caught.value.exit_code is expected
    assert str(tmp_path / "a" / "object") in caught.value.message
    assert store.get("a/object") == b"old"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["object"], "no unfinished file stays"


def test_a_file_system_without_hard_links_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    fail_with(errno.EPERM, monkeypatch, "link")
    store.put("a", b"unconditional puts need none")
    with pytest.raises(StorageError, match="hard links") as caught:
        store.put("b", b"1", if_absent=True)
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert store.list() == [("a", 28)]


def test_a_link_whose_reply_was_lost_counts_as_won(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link_twice(source: Path, target: Path) -> None:
        real(source, target)
        real(source, target)

    store = LocalStore(tmp_path)
    monkeypatch.setattr(os, "link", link_twice)
    store.put("a", b"mine", if_absent=True)
    assert store.get("a") == b"mine"
    with pytest.raises(AlreadyExists):
        store.put("a", b"other", if_absent=True)


def test_a_folder_of_objects_is_no_object_itself(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a/b", b"1")
    for key in ("a", "a/b/c"):
        with pytest.raises(StorageError) as caught:
            store.put(key, b"2")
        assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert store.list() == [("a/b", 1)]


def test_reading_creates_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "not" / "there")
    assert store.list() == []
    assert store.size("a") is None
    store.delete("a")
    with pytest.raises(NotFound):
        store.get("a")
    assert not (tmp_path / "not").exists()


def test_deleting_the_last_object_of_a_folder_removes_the_folder(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "run")
    store.put("a/b/c", b"1")
    store.put("a/d", b"1")
    store.delete("a/b/c")
    assert sorted(path.name for path in (tmp_path / "run" / "a").iterdir()) == ["d"]
    store.delete("a/d")
    assert (tmp_path / "run").is_dir(), "the root itself stays"


def test_a_folder_that_is_removed_under_our_hands_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = local._make_folder
    lost: list[Path] = []

    def make_and_lose(folder: Path) -> None:
        real(folder)
        if folder.name == "b" and len(lost) < 2:
            folder.rmdir()
            lost.append(folder)

    monkeypatch.setattr(local, "_make_folder", make_and_lose)
    store = LocalStore(tmp_path)
    store.put("a/b/c", b"1", if_absent=True)
    assert store.get("a/b/c") == b"1"
    assert len(lost) == 2


def test_a_store_is_opened_by_its_uri(tmp_path: Path) -> None:
    folder = tmp_path / "with space and #"
    store = open_store(folder.as_uri())
    assert store.uri == folder.as_uri()
    store.put("a", b"1")
    assert (folder / "a").read_bytes() == b"1"
    assert open_store(store.uri).get("a") == b"1"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://", "bucket"),
        ("s3://bucket/../b", "may not"),
        ("file://run", "absolute"),
        ("/run", "file:///"),
        ("http://host/x", "file:///"),
    ],
)
def test_another_uri_is_refused_with_a_way_out(uri: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        open_store(uri)
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert caught.value.remedy


def test_sweeping_removes_what_a_killed_writer_left_in_a_folder(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for key in ("a/b/object", "c/object"):
        store.put(key, b"1")
        (tmp_path / key).with_name(".partial-1-2").touch()
    store.sweep("a/")
    store.sweep("nowhere/")
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"a/b/object", "c/object", "c/.partial-1-2"}
