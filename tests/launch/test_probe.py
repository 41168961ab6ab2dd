"""What the check finds out about a store before anything rests on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.dictionary_store import DictionaryStore
from tests.support.faulty_stores import LyingStore, WrappedStore
from tests.support.s3_answers import without_header
from tests.support.s3_stores import Place
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.launch.inputs import probe
from unimrg_trainer.storage import LocalStore, ObjectStore
from unimrg_trainer.storage.base import AlreadyExists


def refused(store: ObjectStore) -> str:
    with pytest.raises(UserError) as caught:
        probe(store)
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert store.list() == [], "the probe is left behind"
    return caught.value.message


def test_every_kind_of_store_passes_and_nothing_is_left(s3_place: Place, tmp_path: Path) -> None:
    for store in (DictionaryStore(), LocalStore(tmp_path), s3_place.store()):
        probe(store)
        assert store.list() == []


def test_a_service_without_conditional_writes_or_ranges_is_refused(s3_place: Place) -> None:
    with without_header(s3_place, "PutObject", "If-None-Match"):
        message = refused(s3_place.store())
    assert "this service has no conditional writes, which checkpoints require" in message
    assert f"{s3_place.uri}/run" in message
    with without_header(s3_place, "GetObject", "Range"):
        assert "range" in refused(s3_place.store())


def test_a_store_that_counts_ranges_from_elsewhere_is_refused() -> None:
    class Shifted(DictionaryStore):
        def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
            return super().get(key, 0, length)

    assert "other bytes" in refused(Shifted())
    assert "other bytes" in refused(LyingStore(DictionaryStore(), "probe/"))


def test_a_probe_whose_first_reply_is_lost_passes() -> None:
    lost: list[str] = []

    def lose(action: str, key: str) -> None:
        if action == "put" and not lost:
            lost.append(key)
            raise AlreadyExists(key)

    probe(WrappedStore(DictionaryStore(), after=lose))
    assert lost
