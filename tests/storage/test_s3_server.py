"""The S3 server of the tests keeps the promises that the commit protocol stands on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.s3_server import S3Server


def _code(request: Callable[[], Any]) -> str:
    try:
        request()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "done"


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_of_eight_writers_at_once_exactly_one_creates_an_object(s3_server: S3Server, size: int) -> None:
    bucket = s3_server.bucket()
    clients = [s3_server.client() for _ in range(8)]
    with ThreadPoolExecutor(len(clients)) as threads:
        for key in ("one", "two", "three", "four", "five"):

            def create(number: int, key: str = key) -> str:
                body = bytes([number]) * size
                return _code(lambda: clients[number].put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*"))

            codes = list(threads.map(create, range(len(clients))))
            assert sorted(codes) == ["PreconditionFailed"] * 7 + ["done"]
            body = clients[0].get_object(Bucket=bucket, Key=key)["Body"].read()
            assert body == bytes([codes.index("done")]) * size


def test_an_object_is_replaced_only_by_who_knows_its_tag(s3_server: S3Server) -> None:
    bucket, client = s3_server.bucket(), s3_server.client()
    tag = client.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
    assert _code(lambda: client.put_object(Bucket=bucket, Key="k", Body=b"2", IfMatch=tag)) == "done"
    assert _code(lambda: client.put_object(Bucket=bucket, Key="k", Body=b"3", IfMatch=tag)) == "PreconditionFailed"
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"2"


def test_wrong_keys_a_readers_keys_and_a_missing_bucket_are_refused(s3_server: S3Server) -> None:
    bucket, client = s3_server.bucket(), s3_server.client()
    client.put_object(Bucket=bucket, Key="k", Body=b"1")
    reader, stranger = s3_server.client(reader=True), s3_server.client(secret_key="wrong")
    assert _code(lambda: reader.get_object(Bucket=bucket, Key="k")) == "done"
    assert _code(lambda: reader.put_object(Bucket=bucket, Key="k", Body=b"2")) == "AccessDenied"
    assert _code(lambda: stranger.get_object(Bucket=bucket, Key="k")) == "SignatureDoesNotMatch"
    assert _code(lambda: client.put_object(Bucket="nobodys", Key="k", Body=b"1")) == "NoSuchBucket"


def test_objects_survive_kill_9_under_the_same_address(s3_server: S3Server) -> None:
    bucket, client = s3_server.bucket(), s3_server.client()
    client.put_object(Bucket=bucket, Key="k", Body=b"kept")
    s3_server.restart()
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"
