"""Writers of one data set: any number at once, killed anywhere, with encoders of different versions."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.dictionary_store import DictionaryStore
from tests.support.faulty_stores import WrappedStore, raising
from unimrg_api.errors import UserError
from unimrg_api.spec_sources import SourceSpec
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.data.shards import CorruptDataError
from unimrg_trainer.preparation import items, make
from unimrg_trainer.preparation import prepare as preparation
from unimrg_trainer.preparation.prepare import Prepared, Share, prepare
from unimrg_trainer.storage import LocalStore, ObjectStore
from unimrg_trainer.storage.base import StorageError

SOURCES = [SourceSpec.model_validate({"scenes": {"train": 10, "heldOut": 2, "imageSize": 32, "seed": 1}})]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "ITEMS_PER_SHARD", 3)


def run(store: ObjectStore, progress: Callable[[int, int], None] = lambda *_: None) -> Prepared:
    return prepare(SOURCES, Path("/"), store, progress)


def contents(store: ObjectStore) -> dict[str, bytes]:
    return {key: store.get(key) for key, _ in store.list()}


@pytest.fixture
def whole() -> dict[str, bytes]:
    """All objects of the data set, by one undisturbed writer."""
    store = DictionaryStore()
    run(store)
    return store.objects


def test_two_writers_at_once_write_one_data_set(tmp_path: Path, whole: dict[str, bytes]) -> None:
    together, ends = threading.Barrier(2), list[Prepared]()

    def wait_for_the_other(done: int, total: int) -> None:
        if done == 0:
            together.wait(20)

    def work() -> None:
        ends.append(run(LocalStore(tmp_path), wait_for_the_other))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ends) == 2 and ends[0] == ends[1]
    assert contents(LocalStore(tmp_path)) == whole


def prepare_and_die(folder: Path, sample: int) -> int:
    """Prepare in a process that is killed at a sample; return how it ended."""

    def kill(done: int, total: int) -> None:
        if done == sample:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            run(LocalStore(folder), kill)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_killed_writer_publishes_nothing_and_the_next_goes_on(tmp_path: Path, whole: dict[str, bytes]) -> None:
    assert prepare_and_die(tmp_path, 8) == -signal.SIGKILL
    store = LocalStore(tmp_path)
    with pytest.raises(UserError, match="no finished data set"):
        Dataset.open(store, "train")
    seen: list[int] = []
    assert not run(store, lambda done, total: seen.append(done)).reused
    assert seen == [6, 7, 8, 9, 10, 11, 12]  # two shards were there
    assert contents(store) == whole


@pytest.mark.parametrize("pattern", [r"train-000001\.tar$", r"train-000001\.tar\.idx$", "train/manifest", "PUBLISHED"])
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_writer_may_be_interrupted_at_any_object(
    dictionary_store: DictionaryStore, whole: dict[str, bytes], pattern: str, where: str
) -> None:
    interrupt = raising(KeyboardInterrupt, pattern)
    with pytest.raises(KeyboardInterrupt):
        run(WrappedStore(dictionary_store, **{where: interrupt}))
    run(dictionary_store)
    assert dictionary_store.objects == whole


def test_lost_replies_are_no_failure(dictionary_store: DictionaryStore, whole: dict[str, bytes]) -> None:
    lose = raising(lambda: StorageError("no connection"), "")
    run(WrappedStore(dictionary_store, after=lose))
    assert dictionary_store.objects == whole


def test_the_first_worker_gives_signs_of_life_while_it_waits(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "WAIT_SECONDS", 0.001)
    store, seen, threads = LocalStore(tmp_path), list[int](), list[threading.Thread]()

    def work(worker: int, progress: Callable[[int, int], None] = lambda *_: None) -> None:
        prepare(SOURCES, Path("/"), store, progress, share=Share(worker, 2))

    def wait_for_three_reports_of_the_same(done: int, total: int) -> None:
        seen.append(done)
        if seen[-3:] == [done] * 3 and done < total and not threads:
            threads.append(threading.Thread(target=work, args=(1,)))
            threads[0].start()

    work(0, wait_for_three_reports_of_the_same)
    threads[0].join(20)
    assert seen[-1] == 12 and contents(store) == whole


def another_encoder(pixels: np.ndarray) -> bytes:
    """Encode the same pixels into other bytes, as another version of the library may."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


@settings(max_examples=25)
@given(handovers=st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_writers_whose_encoders_differ_agree_on_one_data_set(handovers: list[int]) -> None:
    """Each writer is overtaken by another one at a sample."""
    with pytest.MonkeyPatch.context() as patch:
        encoders, store = [make.encode_png, another_encoder], DictionaryStore()

        def writer(remaining: list[int]) -> Prepared:
            encoder = encoders[len(remaining) % 2]
            overtaken: list[Prepared] = []

            def progress(done: int, total: int) -> None:
                if remaining and done == remaining[0] and not overtaken:
                    overtaken.append(writer(remaining[1:]))
                patch.setattr(make, "encode_png", encoder)

            patch.setattr(make, "encode_png", encoder)
            return run(store, progress)

        written = writer(handovers)
        plain = DictionaryStore()
        patch.setattr(make, "encode_png", encoders[0])
        run(plain)
        for split in ("train", "heldOut"):
            data, expected = (Dataset.open(each, split, written.digest) for each in (store, plain))
            assert (data.images, data.questions) == (expected.images, expected.questions)
            for number in data.images:
                found, wanted = data.image_sample(number), expected.image_sample(number)
                assert (found.key, found.caption) == (wanted.key, wanted.caption)
                np.testing.assert_array_equal(found.image, wanted.image)
        assert run(store).reused


@pytest.mark.parametrize("content", [b"no tar", b"", make.TAR_END], ids=["text", "nothing", "no samples"])
def test_what_is_no_shard_is_refused(dictionary_store: DictionaryStore, content: bytes) -> None:
    prefix = run(DictionaryStore()).prefix
    dictionary_store.objects[f"{prefix}/train/train-000000.tar"] = content
    with pytest.raises(CorruptDataError, match=r"train-000000\.tar"):
        run(dictionary_store)
