"""The commit protocol and the identity of a run over a real S3 server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.support.checkpoints import checkpointer, loads, small_state
from tests.support.faulty_stores import WrappedStore, flip
from tests.support.s3_answers import answering
from tests.support.s3_server import S3Server
from tests.support.s3_stores import Place
from tests.support.tcp_gate import TcpGate
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.commit import reserve
from unimrg_trainer.checkpoint.manifest import CheckpointError
from unimrg_trainer.checkpoint.reader import list_commits
from unimrg_trainer.checkpoint.retention import Policy, retain
from unimrg_trainer.storage import s3_client


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


@contextmanager
def trouble(kind: str, place: Place, gate: TcpGate, operation: str = "PutObject") -> Iterator[None]:
    """A fault on the way to the server, or at it, from now on."""
    if kind == "a reset connection":
        gate.break_answers(1, after=0)
    elif kind == "a reply that stalls":
        gate.break_answers(1, after=10, silently=True)
    elif kind == "an endpoint that is gone":
        gate.close()
    elif kind == "5xx for a moment":
        with answering(place, operation, 503, "SlowDown", times=2):
            yield
        return
    elif kind == "5xx for ever":
        with answering(place, operation, 500, "InternalError"):
            yield
        return
    elif kind == "a permission that is lost":
        with answering(place, operation, 403, "AccessDenied"):
            yield
        return
    yield


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("a reset connection", None),
        ("a reply that stalls", None),
        ("5xx for a moment", None),
        ("5xx for ever", ExitCode.UNAVAILABLE),
        ("an endpoint that is gone", ExitCode.UNAVAILABLE),
        ("a permission that is lost", ExitCode.CREDENTIALS),
    ],
)
def test_whatever_happens_on_the_way_a_save_is_whole_or_ends_with_its_code(
    s3_place: Place, s3_gate: TcpGate, monkeypatch: pytest.MonkeyPatch, kind: str, code: ExitCode | None
) -> None:
    monkeypatch.setattr(s3_client, "READ_SECONDS", 0.5)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    through = Place(s3_place.uri, s3_place.storage.model_copy(update={"endpoint": s3_gate.uri}))
    faults = ExitStack()

    def begin(action: str, key: str) -> None:
        if "step-00000020" in key and "rank-0" in key:
            faults.enter_context(trouble(kind, through, s3_gate))

    keeper = checkpointer(WrappedStore(through.store(), before=begin))
    keeper.save(small_state(10), "periodic")
    with faults:
        if code is None:
            keeper.save(small_state(20), "periodic")
        else:
            with pytest.raises(CheckpointError, match="step 20") as caught:
                keeper.save(small_state(20), "periodic")
            assert caught.value.exit_code is code and caught.value.remedy
    loads(s3_place.store(), 20 if code is None else 10)
    checkpointer(s3_place.store(), attempt=2).save(small_state(30), "periodic")
    loads(s3_place.store(), 30)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("5xx for a moment", None),
        ("5xx for ever", ExitCode.UNAVAILABLE),
        ("an endpoint that is gone", ExitCode.UNAVAILABLE),
        ("a permission that is lost", ExitCode.CREDENTIALS),
    ],
)
def test_a_checkpoint_that_cannot_be_read_now_is_not_condemned(
    s3_place: Place, s3_gate: TcpGate, monkeypatch: pytest.MonkeyPatch, kind: str, code: ExitCode | None
) -> None:
    """From when the first bytes of tensors are read on."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    through = Place(s3_place.uri, s3_place.storage.model_copy(update={"endpoint": s3_gate.uri}))
    keeper = checkpointer(s3_place.store())
    keeper.save(small_state(10), "periodic")
    keeper.save(small_state(20), "periodic")
    faults = ExitStack()

    class Reading(WrappedStore):
        def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
            if "rank-0" in key:
                faults.enter_context(trouble(kind, through, s3_gate, "GetObject"))
            return self.inner.get(key, offset, length)

    with faults:
        if code is None:
            loads(Reading(through.store()), 20)
        else:
            with pytest.raises(CheckpointError, match="step 20") as caught:
                loads(Reading(through.store()), 20)
            assert caught.value.exit_code is code and caught.value.remedy
    loads(s3_place.store(), 20)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], flip, lambda content: None])
def test_what_is_damaged_in_a_bucket_is_quarantined_and_the_older_commit_taken(
    s3_place: Place, damage: Callable[[bytes], bytes | None]
) -> None:
    store = s3_place.store()
    keeper = checkpointer(store)
    keeper.save(small_state(10), "periodic")
    key = f"{keeper.save(small_state(20), 'periodic').folder}rank-0.safetensors"
    content = damage(store.get(key))
    store.delete(key) if content is None else store.put(key, content)
    loads(store, 10)
    assert len(store.list("ckpt/step-00000020/QUARANTINED")) == 1
    checkpointer(store, attempt=2).save(small_state(20), "periodic")
    loads(store, 20)


def test_a_read_that_breaks_off_on_its_way_condemns_no_commit(
    s3_place: Place, s3_gate: TcpGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "READ_SECONDS", 0.5)
    checkpointer(s3_place.store()).save(small_state(10), "periodic")
    for after, silently in ((0, False), (350, False), (420, True)):
        through = s3_place.through(s3_gate, "run")
        through.size("warm the connection")
        s3_gate.break_answers(2, after=after, silently=silently)
        loads(through, 10)
        s3_gate.break_answers(0, after=0)
    assert s3_place.store().list("ckpt/step-00000010/QUARANTINED") == []
