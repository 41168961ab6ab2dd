"""A store of objects in a bucket: AWS S3, or any service that speaks its protocol with conditional writes.

An object appears as a whole, by one request or by a multipart upload that becomes visible with its last one. It is
read in ranges, several at once if it is large; a range that breaks off is read again, and all of them are of one
version of the object. A writer that is killed may leave an unfinished multipart upload, which nobody sees; below the
folder of a checkpoint `sweep` aborts it, elsewhere the bucket's life-cycle rule for such uploads does.
"""

from __future__ import annotations

import builtins
import datetime
import io
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import urllib3
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError

from unimrg_api.exit_codes import ExitCode
from unimrg_api.redaction import clean
from unimrg_api.spec_platform import StorageSpec
from unimrg_api.texts import backoff
from unimrg_trainer.storage.base import AlreadyExists, Content, NotFound, StorageError, check_key, check_prefix, opened
from unimrg_trainer.storage.s3_client import connect, forget
from unimrg_trainer.storage.s3_errors import CHECKSUMS, UNREACHABLE, code_of, s3_errors_as_storage_errors, status_of

BODY_ATTEMPTS = 5
"""How often the content of one reply is asked for; botocore repeats requests only until their reply begins."""
PART_BYTES = 16 << 20
"""Size of the pieces in which large objects travel."""
SINGLE_BYTES = 32 << 20
"""Up to here an object is put by one request."""
PIECE_BYTES = 1 << 20
"""What is received at once: all but the last piece of a reply that breaks off is kept."""
PARALLEL = 8
"""Pieces of one object that travel at once."""
ALL = 1 << 62
"""More bytes than an object has."""

T = TypeVar("T")

_ADDRESS = re.compile(r"s3://([^/]+)(?:/(.*))?", re.DOTALL)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_BROKEN_OFF = (BotoCoreError, OSError, urllib3.exceptions.HTTPError)


