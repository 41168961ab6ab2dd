"""The commit protocol and the identity of a run over a real S3 server."""

from __future__ import annotations

import time

from tests.support.checkpoints import checkpointer, loads, small_state
from tests.support.faulty_stores import WrappedStore
from tests.support.s3_server import S3Server
from tests.support.s3_stores import Place
from tests.support.tcp_gate import TcpGate
from unimrg_trainer.checkpoint.commit import reserve
from unimrg_trainer.checkpoint.reader import list_commits
from unimrg_trainer.checkpoint.retention import Policy, retain


def test_commits_are_found_loaded_and_deleted(s3_place: Place) -> None:
    store = s3_place.store()
    keeper = checkpointer(store, keep_last=2)
    store.put("spool/attempt-1/segment-1.jsonl", b"points")
    for step in (4, 8, 12):
        keeper.save(small_state(step), "periodic")
    assert [commit.step for commit in list_commits(store)] == [12, 8]
    assert store.list("ckpt/step-00000004/") == []
    assert store.get("spool/attempt-1/segment-1.jsonl") == b"points"
    loads(store, 12)


def test_a_commit_costs_few_requests(s3_place: Place) -> None:
    keeper = checkpointer(s3_place.store(), keep_last=2)
    keeper.save(small_state(4), "periodic")
    keeper.save(small_state(8), "periodic")
    with s3_place.counted() as requests:
        keeper.save(small_state(12), "periodic")
    # reservation, share, manifest, marker; three listings, the three markers that retention reads, and the list of
    # unfinished uploads; and the oldest commit's marker, manifest, share and reservation
    assert requests.methods == {"PUT": 4, "GET": 7, "DELETE": 4}


def test_a_commit_whose_last_reply_is_lost_stands_and_is_known_to(s3_place: Place, s3_gate: TcpGate) -> None:
    def lose_reply(action: str, key: str) -> None:
        if action == "put" and "COMMITTED" in key:
            s3_gate.break_answers(1, after=30)  # behind "100 Continue", which asks for the content

    through = s3_place.through(s3_gate, "run")
    commit = checkpointer(WrappedStore(through, before=lose_reply)).save(small_state(4), "periodic")
    assert s3_gate.broken == 1
    assert [found.key for found in list_commits(s3_place.store())] == [commit.key]
    loads(s3_place.store(), 4)


def test_uploads_that_a_killed_writer_left_go_with_its_folder(s3_place: Place, s3_server: S3Server) -> None:
    store, client = s3_place.store(), s3_server.client()
    checkpointer(store, attempt=2).save(small_state(10), "periodic")
    _, folder = reserve(store, 20, attempt=1)
    bucket, _, prefix = s3_place.uri.removeprefix("s3://").partition("/")
    elsewhere = f"{prefix}/run/ckpt/step-00000030/others"
    for key in (f"{prefix}/run/{folder}rank-0.safetensors", f"{prefix}/run/{folder}rank-1.safetensors", elsewhere):
        upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 100)

    def unfinished() -> list[str]:
        return [one["Key"] for one in client.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", [])]

    retain(store, Policy(keep_last=2), attempt=2)
    assert len(unfinished()) == 3, "its writer may still be at it"
    retain(store, Policy(keep_last=2), attempt=2, now=time.time() + 2 * 24 * 3600)
    assert unfinished() == [elsewhere]
    assert store.list("ckpt/step-00000020/") == []
    loads(store, 10)
