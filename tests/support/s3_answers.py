"""Replies and requests of a client changed on their way, and what a store makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from tests.support.s3_stores import Place
from unimrg_trainer.storage.base import StorageError
from unimrg_trainer.storage.s3_client import connect


def failure(call: Callable[[], object]) -> StorageError:
    """The error that the call ends with; it must say what can be done."""
    with pytest.raises(StorageError) as caught:
        call()
    assert caught.value.remedy
    return caught.value


@contextmanager
def handled(place: Place, event: str, handler: Callable[..., Any]) -> Iterator[None]:
    """Call `handler` at a botocore event of this process's client in the block."""
    events = connect(place.storage).meta.events
    events.register_last(event, handler)
    try:
        yield
    finally:
        events.unregister(event, handler)


@contextmanager
def answering(
    place: Place, operation: str, status: int, code: str = "", *, times: int = 1000, pause: int = 0
) -> Iterator[list[str]]:
    """Answer the next `times` requests for `operation`, behind `pause` others, and list their addresses.

    Without a code the reply has no content, as those to HEAD.
    """
    seen: list[str] = []
    answered: list[str] = []

    def answer(request: Any, **_: Any) -> Any:
        seen.append(request.url)
        if len(seen) <= pause or len(answered) >= times:
            return None
        answered.append(request.url)
        response: Any = AWSResponse(request.url, status, {}, None)  # type: ignore[arg-type]
        response._content = f"<Error><Code>{code}</Code><Message>made up</Message></Error>".encode() if code else b""
        return response

    with handled(place, f"before-send.s3.{operation}", answer):
        yield answered


def without_header(place: Place, operation: str, name: str) -> Any:
    """A block in which requests for `operation` lack a header: as a service sees them that does not know it."""

    def remove(params: dict[str, Any], **_: Any) -> None:
        params["headers"].pop(name, None)

    return handled(place, f"before-call.s3.{operation}", remove)
