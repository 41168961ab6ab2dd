"""What a cluster cannot give a job is named in a condition before anything trains."""

from __future__ import annotations

import pytest

from tests.support.cluster import Cluster, Object
from tests.support.s3_server import S3Server
from tests.support.thread_job import job, stage


def test_a_missing_secret_is_named_and_once_it_is_there_the_job_goes_on(cluster: Cluster, s3_server: S3Server) -> None:
    name = "keyless"
    wanted = job(cluster, s3_server.bucket(), name)
    wanted["spec"]["storage"]["credentials"]["secretName"] = "nobody-made-it"
    cluster.start_operator()
    cluster.apply(wanted)
    found = cluster.wait_for(name, lambda found: _refused(found) is not None, 60)
    refusal = _refused(found)
    assert refusal is not None
    assert refusal["reason"] == "SecretMissing"
    assert "nobody-made-it" in refusal["message"]
    assert not cluster.children(name, "train")
    cluster.create_secret(
        "nobody-made-it", {"AWS_ACCESS_KEY_ID": cluster.s3.access_key, "AWS_SECRET_ACCESS_KEY": cluster.s3.secret_key}
    )
    cluster.wait_for(name, lambda found: stage(found, "check").get("state") == "Succeeded", 60, "(check succeeded)")


@pytest.mark.parametrize(
    ("place", "reason"),
    [("http://127.0.0.1:9", "Unavailable"), ("s3://no-such-bucket/run", "InputMissing")],
    ids=["a store that does not answer", "a bucket that does not exist"],
)
def test_a_store_that_cannot_be_used_is_named_before_anything_trains(
    cluster: Cluster, s3_server: S3Server, place: str, reason: str
) -> None:
    name = "homeless"
    bucket = s3_server.bucket()
    wanted = job(cluster, bucket, name)
    if place.startswith("s3://"):
        wanted["spec"]["checkpoint"]["uri"] = place
    else:
        wanted["spec"]["storage"]["endpoint"] = place
    cluster.start_operator()
    cluster.apply(wanted)
    found = cluster.wait_for(name, lambda found: _refused(found) is not None, 90)
    refusal = _refused(found)
    assert refusal is not None
    assert refusal["reason"] == reason
    assert place.removesuffix("/run") in refusal["message"]
    assert place.startswith("s3://") or bucket in refusal["message"]
    assert not cluster.children(name, "train")


def _refused(found: Object) -> Object | None:
    """The condition that says why the job cannot run."""
    for item in found.get("status", {}).get("conditions", []):
        if item["type"] == "Accepted" and item["status"] == "False":
            return dict(item)
    return None
