"""One training at a time under a prefix, whoever starts, dies, stalls or is cut off."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.dictionary_store import DictionaryStore
from tests.support.faulty_stores import WrappedStore, raising
from tests.support.processes import PATIENCE, Paused, start
from tests.support.s3_stores import Place
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint import lease
from unimrg_trainer.checkpoint.lease import STALE_SECONDS, acquire, renewed
from unimrg_trainer.storage import LocalStore, ObjectStore
from unimrg_trainer.storage.base import StorageError


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """A real store; the bucket's server has conditional writes and a clock."""
    if request.param == "folder":
        return LocalStore(tmp_path / "run")
    place: Place = request.getfixturevalue("s3_place")
    return place.store()


def refused(store: ObjectStore, owner: str = "another", attempt: int = 2) -> UserError:
    with pytest.raises(UserError, match="another training is using") as caught:
        acquire(store, owner, attempt)
    return caught.value


def test_a_second_training_is_told_who_holds_the_prefix_and_what_to_do(store: ObjectStore) -> None:
    acquire(store, "first", 1)
    error = refused(store)
    assert f"process {os.getpid()} on" in error.message and "attempt 1, since 20" in error.message
    assert store.uri in error.message and "spec.checkpoint.uri" in error.remedy
    assert error.exit_code is ExitCode.UNAVAILABLE
    assert len(store.list("lease/")) == 1


def test_a_released_lease_is_taken_at_once(store: ObjectStore) -> None:
    acquire(store, "first", 1).release()
    second = acquire(store, "another", 2)
    assert second.renew() is None
    assert [key for key, _ in store.list("lease/")] == ["lease/00000002.json"]


def test_a_later_attempt_of_the_same_job_takes_over_and_the_older_notices(store: ObjectStore) -> None:
    older = acquire(store, "job", 3)
    assert older.renew() is None
    later = acquire(store, "job", 4)
    taker = older.renew()
    assert taker is not None and "attempt 4" in taker
    assert later.renew() is None
    refused(store, "job", attempt=3)
    older.release()
    assert later.renew() is None, "who has lost the lease changes nothing"
    refused(store)


def test_a_lease_of_another_token_or_none_is_lost(dictionary_store: DictionaryStore) -> None:
    held = acquire(dictionary_store, "job", 3)
    content = json.loads(dictionary_store.get("lease/00000001.json"))
    dictionary_store.put("lease/00000001.json", json.dumps({**content, "token": "other", "attempt": 7}).encode())
    assert "attempt 7" in str(held.renew())
    dictionary_store.delete("lease/00000001.json")
    assert held.renew() == "another start"
    assert dictionary_store.list("lease/") == [], "it is not written again"


def test_of_several_starts_at_once_exactly_one_gets_it(store: ObjectStore) -> None:
    together = threading.Barrier(6)

    def attempt(number: int) -> bool:
        together.wait()
        try:
            acquire(store, f"job-{number}", number)
        except UserError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, range(6))) == 1


def hold(paused: Paused, root: str) -> None:
    acquire(LocalStore(Path(root)), "killed", 1)
    paused.reached("held")


def test_after_a_sigkill_on_this_machine_nobody_waits(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with start(hold, str(tmp_path)) as process:
        assert process.wait_until_paused() == "held"
        refused(store)
        process.kill()
    acquire(store, "another", 2)


def elsewhere(store: DictionaryStore) -> str:
    """Let the lease be of another machine, whose processes nobody sees from here."""
    (key,) = store.objects
    store.objects[key] = json.dumps({**json.loads(store.objects[key]), "machine": "another"}).encode()
    return key


def test_a_lease_of_another_machine_is_taken_over_once_it_is_stale(dictionary_store: DictionaryStore) -> None:
    first = acquire(dictionary_store, "first", 1)
    key = elsewhere(dictionary_store)
    dictionary_store.written[key] -= STALE_SECONDS - 20
    assert "try again in 20 s" in refused(dictionary_store).remedy
    first.renew()
    elsewhere(dictionary_store)
    assert "renewed 0 s ago" in refused(dictionary_store).message
    dictionary_store.written[key] -= STALE_SECONDS + 1
    acquire(dictionary_store, "another", 2)
    assert first.renew() is not None


def test_a_start_that_paused_while_others_came_and_went_is_refused(dictionary_store: DictionaryStore) -> None:
    passed = list[lease.Lease]()

    def before(action: str, key: str) -> None:
        if action == "put" and not passed:
            passed.append(acquire(dictionary_store, "came and went", 1))
            passed[0].release()
            passed.append(acquire(dictionary_store, "holder", 1))

    refused(WrappedStore(dictionary_store, before=before), "paused")
    assert list(dictionary_store.objects) == ["lease/00000002.json"]
    assert passed[1].renew() is None


LEASE = {
    "owner": "a",
    "attempt": 1,
    "since": "",
    "host": "b",
    "machine": "c",
    "process": 1,
    "token": "",
    "released": False,
}


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b'{"owner": 1}', json.dumps(LEASE).encode()])
def test_what_is_no_lease_keeps_nobody_out(dictionary_store: DictionaryStore, content: bytes) -> None:
    dictionary_store.put("lease/00000007.json", content)
    acquire(dictionary_store, "first", 1)
    assert list(dictionary_store.objects) == ["lease/00000008.json"]


def test_the_holder_renews_survives_an_outage_and_is_told_of_its_loss(
    dictionary_store: DictionaryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.01)
    seen, lost, takers = threading.Event(), threading.Event(), list[str]()
    errors = (StorageError("away"), StorageError("away"), MemoryError("a thread that ends would lose the lease"))
    outages = [raising(lambda error=error: error, "lease") for error in errors]

    def before(action: str, key: str) -> None:
        if len(dictionary_store.writes) > 1 and outages:
            outages.pop()(action, key)
        if len(dictionary_store.writes) > 2:
            seen.set()

    def on_loss(taker: str) -> None:
        takers.append(taker)
        lost.set()

    with renewed(WrappedStore(dictionary_store, before=before), "job", 1, on_loss):
        assert seen.wait(PATIENCE) and not outages
        acquire(dictionary_store, "job", 2)
        assert lost.wait(PATIENCE)
    assert "attempt 2" in takers[0]
    assert [key for key, _ in dictionary_store.list()] == ["lease/00000002.json"]
    refused(dictionary_store)


def test_the_end_of_the_block_leaves_the_release_to_the_caller(dictionary_store: DictionaryStore) -> None:
    with renewed(dictionary_store, "job", 1, lambda taker: None) as mine:
        refused(dictionary_store)
    refused(dictionary_store)
    mine.release()
    acquire(dictionary_store, "another", 2)