class S3Store:
    """Objects below `s3://bucket/prefix`. Safe between threads; every process has a connection pool of its own.

    `settings` say how the service is spoken to; what they leave open, and the credentials, come from the environment
    as botocore reads it. Nothing is asked for before the first call.
    """

    def __init__(self, uri: str, settings: StorageSpec | None = None, *, part_bytes: int = PART_BYTES) -> None:
        match = _ADDRESS.fullmatch(uri)
        if match is None:
            remedy = "use s3://BUCKET/PREFIX"
            raise StorageError(f"{uri} names no bucket", remedy=remedy, exit_code=ExitCode.CONFIGURATION)
        self._bucket = match[1]
        prefix = (match[2] or "").rstrip("/")
        self._prefix = f"{check_prefix(prefix)}/" if prefix else ""
        self._settings = settings or StorageSpec()
        self._part_bytes = part_bytes
        self.uri = f"s3://{self._bucket}/{prefix}".rstrip("/")

    @property
    def client(self) -> Any:
        """This process's client (`boto3.client("s3")`)."""
        return connect(self._settings)

    def put(self, key: str, data: Content, *, if_absent: bool = False) -> None:
        place = self._place(key)
        with self._errors_as_storage_errors("write", key), opened(data) as body:
            size = body.seek(0, io.SEEK_END)

            def send() -> None:
                body.seek(0)
                if if_absent:
                    self.client.put_object(**place, Body=body, IfNoneMatch="*")
                elif size <= SINGLE_BYTES:
                    self.client.put_object(**place, Body=body)
                else:
                    self.client.upload_fileobj(body, *place.values(), Config=transfer)

            transfer = TransferConfig(
                multipart_threshold=SINGLE_BYTES,
                multipart_chunksize=self._part_bytes,
                max_concurrency=PARALLEL,
                preferred_transfer_client="classic",
            )
            # After a conflict nobody has won: another conditional writer is under way. An upload is not found if the
            # reply to its last request was lost, and is made anew.
            again = ("ConditionalRequestConflict", "NoSuchUpload")
            try:
                renewed = self._renewal()
                _repeated(send, lambda error: code_of(error) in again or renewed(error))
            except ClientError as error:
                if if_absent and status_of(error) == 412:
                    raise AlreadyExists(f"{self.uri}/{key} is there already") from None
                raise

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        wanted = ALL if length is None else max(length, 1)  # a range has at least one byte
        with self._errors_as_storage_errors("read", key):
            try:
                content = self._read(key, offset, wanted)
            except _Replaced:  # one request is of one version, however often there is a new one
                content = self._read_part(key, offset, wanted).content
        return content[:length]

    def get_version(self, key: str, version: str, offset: int = 0, length: int | None = None) -> bytes | None:
        """Return what `get` does, of the version that `versions` told; None if there is another by now, or none."""
        wanted = ALL if length is None else max(length, 1)
        try:
            with self._errors_as_storage_errors("read", key):
                return self._read(key, offset, wanted, version)[:length]
        except (_Replaced, NotFound):
            return None

    def size(self, key: str) -> int | None:
        found = self.find(key)
        return None if found is None else found.total

    def age(self, key: str) -> float | None:
        found = self.find(key)
        if found is None:
            return None
        if found.now is None or found.written is None:
            raise StorageError(
                f"cannot tell the age of {self.uri}/{key}: the service's reply lacks Date or Last-Modified",
                remedy="use a service that implements all of S3, and nothing before it that changes replies",
                exit_code=ExitCode.CONFIGURATION,
            )
        return (parsedate_to_datetime(found.now) - found.written).total_seconds()

    def find(self, key: str) -> Part | None:
        """Return the object's first byte, length and version; None if there is none. HEAD would not give a reason."""
        try:
            with self._errors_as_storage_errors("read", key):
                return self._read_part(key, 0, 1)
        except NotFound:
            return None

    def versions(self, prefix: str = "") -> list[tuple[str, int, str]]:
        """Return what `list` does, each with the version (ETag) of its object."""
        found: list[tuple[str, int, str]] = []
        start = len(self._prefix)
        with self._errors_as_storage_errors("list", check_prefix(prefix)):
            for page in self._pages(prefix):
                found += [(entry["Key"][start:], entry["Size"], entry["ETag"]) for entry in page.get("Contents", [])]
        # keys with a slash at the end are what consoles show as empty folders
        return sorted(entry for entry in found if entry[0] and not entry[0].endswith("/"))

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        return [(key, size) for key, size, _ in self.versions(prefix)]

    def folders(self) -> builtins.list[str]:
        start = len(self._prefix)
        with self._errors_as_storage_errors("list", ""):
            found = [
                entry["Prefix"][start:-1]
                for page in self._pages("", Delimiter="/")
                for entry in page.get("CommonPrefixes", [])
            ]
        return sorted(name for name in found if name)

    def delete(self, key: str) -> None:
        with self._errors_as_storage_errors("delete", key):
            try:
                self.client.delete_object(**self._place(key))
            except ClientError as error:
                if code_of(error) != "NoSuchKey":
                    raise

    def sweep(self, folder: str) -> None:
        with self._errors_as_storage_errors("abort uploads below", check_prefix(folder)):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix + folder
            )
            for page in pages:
                for upload in page.get("Uploads", []):
                    self.client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )

    def _pages(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        """Yield the pages of a listing."""
        pages = self.client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix, **options):
            if "IsTruncated" not in page:
                # Python's HTTP client takes a reply whose connection breaks in the headers for one without the rest
                raise ValueError("it was cut short, or is not of S3")
            yield page

    def _renewal(self) -> Callable[[Exception], bool]:
        """Return what says, once, that a call is worth repeating after this error: the keys had expired."""
        client, left = self.client, [True]

        def renewed(error: Exception) -> bool:
            if code_of(error) not in EXPIRED or not left:
                return False
            left.clear()
            forget(client)
            return True

        return renewed

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": check_key(self._prefix + check_key(key))}

    def _errors_as_storage_errors(self, action: str, key: str) -> AbstractContextManager[None]:
        return s3_errors_as_storage_errors(action, f"{self.uri}/{key}", self.client)

    def _read(self, key: str, offset: int, length: int, version: str | None = None) -> bytes:
        """Read a range of one version of the object; raises _Replaced if there is another by now."""
        part = self._part_bytes
        first = self._read_part(key, offset, min(part, length), version)
        end = min(first.total, offset + length)
        starts = range(offset + len(first.content), end, part)
        if not starts:
            return first.content
        with ThreadPoolExecutor(min(PARALLEL, len(starts)), thread_name_prefix="s3") as pool:
            rest = pool.map(lambda at: self._read_part(key, at, min(part, end - at), first.version).content, starts)
            content = b"".join([first.content, *rest])
        if len(content) != end - offset:
            raise _Replaced
        return content

    def _read_part(self, key: str, start: int, count: int, version: str | None = None) -> Part:
        """Read `count` bytes, fewer at the end of the object, with one request, and one more for what is missing
        whenever a reply breaks off."""
        pieces: list[bytes] = []
        same_as = version

        def receive() -> Part:
            nonlocal same_as
            begin = start + sum(map(len, pieces))
            condition = {} if same_as is None else {"IfMatch": same_as}
            try:
                answer = self.client.get_object(
                    **self._place(key), Range=f"bytes={begin}-{start + count - 1}", **condition
                )
            except ClientError as error:
                if version is None and same_as is not None and status_of(error) == 412:
                    same_as = None
                    pieces.clear()
                    raise _BrokenOff("there is another version now") from error
                raise
            try:
                with closing(answer["Body"]):  # a reply that is refused must not hold its connection
                    part = _received(answer, begin, start + count - begin, pieces, f"cannot read {self.uri}/{key}")
                    return replace(part, content=pieces[0] if len(pieces) == 1 else b"".join(pieces))
            except _BROKEN_OFF as error:
                if pieces:
                    same_as = str(answer["ETag"])
                raise _BrokenOff(error) from error

        renewed = self._renewal()
        try:
            return _repeated(receive, lambda error: isinstance(error, _BrokenOff) or renewed(error))
        except ClientError as error:
            if status_of(error) == 412 or (status_of(error) == 416 and version is not None):
                raise _Replaced from None
            if status_of(error) == 416:
                return Part(b"", 0, "")  # the object ends before
            raise
        except _BrokenOff as error:
            raise StorageError(
                f"cannot read {self.uri}/{key} at {clean(self.client.meta.endpoint_url)}: the reply broke off"
                f" {BODY_ATTEMPTS} times ({clean(str(error), 200)})",
                remedy=CHECKSUMS if isinstance(error.__cause__, FlexibleChecksumError) else UNREACHABLE,
            ) from error


