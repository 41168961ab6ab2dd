"""Stores in a bucket of the tests' S3 server, with its keys in the environment, and a count of what they ask it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.s3_server import S3Server
from tests.support.tcp_gate import TcpGate
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.storage.s3 import PART_BYTES, S3Store
from unimrg_trainer.storage.s3_client import connect


@dataclass(frozen=True)
class Place:
    """A prefix that nobody else uses, and how to reach it."""

    uri: str
    storage: StorageSpec

    def store(self, folder: str = "run", part_bytes: int = PART_BYTES) -> S3Store:
        return S3Store(f"{self.uri}/{folder}", self.storage, part_bytes=part_bytes)

    def at(self, gate: TcpGate) -> Place:
        """The same prefix, reached through a gate before the server."""
        return Place(self.uri, self.storage.model_copy(update={"endpoint": gate.uri}))

    def through(self, gate: TcpGate, folder: str = "run", part_bytes: int = PART_BYTES) -> S3Store:
        """The same store, reached through a gate before the server."""
        return self.at(gate).store(folder, part_bytes)

    @contextmanager
    def counted(self) -> Iterator[Requests]:
        """Count the requests that this process sends in the block."""
        events, requests = connect(self.storage).meta.events, Requests()
        events.register("before-send.s3", requests.note)
        try:
            yield requests
        finally:
            events.unregister("before-send.s3", requests.note)


@dataclass
class Requests:
    """Requests by method, and the ranges that were read."""

    methods: Counter[str] = field(default_factory=Counter)
    ranges: list[tuple[str, str]] = field(default_factory=list)
    """(address, range) of every read of more than the first byte, by which an object is looked for."""

    def note(self, request: Any, **_: Any) -> None:
        """Take note of one request; retries count."""
        self.methods[request.method] += 1
        wanted = request.headers.get("Range", "bytes=0-0")
        wanted = wanted.decode() if isinstance(wanted, bytes) else wanted
        if wanted != "bytes=0-0":
            self.ranges.append((request.url.partition("?")[0], wanted))


@pytest.fixture(scope="session")
def s3_bucket(s3_server: S3Server) -> str:
    """A bucket for all tests of a session: the server takes seconds over the first objects of a new one."""
    return s3_server.bucket()


_places = itertools.count(1)


@pytest.fixture
def s3_place(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    """A prefix that nobody else uses; the environment has the writer's keys and a folder for this machine's part."""
    monkeypatch.setenv("UNIMRG_STATE", str(tmp_path_factory.mktemp("state")))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    storage = StorageSpec(endpoint=s3_server.endpoint, addressing="Path")
    return Place(f"s3://{s3_bucket}/place-{next(_places)}", storage)


@pytest.fixture
def s3_gate(s3_server: S3Server) -> Iterator[TcpGate]:
    """A relay in front of the server, open."""
    gate = TcpGate(s3_server.endpoint)
    gate.open()
    yield gate
    gate.close()
