"""What is particular to a store in a bucket: pieces, large objects, listings, and the settings of its client."""

from __future__ import annotations

import random
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.s3_answers import handled, without_header
from tests.support.s3_server import S3Server
from tests.support.s3_stores import Place
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.checkpoint.objects import BufferStream
from unimrg_trainer.storage import open_store, s3
from unimrg_trainer.storage.base import AlreadyExists
from unimrg_trainer.storage.s3 import S3Store

# Pieces


@pytest.mark.parametrize(
    ("offset", "length", "ranges"),
    [(0, None, 4), (0, 10, 4), (1, 7, 3), (2, None, 3), (9, 5, 1), (10, 3, 1), (4, 3, 1)],
)
def test_an_object_is_read_in_pieces_that_fit_together(
    s3_place: Place, offset: int, length: int | None, ranges: int
) -> None:
    store, content = s3_place.store(part_bytes=3), b"0123456789"
    store.put("a", content)
    with s3_place.counted() as requests:
        assert store.get("a", offset, length) == content[offset:][:length]
    assert len(requests.ranges) == requests.methods["GET"] == ranges


def test_a_small_object_costs_one_request_each_way(s3_place: Place) -> None:
    store = s3_place.store()
    with s3_place.counted() as requests:
        store.put("a", b"1")
        store.put("b", b"1", if_absent=True)
        store.get("a")
        store.size("a")
        store.delete("a")
        store.list()
    assert requests.methods == {"PUT": 2, "GET": 3, "DELETE": 1}


@pytest.mark.parametrize("later", [b"b" * 300, b"b" * 200, b"b" * 50, b""])
def test_an_object_replaced_between_its_pieces_is_read_as_one_version(s3_place: Place, later: bytes) -> None:
    store, replies = s3_place.store(part_bytes=100), list[int]()
    store.put("a", b"a" * 300)

    def replace(**_: Any) -> None:
        replies.append(1)
        if len(replies) == 1:
            store.put("a", later)

    with handled(s3_place, "after-call.s3.GetObject", replace), s3_place.counted() as requests:
        assert store.get("a") == later
    assert [wanted for _, wanted in requests.ranges[:1]] == ["bytes=0-99"]
    assert len(requests.ranges) >= 3, "a piece of the next version was asked for, and then the whole"


def test_pieces_of_a_service_that_knows_no_versions_are_not_joined_wrongly(s3_place: Place) -> None:
    store, replies = s3_place.store(part_bytes=100), list[int]()
    store.put("a", b"a" * 300)

    def shorten(**_: Any) -> None:
        replies.append(1)
        if len(replies) == 1:
            store.put("a", b"b" * 250)

    with without_header(s3_place, "GetObject", "If-Match"), handled(s3_place, "after-call.s3.GetObject", shorten):
        assert store.get("a") == b"b" * 250


@pytest.mark.parametrize("from_file", [False, True])
def test_a_large_object_travels_in_parts_and_comes_back_whole(s3_place: Place, tmp_path: Path, from_file: bool) -> None:
    content = random.Random(1).randbytes(s3.SINGLE_BYTES + 5)
    source = tmp_path / "large"
    source.write_bytes(content)
    store = s3_place.store()
    with s3_place.counted() as requests:
        store.put("a", source if from_file else content)
    assert requests.methods == {"POST": 2, "PUT": 3}
    assert store.size("a") == len(content)
    assert store.get("a") == content
    assert store.get("a", s3.PART_BYTES - 2, 4) == content[s3.PART_BYTES - 2 :][:4]


def test_a_large_stream_travels_in_parts_with_checksums_and_is_never_held_as_a_whole(s3_place: Place) -> None:
    content, part = random.Random(1).randbytes(25 << 20), 5 << 20
    stream, checksums = BufferStream([memoryview(content)] * 4), list[bool]()

    def note(request: Any, **_: Any) -> None:
        checksums.append(any(name.lower().startswith("x-amz-checksum-") for name in request.headers))

    tracemalloc.start()
    with handled(s3_place, "before-send.s3.UploadPart", note):
        s3_place.store(part_bytes=part).put("a", stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert checksums == [True] * 20
    assert peak < 18 * part, peak  # s3transfer queues 10 parts, besides those that travel
    store = s3_place.store()
    assert store.size("a") == stream.size
    assert store.get("a", 7 * part, 100) == content[2 * part :][:100]


def test_a_large_conditional_write_is_one_request(s3_place: Place) -> None:
    content, store = b"x" * (s3.SINGLE_BYTES + 1), s3_place.store()
    with s3_place.counted() as requests:
        store.put("a", content, if_absent=True)
    assert requests.methods == {"PUT": 1}
    with pytest.raises(AlreadyExists):
        store.put("a", content, if_absent=True)


# Listings and keys


def test_a_listing_is_whole_beyond_one_page(s3_place: Place) -> None:
    store = s3_place.store()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(f"many/{number:04d}", b""), range(1005)))
    assert store.list("many/") == [(f"many/{number:04d}", 0) for number in range(1005)]


# Settings


def test_what_the_job_leaves_open_comes_from_the_environment(
    s3_place: Place, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_place.store().put("a", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    monkeypatch.setenv("AWS_REGION", "eu-central-7")
    store = open_store(f"{s3_place.uri}/run")
    assert isinstance(store, S3Store)
    assert store.get("a") == b"1"
    assert store.client.meta.region_name == "eu-central-7"


def test_what_the_job_says_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_REGION", "eu-central-7")
    spec = StorageSpec(endpoint="http://s3.here/", region="there", addressing="Virtual", checksums="WhenRequired")
    client = s3.connect(spec)
    assert client.meta.endpoint_url == "http://s3.here/"
    assert client.meta.config.region_name == "there"
    assert client.meta.config.s3["addressing_style"] == "virtual"
    assert client.meta.config.request_checksum_calculation == "when_required"
    assert client.meta.config.response_checksum_validation == "when_required"
