"""A real S3 server on loopback: SeaweedFS with signed requests, which may be killed and started again on its data."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.support.guarded import GuardedProcess
from tests.support.ports import free_port

READY_SECONDS = 60.0
REGION = "us-east-1"


class S3Server:
    """`start` and `kill` may alternate: endpoint, keys and objects stay. Its log is `FOLDER/server.log`."""

    access_key, secret_key = "tests-writer", "writers-secret"
    """May do everything."""
    reader_access_key, reader_secret_key = "tests-reader", "readers-secret"
    """May list and read; every write is refused with AccessDenied (403)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        # The S3 gateway is one of four services in one process, each with a gRPC port of its own.
        self._ports = {name: free_port() for name in ("master", "volume", "filer")}
        self._grpc_ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
        self._process: GuardedProcess | None = None
        self._buckets = itertools.count(1)

    def start(self) -> None:
        """Start and wait until objects can be written; raises RuntimeError with the end of the log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "data").mkdir(exist_ok=True)
        (self.folder / "identities.json").write_text(json.dumps({"identities": self._identities()}))
        flags = [
            f"-dir={self.folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            f"-s3.config={self.folder / 'identities.json'}",
            f"-s3.port={self.port}",
            "-s3.port.lance=0",
            "-s3.port.iceberg=0",
            *(f"-{name}.port={port}" for name, port in self._ports.items()),
            *(f"-{name}.port.grpc={port}" for name, port in self._grpc_ports.items()),
            # As elsewhere: a bucket that nobody created is an error.
            "-s3.autoCreateBucket=false",
            "-master.telemetry=false",
            # There is nobody to vote with; the volume server tries again only 5 s after it found no leader.
            "-master.electionTimeout=100ms",
            "-master.heartbeatInterval=20ms",
            # Volumes are allotted per bucket; small ones, so that many buckets fit.
            "-master.volumeSizeLimitMB=64",
            "-volume.max=1000",
        ]
        weed = Path(sys.executable).with_name("weed")
        self._process = GuardedProcess(
            [weed, "-logtostderr", "server", *flags], self.folder / "server.log", folder=self.folder
        )
        self._process.wait_until(self._writes, READY_SECONDS)

    def kill(self) -> None:
        """End it at once, as a lost machine would."""
        if self._process is not None:
            self._process.kill()
            self._process = None
            # It puts sockets there and leaves them behind.
            for port in (self.port, *self._ports.values(), *self._grpc_ports.values()):
                for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                    socket.unlink()

    def restart(self) -> None:
        """SIGKILL, and start again on the same port with the same data."""
        self.kill()
        self.start()

    def client(self, *, reader: bool = False, secret_key: str | None = None) -> Any:
        """Return a boto3 client that does not retry: the writer's, the reader's, or one with a wrong secret."""
        access, secret = (
            (self.reader_access_key, self.reader_secret_key) if reader else (self.access_key, self.secret_key)
        )
        config = Config(
            s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=20
        )
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=access,
            aws_secret_access_key=secret_key or secret,
            config=config,
        )

    def bucket(self, name: str = "") -> str:
        """Create a bucket and return its name; without a name one that nobody has."""
        name = name or f"bucket-{os.getpid()}-{next(self._buckets)}"
        self.client().create_bucket(Bucket=name)
        return name

    def _identities(self) -> list[dict[str, Any]]:
        def identity(name: str, access: str, secret: str, actions: list[str]) -> dict[str, Any]:
            return {"name": name, "credentials": [{"accessKey": access, "secretKey": secret}], "actions": actions}

        everything = ["Admin", "Read", "Write", "List", "Tagging"]
        return [
            identity("writer", self.access_key, self.secret_key, everything),
            identity("reader", self.reader_access_key, self.reader_secret_key, ["Read", "List"]),
        ]

    def _writes(self) -> bool:
        client = self.client()
        try:
            with contextlib.suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="probe", Body=b"x")
        except (BotoCoreError, ClientError):
            return False
        return True


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that all tests of a session share; use a bucket of your own."""
    server = S3Server(tmp_path_factory.mktemp("s3-server"))
    server.start()
    yield server
    server.kill()
