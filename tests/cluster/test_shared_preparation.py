"""Data is prepared by two pods of an indexed Job on a cluster; one is killed, and what was done is not done again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.dictionary_store import DictionaryStore
from tests.support.s3_server import S3Server
from tests.support.thread_job import job, stage
from unimrg_api.spec_platform import StorageSpec
from unimrg_api.spec_sources import SourceSpec
from unimrg_trainer.preparation.prepare import prepare
from unimrg_trainer.storage import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCENES = {"scenes": {"train": 1536, "heldOut": 2, "imageSize": 64, "seed": 3}}
"""Seven shards."""


def test_a_killed_pod_costs_its_shard_and_the_other_pods_work_stays(
    cluster: Cluster, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    bucket = s3_server.bucket()
    store = open_store(f"s3://{bucket}/data", StorageSpec(endpoint=s3_server.endpoint, addressing="Path"))
    cluster.start_operator()
    data = {"sources": [SCENES], "shards": [f"s3://{bucket}/data"], "preparation": {"pods": 2}}
    cluster.apply(job(cluster, bucket, "shared", data=data))
    cluster.wait_for("shared", lambda _: any(key.endswith(".tar.idx") for key, _ in store.list()), 120, "(a shard)")
    pods = cluster.pods("shared", "prepare", 1)
    assert len(pods) == 2
    cluster.kubelet.kill_container(pods[1]["metadata"]["name"], cluster.namespace)
    cluster.wait_for("shared", lambda found: stage(found, "prepare").get("attempt") == 2, 120, "(attempt 2)")
    there = dict(store.list())
    assert there and not any(key.endswith("PUBLISHED") for key in there)
    ages = {key: store.age(key) for key in there if key.endswith(".tar")}
    cluster.wait_for("shared", lambda found: stage(found, "prepare").get("state") == "Succeeded", 240)
    assert all((store.age(key) or 0.0) > (age or 0.0) for key, age in ages.items()), "a shard was written again"
    expected = DictionaryStore()
    prepare([SourceSpec.model_validate(SCENES)], Path("/"), expected, lambda *_: None)
    assert {key: store.get(key) for key, _ in store.list() if "probe" not in key} == expected.objects
