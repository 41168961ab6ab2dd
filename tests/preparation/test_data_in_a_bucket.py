"""Prepared data in a bucket: written once, read in ranges of the shards."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from tests.support.s3_stores import Place
from unimrg_api.spec_sources import SourceSpec
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.preparation.prepare import Prepared, prepare
from unimrg_trainer.storage import LocalStore, ObjectStore

SOURCES = [SourceSpec.model_validate({"scenes": {"train": 100, "heldOut": 2, "imageSize": 32, "seed": 1}})]


def prepared(store: ObjectStore) -> Prepared:
    return prepare(SOURCES, Path("/"), store, lambda *_: None)


def test_two_jobs_that_prepare_the_same_data_write_it_once(s3_place: Place) -> None:
    ends: list[Prepared] = []
    threads = [threading.Thread(target=lambda: ends.append(prepared(s3_place.store("data")))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(end.digest, end.prefix) for end in ends}) == 1 and len(ends) == 2
    names = sorted(key.rpartition("/")[2] for key, _ in s3_place.store("data").list())
    shards = [f"{split}-000000.tar{extension}" for split in ("heldOut", "train") for extension in ("", ".idx")]
    assert names == sorted(["PUBLISHED", "manifest.json", "manifest.json", *shards])


def test_a_hundred_samples_cost_a_hundred_ranged_reads(s3_place: Place, tmp_path: Path) -> None:
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