@dataclass(frozen=True)
class Part:
    """A range that was read: its bytes, the object's length, and which version of the object it is of.

    `now` and `written` are when it was read and when the object was stored, by the service's clock, where it tells.
    """

    content: bytes
    total: int
    version: str
    now: str | None = field(default=None, compare=False)
    written: datetime.datetime | None = field(default=None, compare=False)


class _BrokenOff(Exception):  # noqa: N818 - a condition, handled in this module
    """The content of a reply did not come as it was announced."""


class _Replaced(Exception):  # noqa: N818 - a condition, handled in this module
    """The object is no longer the one whose first part was read."""


def _received(answer: dict[str, Any], start: int, count: int, pieces: list[bytes], what: str) -> Part:
    """Append the content of a reply to `pieces`; return what is said about it.

    Raises OSError, or as botocore does, if it is not what was asked for; what came until then is in `pieces`.
    """
    if answer["ResponseMetadata"]["HTTPStatusCode"] == 200 and "ContentRange" not in answer:
        if answer.get("ContentLength") == 0:
            return Part(b"", 0, "")  # an empty object has no ranges
        raise StorageError(
            f"{what}: asked for a range, this service answers with the whole object",
            remedy="use a service that implements all of S3, and nothing before it that changes requests",
            exit_code=ExitCode.CONFIGURATION,
        )
    match = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
    if match is None or int(match[1]) != start or "ETag" not in answer:
        raise OSError(f"asked for bytes from {start}, got {answer.get('ContentRange') or 'no range'}")
    total = int(match[3])
    body = answer["Body"]
    left = whole = min(count, total - start)
    while left and (piece := body.read(min(left, PIECE_BYTES))):
        pieces.append(piece)
        left -= len(piece)
    if left:
        raise OSError(f"{whole - left} of {whole} bytes came")
    try:
        body.read()  # at the end botocore verifies the checksum, if there is one
    except BaseException:
        pieces.clear()
        raise
    now = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return Part(b"", total, str(answer["ETag"]), now, answer.get("LastModified"))


EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")


def _repeated(call: Callable[[], T], is_worth_it: Callable[[Exception], bool]) -> T:
    """Call until it returns, BODY_ATTEMPTS times at most, with growing pauses that are never the same twice."""
    for number in range(1, BODY_ATTEMPTS):
        try:
            return call()
        except Exception as error:
            if not is_worth_it(error):
                raise
            time.sleep(backoff(0.2, 10.0, number, random.random()))
    return call()
