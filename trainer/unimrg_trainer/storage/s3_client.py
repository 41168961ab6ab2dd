"""Clients of S3: one for each process, settings and environment, made when it is first asked for."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from unimrg_api.exit_codes import ExitCode
from unimrg_api.redaction import clean
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.storage.base import StorageError
from unimrg_trainer.storage.s3_errors import check_variables, of_client

CONNECT_SECONDS = 4
READ_SECONDS = 10
ATTEMPTS = 4
"""Requests of one call. An address that takes no connection is given up after at most 25 seconds, one that never
replies after 50; for `get` from one whose replies begin and then fall silent see `s3.BODY_ATTEMPTS`."""
CONNECTIONS = 32
DEFAULT_REGION = "us-east-1"

logging.getLogger("botocore.credentials").setLevel(logging.WARNING)  # it reports each time where it found keys

_clients: dict[tuple[object, ...], Any] = {}
_clients_lock = threading.Lock()


def connect(settings: StorageSpec) -> Any:
    """Return the client for these settings and this environment: one per process, for sockets outlive no fork.

    Raises StorageError (CONFIGURATION or CREDENTIALS) if no client can be made of them.
    """
    environment = frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))
    identity = (os.getpid(), settings, environment)
    with _clients_lock:
        if identity in _clients:
            return _clients[identity]
        check_variables(os.environ)
        # None leaves it to botocore, whose own variables and files then count
        checksums: Literal["when_required"] | None = "when_required" if settings.checksums == "WhenRequired" else None
        addressing: Any = None if settings.addressing == "Auto" else {"addressing_style": settings.addressing.lower()}
        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=CONNECTIONS,
            s3=addressing,
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
        )
        try:
            session = boto3.session.Session()
            region = settings.region or os.environ.get("AWS_REGION") or session.region_name or DEFAULT_REGION
            client = session.client("s3", endpoint_url=settings.endpoint, region_name=region, config=config)
        except BotoCoreError as error:
            raise of_client(error, "cannot make a client of S3") from error
        except ValueError as error:
            raise StorageError(
                f"cannot make a client of S3: {clean(str(error), 300)}",
                remedy="correct AWS_ENDPOINT_URL, or give spec.storage.endpoint",
                exit_code=ExitCode.CONFIGURATION,
            ) from error
        _clients[identity] = client
        return client


def forget(client: Any) -> None:
    """Let the next caller make a client anew, which reads the keys again, where they come from a file."""
    with _clients_lock:
        for identity, known in list(_clients.items()):
            if known is client:
                del _clients[identity]
