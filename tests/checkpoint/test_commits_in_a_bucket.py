"""The commit protocol and the identity of a run over a real S3 server."""

from __future__ import annotations

from tests.support.checkpoints import checkpointer, loads, small_state
from tests.support.faulty_stores import WrappedStore
from tests.support.s3_stores import Place
from tests.support.tcp_gate import TcpGate
from unimrg_trainer.checkpoint.reader import list_commits


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
    # reservation, share, manifest, marker; three listings and the three markers that retention reads; and the oldest
    # commit's marker, manifest, share and reservation
    assert requests.methods == {"PUT": 4, "GET": 6, "DELETE": 4}


def test_a_commit_whose_last_reply_is_lost_stands_and_is_known_to(s3_place: Place, s3_gate: TcpGate) -> None:
    def lose_reply(action: str, key: str) -> None:
        if action == "put" and "COMMITTED" in key:
            s3_gate.break_answers(1, after=30)  # behind "100 Continue", which asks for the content

    through = s3_place.through(s3_gate, "run")
    commit = checkpointer(WrappedStore(through, before=lose_reply)).save(small_state(4), "periodic")
    assert s3_gate.broken == 1
    assert [found.key for found in list_commits(s3_place.store())] == [commit.key]
    loads(s3_place.store(), 4)
