"""Prepared data in a bucket: written once, read in ranges of the shards."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np

from tests.support.faulty_stores import WrappedStore
from tests.support.s3_stores import Place
from tests.support.tcp_gate import TcpGate
from unimrg_api.job import SourceSpec
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.data.prepare import Prepared, prepare
from unimrg_trainer.storage import LocalStore, ObjectStore

SOURCES = [SourceSpec.model_validate({"scenes": {"train": 100, "heldOut": 2, "imageSize": 32, "seed": 1}})]


def prepared(store: ObjectStore, stale_after: float = 60.0) -> Prepared:
    return prepare(SOURCES, Path("/"), store, lambda *_: None, stale_after=stale_after, poll_interval=0.05)


def test_of_two_jobs_that_prepare_the_same_data_one_writes_it(s3_place: Place) -> None:
    ends: list[Prepared] = []
    threads = [threading.Thread(target=lambda: ends.append(prepared(s3_place.store("data")))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(end.reused for end in ends) == [False, True]
    assert len({(end.digest, end.prefix) for end in ends}) == 1
    names = [key.rpartition("/")[2] for key, _ in s3_place.store("data").list()]
    assert names.count("PUBLISHED") == 1 and names.count("manifest.json") == 2
    assert not [name for name in names if name.startswith("CLAIM")]


def test_a_hundred_samples_cost_a_hundred_ranges_and_are_what_a_folder_holds(s3_place: Place, tmp_path: Path) -> None:
    digest = prepared(s3_place.store("data")).digest
    prepared(LocalStore(tmp_path))
    with s3_place.counted() as opening:
        data = Dataset.open(s3_place.store("data"), "train", digest)
    assert opening.methods == {"GET": 2}  # marker and manifest
    with s3_place.counted() as reading:
        records = [data.image_sample(number) for number in range(100)]
    shard_reads = [place for place, _ in reading.ranges if place.endswith(".tar")]
    assert reading.methods == {"GET": 101} and len(shard_reads) == 100  # and the shard's index
    with s3_place.counted() as again:
        data.image_sample(7)
    assert again.methods == {}
    local = Dataset.open(LocalStore(tmp_path), "train", digest)
    for number, record in enumerate(records):
        expected = local.image_sample(number)
        assert record.caption == expected.caption
        assert np.array_equal(record.image, expected.image)


def test_a_claim_whose_reply_is_lost_is_still_ones_own(s3_place: Place, s3_gate: TcpGate) -> None:
    def lose_reply(action: str, key: str) -> None:
        if action == "put" and "CLAIM" in key and not s3_gate.broken:
            s3_gate.break_answers(1, after=30)  # behind "100 Continue", which asks for the content

    through = s3_place.through(s3_gate, "data")
    started = time.monotonic()
    assert not prepared(WrappedStore(through, before=lose_reply)).reused
    assert s3_gate.broken == 1
    assert time.monotonic() - started < 30, "it waited for its own claim to go stale"
